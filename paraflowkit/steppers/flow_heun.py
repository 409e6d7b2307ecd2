"""Heun's method on the velocity."""

from __future__ import annotations

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._stages import two_stages
from paraflowkit.steppers.configs import FlowHeunConfig
from paraflowkit.table import StepTable


class FlowHeun(BaseStepper[FlowHeunConfig]):
    """The trapezoidal rule with an Euler predictor: order 2, two evaluations a step, one in the step to clean data.

    ``x* = x + (t' - t) v(x),  x' = x + (t' - t) (v(x) + v(x*)) / 2``; each step has two nodes, x* and x'. It is
    FlowMatchHeunDiscreteScheduler of diffusers. Source: Hairer, Norsett and Wanner, Solving Ordinary Differential
    Equations I, 1993, section II.1.
    """

    config_cls = FlowHeunConfig
    order = 2

    def nodes(self, grid: TimeGrid, noise: NoiseSchedule) -> TimeGrid:
        return grid.take(two_stages(grid.steps, last=bool(grid.sigma[-1] > 0)))

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError for a process known at discrete times only, which has no velocity."""
        if nodes.levels.dalpha is None:
            raise ValueError("flow-heun steps along a velocity, which a VP process lacks: use heun.")
        t = nodes.t
        a, b = torch.zeros(nodes.steps, 2, dtype=torch.float64), torch.zeros(nodes.steps, 2, dtype=torch.float64)
        even, odd = torch.arange(0, nodes.steps, 2), torch.arange(1, nodes.steps, 2)
        a[even, 0], b[even, 0] = 1, t[even + 1] - t[even]
        a[odd, 1] = 1
        b[odd, 0] = b[odd, 1] = (t[odd + 1] - t[odd - 1]) / 2
        return StepTable(a, b, torch.zeros_like(a[:, 0]), Prediction.VELOCITY)
