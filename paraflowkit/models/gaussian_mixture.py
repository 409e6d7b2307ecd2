"""A Gaussian mixture: a model whose prediction is exact, for tests and for trying things out."""

from __future__ import annotations

import torch
from torch import Tensor

from paraflowkit.core.model import VelocityModel
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.noise import VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.prediction import Prediction, convert


class GaussianMixture(VelocityModel):
    """The exact posterior mean of data drawn from a mixture of isotropic Gaussians, class-conditional.

    With x = alpha·data + sigma·noise and component k of mean mu_k and variance s², x is Gaussian with mean alpha·mu_k
    and variance alpha² s² + sigma², so E[data | x] is a softmax-weighted mean of linear functions of x (Bishop, Pattern
    Recognition and Machine Learning, 2006, section 2.3.3). Class -1 is the whole mixture.

    Attributes:
        means: float64 ``(components, dimension)``. spread: the standard deviation s.
    """

    config_cls = GaussianMixtureConfig

    def __init__(
        self, config: GaussianMixtureConfig, means: Tensor | None = None, noise: NoiseSchedule | None = None
    ) -> None:
        super().__init__()
        self.config = config
        schedules: dict[str, NoiseSchedule] = {"flow": FlowMatching(), "vp": VP(), "ve": VE(sigma_max=10.0)}
        self.noise = noise or schedules[config.process]
        self.prediction = Prediction(config.prediction)
        if self.prediction is Prediction.VELOCITY and isinstance(self.noise, VP):
            raise ValueError("A VP process has no velocity: set the mixture's prediction to data, noise or v.")
        self.shape = (config.dimension,)
        if means is None:
            draw = torch.Generator().manual_seed(config.seed)
            means = torch.randn(config.components, config.dimension, generator=draw, dtype=torch.float64)
        if means.shape != (config.components, config.dimension):
            raise ValueError(
                f"Means of shape {(config.components, config.dimension)} are wanted, got {tuple(means.shape)}."
            )
        # A plain attribute: as a buffer it would be rounded by a precision plugin.
        self.means = means.double()
        self.spread = config.spread
        self.data_std = float((self.means.var(unbiased=False) + config.spread**2).sqrt())

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Tensor | None:
        if any(p is not None for p in prompts):
            raise ValueError("A Gaussian mixture understands 'classes', not 'prompts'.")
        if all(c is None for c in classes):
            return None
        limit = min(self.config.classes, self.config.components)
        for c in classes:
            if c is not None and not 0 <= c < limit:
                raise ValueError(f"Class {c} does not exist: the mixture has classes 0 … {limit - 1}.")
        return torch.tensor([-1 if c is None else c for c in classes])

    def null_condition(self, cond: Tensor) -> Tensor:
        return torch.full_like(cond, -1)

    def posterior_mean(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """E[data | x_t = x], float64 ``(rows, dimension)``; arguments as in :meth:`forward`."""
        t, x64 = t.double(), x.double()
        means = self.means.to(x.device)
        alpha, sigma = self.noise.alpha(t)[:, None], self.noise.sigma(t)[:, None]
        variance = alpha.square() * self.spread**2 + sigma.square()
        log_weight = -(x64[:, None] - alpha[..., None] * means).square().sum(2) / (2 * variance)
        if cond is not None:
            owner = torch.arange(len(means), device=x.device) % self.config.classes
            other = (owner != cond[:, None]) & (cond[:, None] >= 0)
            log_weight = log_weight.masked_fill(other, -torch.inf)
        gain = alpha * self.spread**2 / variance
        each = means + gain[..., None] * (x64[:, None] - alpha[..., None] * means)
        return (log_weight.softmax(1)[..., None] * each).sum(1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        data = self.posterior_mean(x, t, cond)
        out = convert(data, x.double(), self.noise.levels(t.double()), Prediction.DATA, self.prediction)
        return out.to(x.dtype)
