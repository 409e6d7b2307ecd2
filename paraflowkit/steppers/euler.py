"""The explicit Euler method on the velocity."""

from __future__ import annotations

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule, Prediction
from paraflowkit.steppers.configs import EulerConfig
from paraflowkit.table import StepTable


class Euler(BaseStepper[EulerConfig]):
    """``x[n+1] = x[n] + (t[n+1] - t[n]) v[n]``: order 1, one evaluation a step.

    For flow matching it is what FlowMatchEulerDiscreteScheduler of diffusers does, in the other direction of time; for
    VE and EDM it is Euler in sigma (Karras et al. 2022, algorithm 1 without its correction).
    """

    config_cls = EulerConfig
    wants = Prediction.VELOCITY

    def table(self, nodes: TimeGrid, noise: NoiseSchedule) -> StepTable:
        """Raises ValueError for a process known at discrete times only, which has no velocity."""
        try:
            noise.slopes(nodes.t[:1])
        except ValueError as error:
            raise ValueError(f"Euler steps along a velocity, which {type(noise).__name__} lacks: use ddim.") from error
        h = nodes.t.diff()[:, None]
        return StepTable(a=torch.ones_like(h), b=h, s=torch.zeros_like(h[:, 0]))
