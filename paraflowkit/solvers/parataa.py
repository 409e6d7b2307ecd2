"""ParaTAA: order-k fixed-point equations and triangular Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paraflowkit.core.march import spread
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.norms import tolerance_scales
from paraflowkit.solvers.configs import ParaTAAConfig
from paraflowkit.table import StepTable, per_step


@dataclass(frozen=True)
class ParaTAAState:
    """What Anderson acceleration remembers of the last sweeps, the newest first.

    Attributes:
        table: of the sampler. scales: float64 ``(N,)``, of the tolerance of each new state.
        lo: int64 ``(samples,)``, the front at the last sweep, or -1 before the first.
        valid: bool ``(samples, width)``, the window of the last sweep.
        x, r: ``(samples, width, *shape)``, the states after the front and their residuals at the last sweep.
        dx, dr: ``(memory, samples, width, *shape)``, differences of states and residuals from sweep to sweep, 0 where
            there is none yet.
    """

    table: StepTable
    scales: Tensor
    lo: Tensor
    valid: Tensor
    x: Tensor
    r: Tensor
    dx: Tensor
    dr: Tensor


class ParaTAA(ParallelSolver[ParaTAAConfig, ParaTAAState]):
    """Steps unrolled over k nodes through their own coefficients, and a multisecant correction from upstream nodes.

    With Y_n the state at n after k steps from x°[n-k] with the outputs that were evaluated, R_n = Y_n - x°_n, and the
    differences ΔX, ΔR of the last sweeps::

        γ_n = (sum_{j ≤ n} ΔR_jᵀ ΔR_j + λ I)⁻¹ sum_{j ≤ n} ΔR_jᵀ R_j,   x_n = x°_n + R_n - (ΔX_n + ΔR_n) γ_n

    over the nodes j of the window up to n, so that the correction is triangular as the system is. The first unfinished
    state is not corrected, which keeps the bound of N sweeps. Convergence is measured by the
    residual of one step, Φ_{n-1}(x°[n-1]) - x°[n]. Source:

    .. code-block:: bibtex

        @inproceedings{tang2024parataa,
          title     = {Accelerating Parallel Sampling of Diffusion Models},
          author    = {Tang, Zhiwei and Tang, Jiasheng and Luo, Hao and Wang, Fan and Chang, Tsung-Hui},
          booktitle = {International Conference on Machine Learning},
          year      = {2024}
        }
    """

    config_cls = ParaTAAConfig
    needs_table = True

    def init(self, problem: Problem) -> ParaTAAState:
        assert isinstance(problem.rule, StepTable)  # the driver refuses others
        none = problem.x0.new_zeros(0)
        lo = torch.full((len(problem.x0),), -1, dtype=torch.int64, device=problem.x0.device)
        scales = tolerance_scales(self.config.norm, problem.nodes).to(problem.x0.device)
        return ParaTAAState(problem.rule, scales, lo, none, none, none, none, none)

    def sweep(self, state: ParaTAAState, sweep: Sweep) -> tuple[Update, ParaTAAState]:
        valid = spread(sweep.valid, sweep.phi)
        r = torch.where(valid, self._unrolled(state.table, sweep) - sweep.after, 0)
        first = torch.where(valid, sweep.phi - sweep.after, 0)
        state = self._remember(state, sweep, r)
        residual = first.flatten(2).double().square().mean(2)
        new = sweep.after + r
        if len(state.dx):
            # States that have converged and the first that has not are not corrected: see the class.
            settled = ((residual / state.scales[sweep.n] <= self.config.tolerance**2) & sweep.valid).long().cumprod(1)
            late = torch.cat([torch.zeros_like(settled[:, :1]), 1 - settled[:, :-1]], 1).bool()
            new = torch.where(spread(late, new), new - self._correction(state, r), new)
        # Where nothing has moved, and in the state after, one step is the same without rounding.
        still = ((residual == 0) & sweep.valid).long().cumprod(1)
        plain = torch.cat([torch.ones_like(still[:, :1]), still[:, :-1]], 1).bool()
        return Update(torch.where(spread(plain, new), sweep.phi, new), residual=residual), state

    def _unrolled(self, table: StepTable, sweep: Sweep) -> Tensor:
        """Y at nodes n + 1: order-d values from order d - 1 … d - K of the nodes before, up to d = k."""
        depth, width = table.order_in_time, sweep.n.shape[1]
        weights = [per_step(table.a[:, j], sweep.n, sweep.phi) for j in range(depth)]
        source = sweep.phi  # what a step adds to the states before it
        for j, weight in enumerate(weights):
            source = source - weight * sweep.states[:, depth - 1 - j :][:, :width]
        orders = [sweep.states]  # of order 0, -1, … : all of them x°
        value = sweep.phi
        for _ in range(1, min(self.config.order, width)):
            orders = [torch.cat([sweep.states[:, :depth], value], 1), *orders][:depth]
            value = source
            for j, weight in enumerate(weights):
                value = value + weight * orders[min(j, len(orders) - 1)][:, depth - 1 - j :][:, :width]
        return value

    def _remember(self, state: ParaTAAState, sweep: Sweep, r: Tensor) -> ParaTAAState:
        """Add this sweep's differences to the memory, and move the older ones with the window."""
        lo, x = sweep.n[:, 0], sweep.after
        keep = self.config.memory - 1
        if keep == 0 or not state.x.numel():
            return ParaTAAState(state.table, state.scales, lo, sweep.valid, x, r, x.new_zeros(0), x.new_zeros(0))
        width = x.shape[1]
        source = torch.arange(width, device=x.device) + (lo - state.lo)[:, None]
        rows, near = torch.arange(len(x), device=x.device)[:, None], source.clamp(max=width - 1)
        # A node is remembered where it was in the window of both sweeps.
        inside = spread((source < width) & sweep.valid & state.valid[rows, near], x)

        def moved(old: Tensor) -> Tensor:
            return torch.where(inside, old[rows, near], 0)

        dx = torch.where(inside, x - moved(state.x), 0)[None]
        dr = torch.where(inside, r - moved(state.r), 0)[None]
        if len(state.dx):
            dx = torch.cat([dx, torch.stack([moved(old) for old in state.dx])])[:keep]
            dr = torch.cat([dr, torch.stack([moved(old) for old in state.dr])])[:keep]
        return ParaTAAState(state.table, state.scales, lo, sweep.valid, x, r, dx, dr)

    def _correction(self, state: ParaTAAState, r: Tensor) -> Tensor:
        """(ΔX + ΔR) γ, ``(samples, width, *shape)``."""
        flat = state.dr.flatten(3).double()
        gram = torch.einsum("iswd,jswd->swij", flat, flat).cumsum(1)
        right = torch.einsum("iswd,swd->swi", flat, r.flatten(2).double()).cumsum(1)
        # Beside huge differences λ would be lost in rounding, and the matrix singular.
        eps = torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        ridge = (self.config.ridge + eps)[..., None, None] * torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
        gamma, failed = torch.linalg.solve_ex(gram + ridge, right)
        gamma = torch.where((failed == 0)[..., None] & gamma.isfinite().all(-1, keepdim=True), gamma, 0)
        return torch.einsum("iswd,swi->swd", (state.dx + state.dr).flatten(3), gamma.to(r.dtype)).view_as(r)
