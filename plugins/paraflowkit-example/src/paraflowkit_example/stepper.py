"""The two-step Adams-Bashforth method on the velocity."""

from __future__ import annotations

import torch
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.table import StepTable

from paraflowkit_example.config import AdamsBashforthConfig


class AdamsBashforth(BaseStepper[AdamsBashforthConfig]):
    """The velocity is extrapolated as a line through the last two nodes, steps of any length; the first is Euler's.

    With h the step, g the one before and r = h / (2 g)::

        x[n+1] = x[n] + h ((1 + r) v[n] - r v[n-1])

    Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, 1993, section III.5.
    """

    config_cls = AdamsBashforthConfig

    def __init__(self, config: AdamsBashforthConfig) -> None:
        super().__init__(config)
        self.order = config.order

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError for a process known at discrete times only, which has no velocity."""
        if nodes.levels.dalpha is None:
            raise ValueError("adams-bashforth steps along a velocity, which a VP process lacks: use dpm-solver.")
        h = nodes.t.diff()
        a, b = h.new_zeros(len(h), self.order), h.new_zeros(len(h), self.order)
        a[:, 0], b[:, 0] = 1, h
        if self.order == 2:
            b[1:, 1] = -h[1:].square() / (2 * h[:-1])
            b[1:, 0] -= b[1:, 1]
        return StepTable(a=a, b=b, s=torch.zeros_like(h), wants=Prediction.VELOCITY)
