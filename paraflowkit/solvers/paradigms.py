"""ParaDiGMS: Picard iteration in a sliding window."""

from __future__ import annotations

from torch import Tensor

from paraflowkit.core.march import picard
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep
from paraflowkit.core.surrogate import Picard
from paraflowkit.solvers.configs import ParaDiGMSConfig


class ParaDiGMS(ParallelSolver[ParaDiGMSConfig, None]):
    """Picard iteration on any sampler, stopped by the posterior variance of each step.

    Source: algorithm 1 of

    .. code-block:: bibtex

        @inproceedings{shih2023paradigms,
          title     = {Parallel Sampling of Diffusion Models},
          author    = {Shih, Andy and Belkhale, Suneel and Ermon, Stefano and Sadigh, Dorsa and Anari, Nima},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2023}
        }
    """

    config_cls = ParaDiGMSConfig

    def init(self, problem: Problem) -> None:
        return None

    def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor, None]:
        return picard(sweep), None

    def surrogate(self) -> Picard:
        return Picard(entering="held" if self.config.entering == "clean_estimate" else "constant")
