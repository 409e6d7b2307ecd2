"""DDIM that limits the data prediction and keeps the network's noise: a sampler that is not affine."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from paraflowkit.core.stepper import BaseStepper, StepRule
from paraflowkit.core.treatment import Treatment
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._ancestral import posterior_std
from paraflowkit.steppers.configs import ClippedDDIMConfig
from paraflowkit.table import StepTable, per_step


@dataclass(frozen=True)
class ClippedDDIMRule:
    """``x' = alpha' limit(f) + sqrt(sigma'² - s²) e + s z`` with e the network's own noise and f its data."""

    nodes: TimeGrid
    treatment: Treatment
    s: Tensor
    wants: Prediction = Prediction.NOISE
    order_in_time: int = 1

    @property
    def steps(self) -> int:
        return self.nodes.steps

    @property
    def stochastic(self) -> bool:
        return bool(self.s.any())

    def apply(self, n: Tensor, x: Tensor, m: Tensor, z: Tensor | None) -> Tensor:
        """See :meth:`paraflowkit.table.StepTable.apply`."""
        alpha, sigma = self.nodes.alpha, self.nodes.sigma
        data = (x - per_step(sigma[:-1], n, x) * m) / per_step(alpha[:-1], n, x)
        data = self.treatment.limit(data.flatten(0, 1)).view_as(data)
        carry = (sigma[1:].square() - self.s.square()).clamp(min=0).sqrt()
        new = per_step(alpha[1:], n, x) * data + per_step(carry, n, x) * m
        return new if z is None else new + per_step(self.s, n, x) * z


class ClippedDDIM(BaseStepper[ClippedDDIMConfig]):
    """DDIM whose data prediction is clipped or dynamically thresholded inside the step, while the noise is not derived
    again from it: order 1, one evaluation a step.

    That is DDIMScheduler of diffusers with its default ``clip_sample`` or with ``thresholding``. It is not affine, so
    solvers that need a step table refuse it. Limits with the noise derived again are a treatment of the prediction and
    work with every stepper. Source: Song, Meng and Ermon, ICLR 2021; Saharia et al., Imagen, NeurIPS 2022, section 2.3.
    """

    config_cls = ClippedDDIMConfig

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError: there is no table."""
        raise ValueError(
            "clipped-ddim is not affine and has no step table: use ddim and limit the prediction before the step."
        )

    def rule(self, nodes: TimeGrid) -> StepRule:
        """Raises ValueError where a node but the last has no noise, or one has no data."""
        s = self.config.eta * posterior_std(nodes, "clipped-ddim")
        if bool((nodes.alpha <= 0).any()):
            raise ValueError("clipped-ddim divides by alpha, which is 0 at the start of this grid: use ddim.")
        c = self.config
        return ClippedDDIMRule(nodes, Treatment(c.clip, c.threshold, c.threshold_max), s)
