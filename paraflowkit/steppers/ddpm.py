"""DDPM, ancestral sampling with fixed or learned variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paraflowkit.core.stepper import BaseStepper, StepRule
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._ancestral import forward_std, posterior_std, silent_end, step_with_noise
from paraflowkit.steppers.configs import DDPMConfig
from paraflowkit.table import StepTable, per_step


@dataclass(frozen=True)
class LearnedVarianceRule:
    """The posterior's mean, and noise of the variance that the network predicts beside its output.

    Attributes:
        mean: the table without noise. low, high: float64 ``(N,)``, posterior and forward variance.
        between: whether the network's value v places the variance between them, ``high^((v+1)/2) low^((1-v)/2)``
            (Nichol and Dhariwal, Improved DDPM, ICML 2021, equation 15), or is the variance itself.
    """

    mean: StepTable
    low: Tensor
    high: Tensor
    between: bool
    learned_variance: bool = True
    order_in_time: int = 1
    stochastic: bool = True

    @property
    def steps(self) -> int:
        return self.mean.steps

    @property
    def wants(self) -> Prediction:
        return self.mean.wants

    def apply(self, n: Tensor, x: Tensor, m: Tensor, z: Tensor | None) -> Tensor:
        """See :meth:`paraflowkit.table.StepTable.apply`; m has twice x's channels."""
        data, value = m.chunk(2, 2)
        new = self.mean.apply(n, x, data, None)
        if z is None:
            return new
        if self.between:
            share = (value + 1) / 2
            low, high = (per_step(v.clamp(min=1e-20).log(), n, x) for v in (self.low, self.high))
            value = (share * high + (1 - share) * low).exp()
        loud = per_step((self.low > 0).double(), n, x)
        return new + loud * value.sqrt() * z


class DDPM(BaseStepper[DDPMConfig]):
    """The mean of q(x' | x, data) at the predicted data, and fresh noise: weak order 1, one evaluation a step.

    With f the data prediction, ``x' = alpha' f + sqrt(sigma'² - v) (x - alpha f) / sigma + s z`` with v the posterior's
    variance, ``sigma'² (1 - (alpha sigma' / (alpha' sigma))²)``, and s² either v (``fixed_small``), the forward
    variance ``sigma² - (alpha/alpha')² sigma'²`` (``fixed_large``), or learned. The step to clean data adds no noise.
    Source: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020, equations 6 and 7, algorithm 2.
    """

    config_cls = DDPMConfig

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where a state without noise is not the last one, and for learned variances."""
        if self.config.variance.startswith("learned"):
            raise ValueError("A learned variance makes DDPM's step not affine: use fixed_small or fixed_large.")
        small = posterior_std(nodes, "DDPM")
        a, b = step_with_noise(nodes, small)
        s = small if self.config.variance == "fixed_small" else forward_std(nodes)
        return StepTable(a, b, silent_end(nodes, s), Prediction.DATA)

    def rule(self, nodes: TimeGrid) -> StepRule:
        """Raises ValueError where a state without noise is not the last one."""
        if not self.config.variance.startswith("learned"):
            return self.table(nodes)
        small = posterior_std(nodes, "DDPM")
        a, b = step_with_noise(nodes, small)
        mean = StepTable(a, b, torch.zeros_like(small), Prediction.DATA)
        between = self.config.variance == "learned_range"
        return LearnedVarianceRule(mean, small.square(), forward_std(nodes).square(), between)
