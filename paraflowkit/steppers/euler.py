"""The explicit Euler method."""

from __future__ import annotations

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._nodes import need_noise
from paraflowkit.steppers.configs import EulerConfig
from paraflowkit.table import StepTable


class Euler(BaseStepper[EulerConfig]):
    """Along the velocity where the process has one, else in sigma / alpha: order 1, one evaluation a step.

    With v the velocity ``x' = x + (t' - t) v``: what FlowMatchEulerDiscreteScheduler of diffusers does, in the other
    direction of time. With f the data prediction ``x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) f``: a step of
    the same method for x / alpha as a function of sigma / alpha, as in EulerDiscreteScheduler, which on every process
    is deterministic DDIM too. Source: Karras et al. 2022, algorithm 1 without its correction.
    """

    config_cls = EulerConfig

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where a state without noise is not the last one and there is no velocity."""
        if nodes.levels.dalpha is not None:
            h = nodes.t.diff()[:, None]
            return StepTable(torch.ones_like(h), h, torch.zeros_like(h[:, 0]), Prediction.VELOCITY)
        alpha, sigma = nodes.alpha, nodes.sigma
        need_noise(nodes, "Euler")
        carry = (sigma[1:] / sigma[:-1])[:, None]
        b = alpha[1:, None] - carry * alpha[:-1, None]
        return StepTable(carry, b, torch.zeros_like(b[:, 0]), Prediction.DATA)
