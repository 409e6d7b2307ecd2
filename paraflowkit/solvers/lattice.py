"""Quasi-Newton iteration on a lattice of nodes; the steps between take interpolated data predictions."""

from __future__ import annotations

from paraflowkit.core.interpolation import smooth
from paraflowkit.core.problem import Problem
from paraflowkit.core.quasi_newton import QuasiNewton
from paraflowkit.solvers.configs import LatticeConfig


class Lattice(QuasiNewton[LatticeConfig]):
    """The sampler's own fine steps, with the network evaluated at every s-th of them only.

    The data predictions of the steps between are interpolated in time, by cubics through the predictions at the nodes
    as they will be after the correction of :class:`~paraflowkit.solvers.secant.Secant`. A window of w evaluated nodes
    so reaches over w s steps, and the cost hardly depends on the number of steps. Steps between nodes are accepted
    where the error of interpolating there, found by leaving nodes out, is within the tolerance; else s is halved, down
    to 1, where the solver is exact. Samplers that are stochastic, not affine, or whose nodes do not run one way in time
    have s = 1 from the start.
    """

    config_cls = LatticeConfig
    interpolates = True

    def spacing(self, problem: Problem) -> int:
        if not self.tolerance(problem) or not smooth(problem):
            return 1
        if self.config.spacing is not None:
            return min(self.config.spacing, 1 << (problem.steps.bit_length() - 1))
        return self.usual(problem)
