"""Sequential sampling, as the same system with a window of one."""

from __future__ import annotations

from torch import Tensor

from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep
from paraflowkit.solvers.configs import SequentialConfig


class Sequential(ParallelSolver[SequentialConfig, None]):
    """The sampler itself: one evaluation, one step, N times. Every other solver is measured against it."""

    config_cls = SequentialConfig
    max_window = 1

    def init(self, problem: Problem) -> None:
        return None

    def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor, None]:
        return sweep.phi, None
