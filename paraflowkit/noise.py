"""Noise processes x_t = alpha(t) * data + sigma(t) * noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

#: Stands in for alpha² = 0 where sigma / alpha must be finite; diffusers uses the same.
SMALLEST_BAR = 2.0**-24

__all__ = ["EDM", "VE", "VP", "FlowMatching", "Levels", "NoiseSchedule"]


@dataclass(frozen=True)
class Levels:
    """alpha and sigma at some times, and where the process has a velocity their derivatives; float64, one shape.

    They are kept beside the times because samplers round and interpolate: a scheduler may tell the network time 137 and
    step from a noise level that lies between those of times 137 and 138.
    """

    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor | None = None
    dsigma: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> Levels:
        """The levels at some of the times; they move to the device of a tensor index."""

        def pick(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            return (value.to(index.device) if isinstance(index, Tensor) else value)[index]

        alpha, sigma = pick(self.alpha), pick(self.sigma)
        assert alpha is not None  # both are always there; this is for the type checker
        assert sigma is not None
        return Levels(alpha, sigma, pick(self.dalpha), pick(self.dsigma))

    def then(self, other: Levels) -> Levels:
        """These levels and the other's behind them, in vectors; without derivatives where either has none."""

        def join(left: Tensor | None, right: Tensor | None) -> Tensor | None:
            return None if left is None or right is None else torch.cat([left, right])

        return Levels(
            torch.cat([self.alpha, other.alpha]),
            torch.cat([self.sigma, other.sigma]),
            join(self.dalpha, other.dalpha),
            join(self.dsigma, other.dsigma),
        )

    @property
    def slopes(self) -> tuple[Tensor, Tensor]:
        """(alpha', sigma'). Raises ValueError where the process has none."""
        if self.dalpha is None or self.dsigma is None:
            raise ValueError("A process of discrete times has no velocity: predict data, noise or v.")
        return self.dalpha, self.dsigma


