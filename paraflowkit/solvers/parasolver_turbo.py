"""ParaSolver-Turbo: a few evaluated nodes at the front, the rest rolled on from their data prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from paraflowkit.core.march import estimate, picard, roll
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.core.surrogate import Picard
from paraflowkit.solvers.configs import ParaSolverTurboConfig


class ParaSolverTurbo(ParallelSolver[ParaSolverTurboConfig, None]):
    """Picard iteration on the first ``degree`` nodes of the window; beyond them the surrogate is the step with the data
    prediction of the last evaluated node held fixed, marched at once from the new states (immediate update).

    ``accept: evaluated``, the default, accepts only states that an evaluated step has made, so that tolerance 0 is
    exact. ``accept: all`` is the paper's rule, which may accept states that the network has never seen; its proposition
    2 then holds up to an error of its own. Line 11 of the algorithm uses an absolute index as a stride; here the stride
    is one more than the leading states that have converged.

    Source: algorithm 1 of

    .. code-block:: bibtex

        @misc{parasolverturbo,
          title = {ParaSolver-Turbo: Accelerating Parallel Diffusion Integrator via Intrinsic Partially Linear
                   Structure},
          note  = {Anonymous authors, paper under double-blind review}
        }
    """

    config_cls = ParaSolverTurboConfig

    def init(self, problem: Problem) -> None:
        return None

    def select(self, state: None, n: Tensor, valid: Tensor) -> Tensor:
        return valid & (torch.arange(n.shape[1], device=n.device) < self.config.degree)

    def surrogate(self) -> Picard:
        """Raises ValueError where states that were not evaluated are to be accepted."""
        if self.config.accept == "all":
            raise ValueError("a pipeline's steps are accepted when they were evaluated only: use 'accept: evaluated'")
        entering = "held" if self.config.entering == "clean_estimate" else "constant"
        return Picard(entering=entering, degree=self.config.degree)

    def sweep(self, state: None, sweep: Sweep) -> tuple[Update, None]:
        degree, width = self.config.degree, sweep.n.shape[1]
        new = picard(sweep)
        length = sweep.valid.sum(1)
        limit = length if self.config.accept == "all" else None
        if degree < width:
            new = self._beyond(sweep, new, degree, length.tolist())
        return Update(new, limit=limit), None

    def _beyond(self, sweep: Sweep, new: Tensor, degree: int, lengths: list[int]) -> Tensor:
        """The states after the evaluated ones."""
        h, last = sweep.history, degree - 1
        data = estimate(sweep.problem, sweep.x[:, last], sweep.m[:, last], sweep.n[:, last])
        states = torch.cat([sweep.states[:, : h + 1], new], 1)
        first = [min(degree, length) for length in lengths]
        rolled = roll(sweep.problem, states, sweep.outputs, sweep.z, sweep.n[:, 0].tolist(), first, lengths, data)
        return rolled[:, h + 1 :]
