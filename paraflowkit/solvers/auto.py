"""The solver that needs no settings: it measures what calls cost here and chooses by it."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.cost import CostCurve, call_seconds
from paraflowkit.core.interpolation import smooth
from paraflowkit.core.problem import Problem
from paraflowkit.core.quasi_newton import QuasiNewton, QuasiNewtonState
from paraflowkit.core.solver import Sweep, Update
from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.solvers.configs import AutoConfig

#: Sweeps that a solve takes however long its window.
SETTLE = 7.0
#: Sweeps in which a short window of w nodes passes w of them, on a lattice and on all steps.
PASS_LATTICE, PASS_ALL = 2.3, 1.2
#: Share of a window's nodes in a mean call: the first sweep has one, and the last ones have few left.
FILLED = 0.75
#: Slower than sequential sampling by less than this share is not slower: clocks are not better.
MARGIN = 0.02
#: A solve that is behind sequential sampling by more than this share of it is judged by the pace that it has shown,
#: after so many sweeps; where another sweep could leave it behind by more than the last share, it ends at once.
ALLOWED, TRIAL, MOST = 0.03, 2, 0.05


@dataclass(frozen=True)
class AutoState(QuasiNewtonState):
    """Beside the iteration's state, what was chosen.

    Attributes:
        size: nodes that are evaluated at once; 1 is sequential sampling. one, full: seconds of a sequential step and of
            a call with so many nodes.
        began: clock when the solve began. gave_up: the clock has ended the parallel solve.
    """

    size: int = 1
    one: float = 0.0
    full: float = 0.0
    began: float = -1.0
    gave_up: bool = False

    @classmethod
    def sequential(cls, problem: Problem, one: float) -> AutoState:
        """Of a solve that needs nothing of the iteration's."""
        none = problem.x0.new_zeros(0)
        still = torch.ones(len(problem.x0), dtype=torch.int64, device=none.device)
        made = cls(None, none, none, none, none, none, none, None, still, 0, -still, none, stretch=1)
        return replace(made, one=one, full=one, began=time.perf_counter())


