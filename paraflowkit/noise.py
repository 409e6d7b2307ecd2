"""Noise processes x_t = alpha(t) * data + sigma(t) * noise, and conversions between what networks predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

__all__ = ["EDM", "VE", "VP", "FlowMatching", "NoiseSchedule", "Prediction", "convert"]


class Prediction(str, Enum):
    """What a network's output estimates: the data, the noise, ``v`` [1] or the velocity dx/dt of the flow [2].

    [1] Salimans and Ho, Progressive Distillation, ICLR 2022, ``v = alpha * noise - sigma * data``.
    [2] Lipman et al., Flow Matching, ICLR 2023, ``velocity = alpha' * data + sigma' * noise``.
    """

    DATA = "data"
    NOISE = "noise"
    V = "v"
    VELOCITY = "velocity"


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

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives (alpha'(t), sigma'(t)). Raises ValueError where the process is known at discrete times only."""
        raise ValueError(
            f"{type(self).__name__} is defined at discrete times, so it has no velocity: predict data, noise or v."
        )

    def initial_scale(self) -> float:
        """Standard deviation of the state at :attr:`start`, by which unit noise is multiplied."""
        return float(self.sigma(torch.tensor(self.start, dtype=torch.float64)))


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

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t, dtype=torch.float64)
        return one, -one


@dataclass(frozen=True)
class VP(NoiseSchedule):
    """Variance-preserving process of DDPM, alpha² + sigma² = 1, at the integer times 0 … ``steps`` - 1 and -1 (data).

    Attributes:
        schedule: ``linear``, ``scaled_linear`` or ``cosine`` betas, as in diffusers.
        steps: training steps. beta_start, beta_end: first and last beta of the linear schedules.
        final_alpha_one: the node -1 is clean data (diffusers' ``set_alpha_to_one``), else as noisy as time 0.

    Times are rounded to the nearest training step. Source: Ho et al., NeurIPS 2020, section 2; cosine: Nichol and
    Dhariwal, Improved DDPM, ICML 2021, equation 17.
    """

    schedule: str = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    final_alpha_one: bool = True

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "scaled_linear", "cosine"):
            raise ValueError(f"VP schedule {self.schedule!r} is unknown: use linear, scaled_linear or cosine.")
        if self.steps < 1:
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
            return torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        if self.schedule == "scaled_linear":
            return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float64).square()
        edges = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        bar = torch.cos((edges + 0.008) / 1.008 * (torch.pi / 2)).square()
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """The product of (1 - beta) up to time t, float64. Raises ValueError outside -1 … steps - 1."""
        index = t.to(torch.float64).round().long()
        if bool((index < -1).any()) or bool((index >= self.steps).any()):
            raise ValueError(f"VP times must lie in -1 … {self.steps - 1}; got {t.min().item()} … {t.max().item()}.")
        bars = (1 - self.betas()).cumprod(0)
        last = bars.new_ones(1) if self.final_alpha_one else bars[:1]
        return torch.cat([last, bars]).to(index.device)[index + 1]

    def alpha(self, t: Tensor) -> Tensor:
        return self.alpha_bar(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alpha_bar(t)).sqrt()

    def initial_scale(self) -> float:
        """1: DDPM starts from unit noise, although its first state holds a trace of data."""
        return 1.0


@dataclass(frozen=True)
class VE(NoiseSchedule):
    """Variance-exploding process: alpha = 1, and time *is* sigma, from ``sigma_max`` down to 0.

    Source: Song et al., Score-Based Generative Modeling through SDEs, ICLR 2021, section 3.4; Karras et al. 2022.
    """

    sigma_max: float = 80.0
    sigma_min: float = 0.002

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
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

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t, dtype=torch.float64), torch.ones_like(t, dtype=torch.float64)


@dataclass(frozen=True)
class EDM(VE):
    """VE with the preconditioning of EDM, so that one unit-variance network serves every noise level.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022, table 1.
    """

    sigma_data: float = 0.5

    def preconditioning(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in, c_noise): data estimate = c_skip x + c_out F(c_in x, c_noise)."""
        sigma, s2 = self.sigma(t), self.sigma_data**2
        total = sigma.square() + s2
        return s2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt(), sigma.clamp(min=1e-20).log() / 4


def _data_weights(noise: NoiseSchedule, kind: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
    """(p, q) such that the data estimate is p * x + q * output."""
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    if kind is Prediction.DATA:
        return zero, one
    if kind is Prediction.NOISE:
        return one / alpha, -sigma / alpha
    if kind is Prediction.V:
        total = alpha.square() + sigma.square()
        return alpha / total, -sigma / total
    da, ds = noise.slopes(t)
    wronskian = da * sigma - ds * alpha
    return -ds / wronskian, sigma / wronskian


def convert(
    output: Tensor, x: Tensor, t: Tensor, noise: NoiseSchedule, source: Prediction, target: Prediction
) -> Tensor:
    """Turn one kind of prediction into another.

    Args:
        output, x: network output and its input, ``(rows, *shape)``.
        t: float64 times ``(rows,)``.
        noise: the process; source, target: what ``output`` is and what is wanted.

    Returns:
        The converted prediction, of ``output``'s dtype. The coefficients are float64 scalars per row.

    Raises:
        ValueError: a velocity is asked of a process known at discrete times only.
    """
    if source is target:
        return output
    p, q = _data_weights(noise, source, t)
    if target is Prediction.DATA:
        u, w = p, q
    else:
        # The target's own data weights, solved for its output: (data - p' x) / q'. Composing coefficients in float64
        # before touching the states keeps noise -> velocity exact where alpha is tiny.
        pt, qt = _data_weights(noise, target, t)
        u, w = (p - pt) / qt, q / qt
    shape = (-1,) + (1,) * (x.ndim - 1)
    return u.to(x.dtype).view(shape) * x + w.to(x.dtype).view(shape) * output
