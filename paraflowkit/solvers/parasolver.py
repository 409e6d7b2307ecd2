"""ParaSolver: Picard iteration on the ends of subintervals, each solved by itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from paraflowkit.core.march import picard, spread
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.core.stepper import StepRule
from paraflowkit.core.surrogate import Picard
from paraflowkit.norms import tolerance_scales
from paraflowkit.solvers.configs import ParaSolverConfig
from paraflowkit.table import StepTable


@dataclass(frozen=True)
class ParaSolverState:
    """The subintervals of a solve.

    Attributes:
        start, end: int64 ``(N,)``, the first and the last node of the subinterval in which each step lies.
        longest: steps of the longest one. scales: float64 ``(N,)``, of the tolerance of each new state.
        reach: int64 ``(samples,)``, the window's end when the present pass over the subintervals began.
    """

    start: Tensor
    end: Tensor
    longest: int
    scales: Tensor
    reach: Tensor


class ParaSolver(ParallelSolver[ParaSolverConfig, ParaSolverState]):
    """The march with Ĝ = identity over subintervals, Φ being a short solve of the sampler's own steps.

    The subintervals of the window are integrated side by side, step by step (``inner: sequential``) or by Picard
    iteration within each (``inner: parallel``); then the ends are corrected by Picard iteration. Every sweep makes the
    front exact by one step of the first subinterval, so a pass over subintervals of s steps costs s sweeps and N sweeps
    still suffice. As many subintervals as steps is ParaDiGMS with a better guess, one is sequential sampling. Samplers
    with inner stages are cut between their steps. Those whose steps look back further, multistep ones, cannot be
    integrated step by step from states that are still wrong; they take ``inner: parallel``.

    Source: algorithm 1 of

    .. code-block:: bibtex

        @inproceedings{lu2025parasolver,
          title     = {ParaSolver: A Hierarchical Parallel Integral Solver for Diffusion Models},
          author    = {Lu, Jianrong and Zhu, Zhiyu and Hou, Junhui},
          booktitle = {International Conference on Learning Representations},
          year      = {2025}
        }
    """

    config_cls = ParaSolverConfig

    def init(self, problem: Problem) -> ParaSolverState:
        """Raises ValueError for subintervals that the steps cannot be cut into."""
        lengths = torch.tensor(self._lengths(problem), device=problem.x0.device)
        end = lengths.cumsum(0)
        return ParaSolverState(
            start=(end - lengths).repeat_interleave(lengths),
            end=end.repeat_interleave(lengths),
            longest=int(lengths.max()),
            scales=tolerance_scales(self.config.norm, problem.nodes).to(problem.x0.device),
            reach=torch.zeros(len(problem.x0), dtype=torch.int64, device=problem.x0.device),
        )

    def surrogate(self) -> Picard:
        """Raises ValueError for subintervals, over which no foreign loop can be cut."""
        if self.config.subintervals is not None:
            raise ValueError("a pipeline's own loop cannot be cut into 'subintervals': leave them out")
        return Picard(entering="held" if self.config.entering == "clean_estimate" else "constant")

    def _lengths(self, problem: Problem) -> list[int]:
        """The steps between nodes of each subinterval."""
        steps, count = problem.steps, self.config.subintervals
        if count is None or count == steps:
            return [1] * steps
        cuts = _cuts(problem.rule)
        if len(cuts) < count <= steps and self.config.inner == "parallel":
            cuts = list(range(steps))  # every output is the network's, so any node will do
        if count > len(cuts):
            if len(cuts) == steps:
                raise ValueError(
                    f"{count} subintervals do not fit into {steps} steps: set subintervals to {steps} or less."
                )
            most = f"{len(cuts)} subinterval{'s' if len(cuts) > 1 else ''}"
            raise ValueError(
                f"{count} subintervals do not fit: the steps of this sampler look back, so it can be cut into at most "
                f"{most}: ask for no more, set inner to parallel, or leave both out."
            )
        short, longer = divmod(len(cuts), count)
        # Longer ones first: the front's subinterval is then never done before the others of its window.
        first = [i * short + min(i, longer) for i in range(count)]
        edges = [*(cuts[i] for i in first), steps]
        return [b - a for a, b in pairwise(edges)]

    def select(self, state: ParaSolverState, n: Tensor, valid: Tensor) -> Tensor:
        if state.longest == 1:
            return valid
        return self._plan(state, n, valid)[0]

    def _plan(self, state: ParaSolverState, n: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(nodes at work, nodes of the subintervals in this pass, reach)."""
        front = n[:, 0]
        phase = front - state.start[front]
        hi = front + valid.sum(1)
        # A pass keeps to the subintervals that the window held whole when it began, and to the front's.
        reach = torch.maximum(torch.where(phase == 0, hi, state.reach), state.end[front])
        start, end = state.start[n], state.end[n]
        part = valid & (end <= reach[:, None]) & (end - start <= (end - start)[:, :1])
        if self.config.inner == "parallel":
            return part, part, reach
        return part & (n - start == phase[:, None]), part, reach

    def sweep(self, state: ParaSolverState, sweep: Sweep) -> tuple[Update, ParaSolverState]:
        if state.longest == 1:
            return Update(picard(sweep)), state
        work, part, reach = self._plan(state, sweep.n, sweep.valid)
        n, front = sweep.n, sweep.n[:, 0]
        ends = part & (n + 1 == state.end[n])
        left = state.end[front] - front  # steps of the first subinterval that are not exact yet
        if self.config.inner == "parallel":
            update = self._picard_within(state, sweep, part, ends, left)
        else:
            update = self._step_within(sweep, work, ends, left)
        return update, ParaSolverState(state.start, state.end, state.longest, state.scales, reach)

    def _step_within(self, sweep: Sweep, work: Tensor, ends: Tensor, left: Tensor) -> Update:
        """One step of each subinterval; after the last one of the first, the ends move."""
        final = left == 1
        inner = spread(work & ~ends, sweep.phi)
        new = torch.where(inner, sweep.phi, sweep.after)
        new = torch.where(spread(ends & final[:, None] & sweep.evaluated, new), _chain(sweep, ends), new)
        # Before the ends have moved only the front's step is known to be right.
        limit = torch.where(final, sweep.evaluated.long().cumprod(1).sum(1), 1)
        return Update(new, limit=limit)

    def _picard_within(self, state: ParaSolverState, sweep: Sweep, part: Tensor, ends: Tensor, left: Tensor) -> Update:
        """Picard iteration within each subinterval; once all inner states have converged, the ends move."""
        known = part & sweep.evaluated
        residual = torch.where(spread(known, sweep.phi), sweep.phi - sweep.after, 0)
        before = residual.cumsum(1) - residual
        columns = torch.arange(sweep.n.shape[1], device=sweep.n.device)
        offset = (columns - (sweep.n - state.start[sweep.n])).clamp(
            min=0
        )  # the column where a node's subinterval starts
        rows = torch.arange(len(columns) and len(sweep.n), device=sweep.n.device)[:, None]
        within = sweep.phi + torch.where(spread(offset < columns, before), before - before[rows, offset], 0)
        change = (within - sweep.after).flatten(2).double().square().mean(2) / state.scales[sweep.n]
        waiting = (known & ~ends & (change > self.config.tolerance**2)).any(1)
        final = ~waiting | (left == 1)
        first = columns < left[:, None]
        new = torch.where(spread(known & (~ends | first), within), within, sweep.after)
        moved = torch.where(spread(ends, within), within - sweep.after, 0)
        shift = moved.cumsum(1) - moved
        new = torch.where(spread(ends & final[:, None] & known & ~first, new), within + shift, new)
        limit = torch.where(final, sweep.evaluated.long().cumprod(1).sum(1), left)
        return Update(new, limit=limit)


def _cuts(rule: StepRule) -> list[int]:
    """The nodes at which no step from there on looks at a node before: 0, and for one-step samplers all."""
    steps, depth = rule.steps, rule.order_in_time
    if depth == 1:
        return list(range(steps))
    if not isinstance(rule, StepTable):
        return [0]  # nobody knows what it looks at
    used = (rule.a != 0) | (rule.b != 0)
    back = (used * torch.arange(depth)).amax(1)  # how far each step looks back
    reach = (torch.arange(steps) - back).flip(0).cummin(0).values.flip(0)  # … and all after it
    return (reach >= torch.arange(steps)).nonzero()[:, 0].tolist()


def _chain(sweep: Sweep, ends: Tensor) -> Tensor:
    """Picard's sum over the nodes marked: what each is handed on by all marked ones before it."""
    residual = torch.where(spread(ends, sweep.phi), sweep.phi - sweep.after, 0)
    return sweep.phi + (residual.cumsum(1) - residual)
