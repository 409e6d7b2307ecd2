"""Euler ancestral."""

from __future__ import annotations

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._ancestral import posterior_std, step_with_noise
from paraflowkit.steppers.configs import EulerAncestralConfig
from paraflowkit.table import StepTable


class EulerAncestral(BaseStepper[EulerAncestralConfig]):
    """An Euler step to less noise than wanted, and fresh noise for the rest: order 1, one evaluation a step.

    In r = sigma / alpha, ``r_up² = eta² r'² (r² - r'²) / r²`` and ``r_down² = r'² - r_up²``: for eta 1 the distribution
    of a DDPM step, on every process. ``s_noise`` scales the noise alone. Source: Karras et al. 2022, appendix; the
    ``sample_euler_ancestral`` of k-diffusion; EulerAncestralDiscreteScheduler of diffusers.
    """

    config_cls = EulerAncestralConfig

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where a state without noise is not the last one."""
        s = self.config.eta * posterior_std(nodes, "Euler ancestral")
        a, b = step_with_noise(nodes, s)
        return StepTable(a, b, self.config.s_noise * s, Prediction.DATA)
