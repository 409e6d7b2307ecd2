"""ParaFlow: fixed-point iteration on the Euler flow system in a sliding window."""

from __future__ import annotations

from torch import Tensor

from paraflowkit.core.march import picard
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep
from paraflowkit.core.surrogate import Picard
from paraflowkit.solvers.configs import ParaFlowConfig


class ParaFlow(ParallelSolver[ParaFlowConfig, None]):
    """Picard iteration with an absolute tolerance on the mean squared change.

    The paper prints a stride equal to the number of converged states, which may be 0 (``stride: printed``, at most 2N
    sweeps); the default also accepts the state after them, which is exact at tolerance 0, and needs N at most.
    Source: algorithm 1 of

    .. code-block:: bibtex

        @misc{paraflow,
          title = {ParaFlow: Parallel Sampling for Flow Matching Models},
          note  = {Anonymous authors, paper under double-blind review}
        }
    """

    config_cls = ParaFlowConfig

    def init(self, problem: Problem) -> None:
        return None

    def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor, None]:
        return picard(sweep), None

    def surrogate(self) -> Picard:
        return Picard(entering="held" if self.config.entering == "clean_estimate" else "constant")
