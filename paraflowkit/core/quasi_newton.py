"""Quasi-Newton iteration in data-prediction space, shared by the solvers ``secant`` and ``lattice``.

A sweep marches the unchanged sampler through the surrogate ``ĥ_n(x) = h_n + κ_n (x - x°_n)`` of the data prediction,
h_n being the network's at x°_n and κ_n a secant slope; :mod:`~paraflowkit.core.multisecant` adds to it. Where only a
lattice of nodes is evaluated, the predictions between are interpolated in time from those of the nodes as they will be
at the new states. For an affine sampler all of this is one linear system of as many unknowns as there are evaluated
nodes, with the same matrix for every component of the state: with H the predictions at the nodes, B the interpolation,
R the response of the states to the predictions at all steps, and M the rows of R B for the states at the nodes::

    states = base + R B H,   H = h + diag(κ) (base + M H - x°)   =>   H = (I - diag(κ) M)⁻¹ (h + diag(κ) (base - x°))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from paraflowkit.core.config import QuasiNewtonConfig
from paraflowkit.core.interpolation import COARSER, usual_spacing
from paraflowkit.core.march import spread
from paraflowkit.core.problem import Problem
from paraflowkit.core.quasi_newton_front import between, front
from paraflowkit.core.quasi_newton_march import solved, step_by_step
from paraflowkit.core.response import Response
from paraflowkit.core.secants import HIGHEST, LOWEST, Secants
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.core.surrogate import SecantLine
from paraflowkit.norms import tolerance_scales
from paraflowkit.table import StepTable


@dataclass(frozen=True)
class QuasiNewtonState:
    """Of a solve.

    Attributes:
        response: of an affine sampler, else None. scales: float64 ``(N,)``, of the tolerance of each new state;
            norms: of the driver's.
        alpha, sigma: float64 ``(N,)``, levels of the nodes, sigma over the data's deviation. high: the largest slopes.
        raw: bool ``(N,)``, nodes at which the output itself is what is extrapolated.
        secants: of the windows; None before the first sweep.
        spacing: int64 ``(samples,)``, between evaluated nodes. sweeps: so far.
        behind: int64 ``(samples,)``, the last evaluated node behind the front, or -1; its prediction is
            ``behind_h (samples, D)``. stretch: steps of the window for each evaluated node; most: of these nodes.
        gap: steps between the nodes far from the front, where all are evaluated near it.
    """

    response: Response | None
    scales: Tensor
    norms: Tensor
    alpha: Tensor
    sigma: Tensor
    high: Tensor
    raw: Tensor
    secants: Secants | None
    spacing: Tensor
    sweeps: int
    behind: Tensor
    behind_h: Tensor
    stretch: int
    most: int = 1
    gap: int = 1


ConfigT = TypeVar("ConfigT", bound=QuasiNewtonConfig)
#: The tolerance over the wanted error of the final sample, so that about 95 % of samples are nearer to the sequential
#: ones than was asked, with all steps evaluated and with interpolation: see docs/data/stopping.md.
STOP, STOP_BETWEEN = 1.3, 1.1
#: The largest error that interpolated predictions may put into a state, over the tolerance; else the lattice is finer.
BETWEEN = 0.5
#: A node that was evaluated once has the slope of a Gaussian prior, α s² / (σ² + α² s²), with this s² over the data's
#: variance: at the front, and from REACH of all steps before it on. Near the front the slope is too large for a single
#: correction on purpose: what moved the states upstream in this sweep moves them on in the next.
NEAR, FAR, REACH = 60.0, 0.2, 0.25
#: Where all steps are evaluated: share of a window's nodes that lie farther from the front, and how far apart these
#: are, over the root of the number of steps. What they say of later steps costs the nearer ones hardly a sweep.
AHEAD, APART = 0.15, 0.6


class QuasiNewton(ParallelSolver[ConfigT, QuasiNewtonState], Generic[ConfigT]):
    """See the module's text; subclasses say how far apart the evaluated nodes are.

    Where all steps are evaluated, a few of a window's nodes lie ahead of the others, every ``gap``-th step.
    """

    def spacing(self, problem: Problem) -> int:
        """Steps between evaluated nodes, a power of two; 1 evaluates all."""
        return 1

    def opened(self, state: QuasiNewtonState, most: int) -> QuasiNewtonState:
        return replace(state, most=most)

    def stretch(self, state: QuasiNewtonState) -> int:
        return state.stretch

    def surrogate(self) -> SecantLine:
        """Raises ValueError for a wanted error, which nobody can hold against a pipeline's unknown data."""
        if self.config.error is not None:
            raise ValueError("'error' needs a model whose data are known, which a pipeline is not: give a 'tolerance'")
        return SecantLine(entering="held" if self.config.entering == "clean_estimate" else "constant")

    def init(self, problem: Problem) -> QuasiNewtonState:
        device, count = problem.x0.device, len(problem.x0)
        affine = isinstance(problem.rule, StepTable) and problem.output_shape == tuple(problem.x0.shape[1:])
        response = Response.of(problem) if affine else None
        alpha, sigma = (v[:-1].double().cpu() for v in (problem.nodes.alpha, problem.nodes.sigma))
        raw = torch.from_numpy(problem.held[1] == 0) | problem.nominal
        high = torch.where(raw, 0.0, HIGHEST / alpha.clamp(min=1 / 3))
        gap = self.spacing(problem)
        spacing = torch.full((count,), gap, dtype=torch.int64, device=device)
        return QuasiNewtonState(
            response,
            self._scales(problem).to(device),
            tolerance_scales(self.config.norm, problem.nodes).to(device),
            torch.where(raw, 0.0, alpha).to(device),
            (sigma / problem.data_std).to(device),
            high.to(device),
            raw.to(device),
            None,
            spacing,
            0,
            torch.full((count,), -1, dtype=torch.int64, device=device),
            problem.x0.new_zeros(0),
            # More is marched beyond the evaluated nodes: what enters is then what the newest predictions say.
            stretch=2 * gap if gap > 1 or response is None else 3,
            gap=1 if response is None else 1 << int(max(1.0, APART * problem.steps**0.5)).bit_length() - 1,
        )

    def select(self, state: QuasiNewtonState, n: Tensor, valid: Tensor) -> Tensor:
        last = len(state.alpha) - 1
        on = (n % state.spacing[:, None] == 0) | (n == 1) | (n == last)
        on[:, 0] = True
        if state.gap > 1:
            on = torch.where(state.spacing[:, None] == 1, self._ahead(state, n, valid), on)
        return on & valid

    def _ahead(self, state: QuasiNewtonState, n: Tensor, valid: Tensor) -> Tensor:
        """All nodes near the front, and of those beyond every ``gap``-th, as many as may be evaluated at least."""
        steps, length = len(state.alpha), valid.sum(1, keepdim=True)
        # By the end, and in the first sweep, its length does not tell what was asked for.
        cut = (n[:, :1] + length >= steps) | (state.sweeps == 0)
        size = torch.where(cut, state.most, length // state.stretch).clamp(min=1)
        offset, coarse = torch.arange(n.shape[1], device=n.device), n % state.gap == 0
        ahead = (coarse & valid).long()
        ahead = ahead.flip(1).cumsum(1).flip(1)  # coarse nodes from each node on
        enough = (offset + ahead >= size) & (offset >= size - (AHEAD * size + 0.25).long())
        near = torch.where(enough.any(1, keepdim=True), enough.long().argmax(1, keepdim=True), size)
        near = torch.where(steps - n[:, :1] <= size, size, near)
        return (offset < near) | coarse

    def sweep(self, state: QuasiNewtonState, sweep: Sweep) -> tuple[Update, QuasiNewtonState]:
        problem, n, nodes = sweep.problem, sweep.n, sweep.evaluated
        count, width = n.shape
        work = sweep.phi.dtype if sweep.phi.dtype == torch.float64 else torch.float32
        x = sweep.x.to(work).flatten(2)
        h = self._predictions(state, sweep).to(work).flatten(2)
        h = torch.where(nodes[..., None], h, 0)
        secants = state.secants or Secants.empty(count, width, x.shape[2], x)
        secants = secants.moved(n[:, 0]).seen(x, h, nodes)
        share = (n - n[:, :1]).double() / (REACH * problem.steps)
        kappa = secants.slopes(nodes, _prior(state, n, NEAR * (FAR / NEAR) ** share.clamp(max=1)))
        kappa = torch.minimum(kappa.clamp(min=LOWEST), state.high[n])
        kappa[:, 0] = 0  # the front does not move
        state = replace(state, secants=secants, sweeps=state.sweeps + 1)
        if not state.behind_h.numel():
            state = replace(state, behind_h=torch.zeros_like(x[:, 0]))
        columns = [row.nonzero()[:, 0].tolist() or [0] for row in nodes.cpu()]
        if state.response is None:
            new, made, rows = step_by_step(state, sweep, h.view_as(sweep.x), kappa, columns), h, None
            new = new.to(work).flatten(2)
        else:
            new, made, rows = solved(state, sweep, x, h, kappa, columns)
        new = torch.cat([sweep.phi[:, :1].to(work).flatten(2), new[:, 1:]], 1)
        new = torch.where(new.isfinite().all(2, keepdim=True), new, sweep.phi.to(work).flatten(2))
        new = new.to(sweep.phi.dtype).view_as(sweep.phi)
        new = self._settled(sweep, new)
        residual = (new - sweep.after).flatten(2).double().square().mean(2)
        return self._accepted(state, sweep, new, residual, made, columns, rows)

    def _predictions(self, state: QuasiNewtonState, sweep: Sweep) -> Tensor:
        """h at the nodes of the windows: data predictions, or outputs where these do not follow from one."""
        channels = sweep.x.shape[2]
        m = sweep.m[:, :, :channels]
        at = sweep.n.flatten()
        data = sweep.problem.clean(sweep.x.flatten(0, 1), m.flatten(0, 1), at).view_as(m)
        return torch.where(spread(state.raw[sweep.n], m), m, data)

    def _settled(self, sweep: Sweep, new: Tensor) -> Tensor:
        """Where nothing moves, and in the state after, one step of the sampler itself, without rounding."""
        still = ((sweep.phi == sweep.after).flatten(2).all(2) & sweep.evaluated).long().cumprod(1)
        plain = torch.cat([torch.ones_like(still[:, :1]), still[:, :-1]], 1).bool() & sweep.evaluated
        return torch.where(spread(plain, new), sweep.phi, new)

    def _accepted(
        self,
        state: QuasiNewtonState,
        sweep: Sweep,
        new: Tensor,
        residual: Tensor,
        made: Tensor,
        columns: Sequence[list[int]],
        rows: Tensor | None,
    ) -> tuple[Update, QuasiNewtonState]:
        """What may be accepted, at evaluated nodes if possible; and whether the lattice is too coarse."""
        wanted = self.tolerance(sweep.problem)
        scales = state.scales[sweep.n]
        leading = ((residual / scales <= wanted**2) & sweep.valid).long().cumprod(1).sum(1).tolist()
        if self.config.error is not None:  # the driver compares with the tolerance of the settings, in its own norm
            residual = residual * (self.config.tolerance / wanted) ** 2 * state.norms[sweep.n] / scales
        lo, length = sweep.n[:, 0].tolist(), sweep.valid.sum(1).tolist()
        spacing, usual = state.spacing.tolist(), self.usual(sweep.problem)
        state_spacing = list(spacing)
        limit, least = [1] * len(lo), [1] * len(lo)
        inner: list[list[int]] = [[]] * len(lo)  # accepted steps between nodes
        for i, own in enumerate(columns):
            if not length[i]:
                continue
            if spacing[i] == 1:
                limit[i] = max(1, sum(at == column for at, column in enumerate(own)))
                continue
            limit[i] = front(own, leading[i], length[i])
            inner[i] = sorted(set(range(limit[i])) - set(own))
        # They are accepted if interpolating there is good enough.
        errors = (
            {} if rows is None else between(made, columns, spacing, {i: limit[i] for i, c in enumerate(inner) if c})
        )
        for i, error in errors.items():
            finer = spacing[i]
            if error is None:  # nobody can tell: what is coarser than usual is not trusted
                finer = min(finer, usual)
            else:
                assert rows is not None  # else there are no errors
                # What it does to each of the states up to the last of them: the sample itself may follow from an
                # evaluated node alone, whose state does not.
                effect = rows[i, : limit[i], inner[i]].abs().sum(1) / scales[i, : limit[i]].sqrt().cpu()
                error *= float(effect.max())
                most = BETWEEN * wanted
                while finer > 1 and error > most:
                    finer, error = finer // 2, error / COARSER
            if finer < spacing[i]:
                limit[i], spacing[i] = 0, finer
        passed: dict[int, int] = {}  # the last nodes behind the new fronts
        for i, own in enumerate(columns):
            if not length[i] or state_spacing[i] == 1:
                continue
            if limit[i] == 0 and state.sweeps <= lo[i]:
                least[i] = 0
            limit[i] = max(limit[i], least[i])
            if gone := [c for c in own if c < limit[i]]:
                passed[i] = gone[-1]
        behind, behind_h = state.behind, state.behind_h
        if passed:
            at, column = (torch.tensor(list(v), device=made.device) for v in (passed, passed.values()))
            behind, behind_h = behind.clone(), behind_h.clone()
            behind[at], behind_h[at] = sweep.n[at, column], made[at, column]
        device = sweep.n.device
        update = Update(
            new,
            residual=residual,
            limit=torch.tensor(limit, device=device),
            least=torch.tensor(least, device=device),
            outputs=self._outputs(sweep, new, made) if max(spacing) > 1 and sweep.history else None,
        )
        return update, replace(
            state, behind=behind, behind_h=behind_h, spacing=torch.tensor(spacing, device=device, dtype=torch.int64)
        )

    def _outputs(self, sweep: Sweep, new: Tensor, made: Tensor) -> Tensor:
        """What the predictions at all steps of the windows are as outputs."""
        x = torch.cat([sweep.x[:, :1], new[:, :-1]], 1)
        data = made.to(x.dtype).view_as(x).flatten(0, 1)
        return sweep.problem.from_data(data, x.flatten(0, 1), sweep.n.flatten()).view_as(x)

    def _scales(self, problem: Problem) -> Tensor:
        """Of the tolerance: the norm's, or for a wanted error the states' variance over the data's, at least 1."""
        if self.config.error is None or problem.nominal:
            return tolerance_scales(self.config.norm, problem.nodes)
        alpha, sigma = problem.nodes.alpha[1:], problem.nodes.sigma[1:] / problem.data_std
        return (alpha.square() + sigma.square()).clamp(min=1.0)

    def usual(self, problem: Problem) -> int:
        """The spacing that the tolerance needs with most networks; 1 at tolerance 0."""
        wanted = self.tolerance(problem)
        return usual_spacing(problem.steps, wanted / (self._stop * problem.data_std)) if wanted else 1

    def tolerance(self, problem: Problem) -> float:
        """The largest accepted change of a state, over its norm's scale."""
        return self.config.tolerance if self.config.error is None else self._stop * self.config.error * problem.data_std

    @property
    def _stop(self) -> float:
        return STOP_BETWEEN if self.interpolates else STOP


def _prior(state: QuasiNewtonState, n: Tensor, s2: Tensor) -> Tensor:
    """Slopes of a Gaussian prior, float64 like ``n``, with the variance ``s2`` over the data's."""
    alpha, sigma = state.alpha[n], state.sigma[n]
    return alpha * s2 / (sigma.square() + alpha.square() * s2).clamp(min=1e-12)