class NoiseSchedule(ABC):
    """An interpolant between noise (first node of a grid) and data (last node).

    All methods take float64 times of any shape and return float64 tensors of that shape.
    """

    @property
    @abstractmethod
    def start(self) -> float:
        """Time at which sampling starts."""

    @property
    @abstractmethod
    def end(self) -> float:
        """Time at which sampling ends."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The share of the data in x_t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise in x_t."""

    @abstractmethod
    def time_of(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha is ``ratio``, 0 … infinity; the inverse of the two above."""

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives (alpha'(t), sigma'(t)). Raises ValueError where the process is known at discrete times only."""
        raise ValueError(
            f"{type(self).__name__} is defined at discrete times, so it has no velocity: predict data, noise or v."
        )

    def levels(self, t: Tensor) -> Levels:
        """alpha, sigma and, where they exist, their derivatives."""
        try:
            dalpha, dsigma = self.slopes(t)
        except ValueError:
            return Levels(self.alpha(t), self.sigma(t))
        return Levels(self.alpha(t), self.sigma(t), dalpha, dsigma)

    def initial_scale(self, alpha: float, sigma: float, data_std: float) -> float:
        """Standard deviation of a start state, by which unit noise is multiplied: that of states at these levels.

        A start without data (alpha = 0) is noise of deviation sigma; where the first node holds some data, its share
        of the deviation is made up by noise too.
        """
        return math.hypot(sigma, alpha * data_std)


@dataclass(frozen=True)
class FlowMatching(NoiseSchedule):
    """Rectified-flow interpolant: alpha = t, sigma = 1 - t, for t from 0 (noise) to 1 (data).

    Diffusers and the papers of Stable Diffusion 3 and Flux count the other way round; their sigma is our ``1 - t``.
    Source: Liu et al., Flow Straight and Fast, ICLR 2023, equation 1.
    """

    @property
    def start(self) -> float:
        return 0.0

    @property
    def end(self) -> float:
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return t.to(torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        return 1.0 - t.to(torch.float64)

    def time_of(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + ratio)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t, dtype=torch.float64)
        return one, -one


@dataclass(frozen=True)
class VP(NoiseSchedule):
    """Variance-preserving process of DDPM, alpha² + sigma² = 1, at the times 0 … ``steps`` - 1 and -1 (data).

    Attributes:
        schedule: ``linear``, ``scaled_linear``, ``cosine`` or ``sigmoid`` betas, as in diffusers.
        steps: training steps. beta_start, beta_end: first and last beta of all but the cosine schedule.
        final_alpha_one: the node -1 is clean data (diffusers' ``set_alpha_to_one``), else as noisy as time 0.
        zero_terminal_snr: alphas rescaled so that the last training step holds no data (``rescale_betas_zero_snr``).

    Between training steps log(sigma / alpha) is interpolated, which makes :meth:`time_of` its inverse. Source: Ho et
    al., NeurIPS 2020, section 2; cosine: Nichol and Dhariwal, Improved DDPM, ICML 2021, equation 17; sigmoid: Xu et
    al., GeoDiff, ICLR 2022; zero terminal SNR: Lin et al., Common Diffusion Noise Schedules and Sample Steps Are
    Flawed, WACV 2024, algorithm 1.
    """

    schedule: str = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    final_alpha_one: bool = True
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "scaled_linear", "cosine", "sigmoid"):
            raise ValueError(f"VP schedule {self.schedule!r} is unknown: use linear, scaled_linear, cosine or sigmoid.")
        if not 1 <= self.steps < math.inf or int(self.steps) != self.steps:
            raise ValueError(f"VP needs at least one training step, got {self.steps}.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"VP needs 0 < beta_start <= beta_end < 1, got {self.beta_start} and {self.beta_end}.")

    @property
    def start(self) -> float:
        return float(self.steps - 1)

    @property
    def end(self) -> float:
        return -1.0

    def betas(self) -> Tensor:
        """The betas, float64 ``(steps,)``."""
        if self.schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        elif self.schedule == "scaled_linear":
            betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float64).square()
        elif self.schedule == "sigmoid":
            place = torch.linspace(-6, 6, self.steps, dtype=torch.float64).sigmoid()
            betas = place * (self.beta_end - self.beta_start) + self.beta_start
        else:
            edges = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            bar = torch.cos((edges + 0.008) / 1.008 * (torch.pi / 2)).square()
            betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        if not self.zero_terminal_snr:
            return betas
        root = (1 - betas).cumprod(0).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        bars = root.square()
        return 1 - torch.cat([bars[:1], bars[1:] / bars[:-1]])

    def training_bars(self) -> Tensor:
        """The products of (1 - beta) of all training steps, float64 ``(steps,)``."""
        return (1 - self.betas()).cumprod(0)

    def _finite_log_ratios(self) -> Tensor:
        """log(sigma / alpha) of the training steps. At zero terminal SNR the last is infinite, and is given a finite
        place, that of alpha² = 2**-24 as in diffusers, so that the times before it can be told apart."""
        bars = self.training_bars()
        if self.zero_terminal_snr and self.steps > 1:
            bars[-1] = min(SMALLEST_BAR, float(bars[-2]) / 2)
        return (1 / bars - 1).log() / 2

    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha², float64. Raises ValueError outside -1 … steps - 1 and strictly between -1 and 0."""
        t = t.to(torch.float64)
        whole = t.round()
        if bool((whole < -1).any()) or bool((t > self.steps - 1 + 1e-6).any()):
            raise ValueError(f"VP times must lie in -1 … {self.steps - 1}; got {t.min().item()} … {t.max().item()}.")
        between = (t - whole).abs() > 1e-9
        if bool((between & (t < 0)).any()):
            raise ValueError("VP times between -1 and 0 have no noise level: use 0, or -1 for clean data.")
        bars = self.training_bars().to(t.device)
        last = bars.new_ones(1) if self.final_alpha_one else bars[:1]
        exact = torch.cat([last, bars])[whole.long() + 1]
        if not bool(between.any()):
            return exact
        log_ratio = self._finite_log_ratios().to(t.device)
        low = t.floor().long().clamp(0, self.steps - 2)
        share = t - low
        log_ratio = torch.lerp(log_ratio[low], log_ratio[low + 1], share)
        return torch.where(between, 1 / (1 + (2 * log_ratio).exp()), exact)

    def alpha(self, t: Tensor) -> Tensor:
        return self.alpha_bar(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alpha_bar(t)).sqrt()

    def time_of(self, ratio: Tensor) -> Tensor:
        """Clamped to the training steps; 0, the clean end, is time -1."""
        ratio = ratio.to(torch.float64)
        known = self._finite_log_ratios().to(ratio.device)
        value = ratio.clamp(1e-300, 1e300).log()
        high = torch.searchsorted(known, value.contiguous()).clamp(1, self.steps - 1)
        share = ((value - known[high - 1]) / (known[high] - known[high - 1])).clamp(0, 1)
        return torch.where(ratio <= 0, -1.0, high - 1 + share)

    def initial_scale(self, alpha: float, sigma: float, data_std: float) -> float:
        """1: states of data of unit deviation have it at every level, and DDPM starts so whatever the data."""
        return 1.0


@dataclass(frozen=True)
class VE(NoiseSchedule):
    """Variance-exploding process: alpha = 1, and time *is* sigma, from ``sigma_max`` down to 0.

    Source: Song et al., Score-Based Generative Modeling through SDEs, ICLR 2021, section 3.4; Karras et al. 2022.
    """

    sigma_max: float = 80.0
    sigma_min: float = 0.002

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"VE needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}.")

    @property
    def start(self) -> float:
        return self.sigma_max

    @property
    def end(self) -> float:
        return 0.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        return t.to(torch.float64)

    def time_of(self, ratio: Tensor) -> Tensor:
        return ratio.to(torch.float64)

    def initial_scale(self, alpha: float, sigma: float, data_std: float) -> float:
        """sigma, as in EDM: the first level is meant to drown the data."""
        return sigma

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t, dtype=torch.float64), torch.ones_like(t, dtype=torch.float64)


@dataclass(frozen=True)
class EDM(VE):
    """VE with the preconditioning of EDM, so that one unit-variance network serves every noise level.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022, table 1.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_data < math.inf:
            raise ValueError(f"EDM needs a positive sigma_data, got {self.sigma_data}.")

    def preconditioning(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in, c_noise): data estimate = c_skip x + c_out F(c_in x, c_noise)."""
        sigma, s2 = self.sigma(t), self.sigma_data**2
        total = sigma.square() + s2
        return s2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt(), sigma.clamp(min=1e-20).log() / 4