class Auto(QuasiNewton[AutoConfig]):
    """:class:`~paraflowkit.solvers.lattice.Lattice` with a window that suits the devices, or sequential sampling.

    Before the first solve of a network and a number of samples, calls of 1, 2, 4, … nodes of all samples are timed for
    as long as a call of twice the rows takes less than twice as long. The window is the one of the least predicted
    time, :func:`sweeps` times the cost of a call; where no window beats N calls of one node, the steps are taken one by
    one. While the solve runs, its clock is compared with what sequential sampling would have taken to come as far:
    where it will stay behind at this pace, the rest is sampled sequentially. The run's window policy has no say. With
    several processes the decisions are the first one's.
    """

    config_cls = AutoConfig
    interpolates = True
    clocked = True

    def spacing(self, problem: Problem) -> int:
        return self.usual(problem) if smooth(problem) else 1

    def init(self, problem: Problem) -> AutoState:
        size, one, full = self._choose(problem, self.spacing(problem))
        if size == 1:
            return AutoState.sequential(problem, one)
        inner = super().init(problem)
        given = {field.name: getattr(inner, field.name) for field in fields(inner)}
        return AutoState(**given, size=size, one=one, full=full, began=time.perf_counter())

    def window(self, state: QuasiNewtonState, policy: WindowPolicy[Any]) -> WindowPolicy[Any]:
        assert isinstance(state, AutoState)  # it is made by init
        return Chosen(state.size)

    def _choose(self, problem: Problem, spacing: int) -> tuple[int, float, float]:
        """Nodes to evaluate at once, and seconds of a call with one node of each sample and with so many."""
        steps = problem.steps
        nodes = -(-steps // spacing)
        one = call_seconds(problem, 1)
        seconds, size = {1: one}, 1
        dearest = 1 + MOST * steps  # sequential steps that a sweep may take: one that wins a single step loses the rest
        while size < min(self.config.most, nodes):
            size *= 2
            seconds[size] = call_seconds(problem, size)
            if seconds[size] > 1.9 * seconds[size // 2]:
                break  # from here on more rows only take longer
            if seconds[size] > dearest * one:
                break
        curve = CostCurve(tuple(seconds), tuple(seconds.values()))
        sizes = [size for size, full in seconds.items() if size > 1 and full <= dearest * one]
        times = {size: sweeps(nodes / size, spacing) * curve(max(1.0, FILLED * size)) for size in sizes}
        best = min(times, key=lambda size: times[size], default=1)
        if not times or times[best] >= (1 - MARGIN) * steps * one:
            best = 1
        return best, one, seconds[best]

    def select(self, state: QuasiNewtonState, n: Tensor, valid: Tensor) -> Tensor:
        assert isinstance(state, AutoState)  # it is made by init
        if state.size > 1 and not state.gave_up:
            return super().select(state, n, valid)
        front = torch.zeros_like(valid)
        front[:, 0] = valid[:, 0]
        return front

    def sweep(self, state: QuasiNewtonState, sweep: Sweep) -> tuple[Update, QuasiNewtonState]:
        assert isinstance(state, AutoState)  # it is made by init
        if state.size == 1 or state.gave_up:
            new = torch.cat([sweep.phi[:, :1], sweep.after[:, 1:]], 1)
            return Update(new, limit=torch.ones_like(sweep.n[:, 0])), state
        update, made = super().sweep(state, sweep)
        assert isinstance(made, AutoState)  # replace keeps the class
        return update, replace(made, gave_up=self._behind(made, sweep, update))

    def _behind(self, state: AutoState, sweep: Sweep, update: Update) -> bool:
        """Whether sampling the rest sequentially is faster than going on, by the clock."""
        steps = sweep.problem.steps
        assert update.residual is not None  # this and what follows: QuasiNewton always says them
        assert update.limit is not None
        assert update.least is not None
        close = (update.residual / state.norms[sweep.n] <= self.config.tolerance**2) & sweep.valid
        stride = torch.maximum(torch.minimum(close.long().cumprod(1).sum(1) + 1, update.limit), update.least)
        # The slowest sample ends the solve, at whatever the calls for it alone cost.
        done = float(torch.where(sweep.valid[:, 0], sweep.n[:, 0] + stride, steps).min())
        elapsed = time.perf_counter() - state.began
        each = elapsed / state.sweeps
        left = steps - done
        gap = int(state.spacing.min())
        more = (PASS_ALL if gap == 1 else PASS_LATTICE) * left / (state.size * gap) + 1
        if state.sweeps > TRIAL and elapsed - done * state.one > ALLOWED * steps * state.one:
            more = max(more, left * state.sweeps / max(done, 1.0))
        slower = each * more > left * state.one * (1 + MARGIN)
        won = 1 if done <= state.sweeps else 0  # by the next sweep, at least: a front that is ahead may wait
        risky = elapsed + state.full - (done + won) * state.one > MOST * steps * state.one
        mine = torch.tensor([slower or risky], device=sweep.n.device)
        return bool(sweep.problem.agree(mine)[0])


def sweeps(windows: float, spacing: int) -> float:
    """About how many sweeps a solve takes whose nodes fill a window ``windows`` times."""
    passes = (PASS_ALL if spacing == 1 else PASS_LATTICE) * windows
    return (SETTLE**3 + passes**3) ** (1 / 3)


class Chosen(WindowPolicy[Any]):
    """The window that the solver has chosen: so many nodes at once."""

    def __init__(self, size: int) -> None:
        super().__init__(None)
        self.size = size

    def limit(self, steps: int) -> int:
        return min(self.size, steps)

    def initial(self, steps: int) -> Window:
        return Window(0, self.limit(steps))

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        return Window(lo, min(lo + self.size, steps))
