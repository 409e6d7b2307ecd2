"""The solver that needs no settings: it measures what calls cost here and chooses by it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.cost import CostCurve, Known, call_seconds, known
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
#: Solves that were given up one after the other, after which no other with this tolerance is begun.
LOST = 2
#: Sequential steps after which their time outside the network is known.
SETTLED = 4


@dataclass(frozen=True)
class AutoState(QuasiNewtonState):
    """Beside the iteration's state, what was chosen, and what the clock has shown since.

    Attributes:
        size: nodes that are evaluated at once; 1 is sequential sampling. one, full: seconds of a call with one node and
            with so many. found: what is known of the network.
        began: clock when the present way of sampling began. taken, network, own: sweeps since, and their seconds in the
            network and in this solver; before: seconds in the network when it began. expected: seconds that its calls
            would have taken when they were timed.
        done, strode: steps that the slowest sample has been taken, in all and by the last sweep.
        gave_up: the clock has ended the parallel solve.
    """

    size: int = 1
    one: float = 0.0
    full: float = 0.0
    found: Known = field(default_factory=Known)
    began: float = -1.0
    taken: int = 0
    before: float = 0.0
    network: float = 0.0
    own: float = 0.0
    expected: float = 0.0
    done: int = 0
    strode: int = 0
    gave_up: bool = False

    @classmethod
    def sequential(cls, problem: Problem, one: float, found: Known) -> AutoState:
        """Of a solve that needs nothing of the iteration's."""
        none = problem.x0.new_zeros(0)
        still = torch.ones(len(problem.x0), dtype=torch.int64, device=none.device)
        made = cls(None, none, none, none, none, none, none, None, still, 0, -still, none, stretch=1)
        return replace(made, one=one, full=one, found=found, began=time.perf_counter())

    def rest(self) -> float:
        """Mean seconds of a sweep outside the network."""
        return max(0.0, time.perf_counter() - self.began - self.network) / max(self.taken, 1)


class Auto(QuasiNewton[AutoConfig]):
    """:class:`~paraflowkit.solvers.lattice.Lattice` with a window that suits the devices, or sequential sampling.

    Before the first solve of a network and a number of samples, calls of 1, 2, 4, … nodes of all samples are timed for
    as long as a call of twice the rows takes less than twice as long. The window is the one of the least predicted
    time, :func:`sweeps` times the cost of a call and of what earlier solves have spent outside the network; where no
    window beats N steps of one node, the steps are taken one by one. While the solve runs, its clock is compared with
    what sequential sampling would have taken to come as far: where it will stay behind at this pace, the rest is
    sampled sequentially. The run's window policy has no say. With several processes the decisions are the first one's.
    """

    config_cls = AutoConfig
    interpolates = True
    clocked = True

    def spacing(self, problem: Problem) -> int:
        return self.usual(problem) if smooth(problem) else 1

    def init(self, problem: Problem) -> AutoState:
        found = known(problem)
        size, one, full = self._choose(problem, self.spacing(problem), found)
        if size == 1:
            return AutoState.sequential(problem, one, found)
        inner = super().init(problem)
        given = {field.name: getattr(inner, field.name) for field in fields(inner)}
        return AutoState(**given, size=size, one=one, full=full, found=found, began=time.perf_counter())

    def window(self, state: QuasiNewtonState, policy: WindowPolicy[Any]) -> WindowPolicy[Any]:
        assert isinstance(state, AutoState)  # it is made by init
        return Chosen(state.size)

    def _choose(self, problem: Problem, spacing: int, found: Known) -> tuple[int, float, float]:
        """Nodes to evaluate at once, and seconds of a call with one node of each sample and with so many."""
        steps = problem.steps
        nodes = -(-steps // spacing)
        one = call_seconds(problem, 1, found)
        seconds, size = {1: one}, 1
        while size < min(self.config.most, nodes):
            size *= 2
            seconds[size] = call_seconds(problem, size, found)
            if seconds[size] > 1.9 * seconds[size // 2]:
                break  # from here on more rows only take longer
            if seconds[size] > (1 + MOST * steps) * one:
                break
        curve = CostCurve(tuple(seconds), tuple(seconds.values()))
        step = one + found.rest.get(1, 0.0)
        times: dict[int, float] = {}
        for size, full in seconds.items():
            rest = _outside(found, size)
            # A sweep may take so many steps: one that wins a single step loses the rest.
            if size > 1 and full + rest <= (1 + MOST * steps) * step:
                times[size] = sweeps(nodes / size, spacing) * (curve(max(1.0, FILLED * size)) + rest)
        best = min(times, key=lambda size: times[size], default=1)
        if not times or times[best] >= (1 - MARGIN) * steps * step:
            best = 1
        if found.lost.get(self.tolerance(problem), 0) >= LOST:
            best = 1
        best = int(problem.agree(torch.tensor([best], device=problem.x0.device))[0])
        return best, one, seconds[best]

    def select(self, state: QuasiNewtonState, n: Tensor, valid: Tensor) -> Tensor:
        assert isinstance(state, AutoState)  # it is made by init
        return super().select(state, n, valid) if state.size > 1 and not state.gave_up else valid

    def sweep(self, state: QuasiNewtonState, sweep: Sweep) -> tuple[Update, QuasiNewtonState]:
        assert isinstance(state, AutoState)  # it is made by init
        state = replace(state, taken=state.taken + 1, network=sweep.model_seconds - state.before)
        if state.size == 1 or state.gave_up:
            if state.taken > SETTLED:
                state.found.rest[1] = state.rest()
            return Update(sweep.phi), state
        came = time.perf_counter()
        update, made = super().sweep(state, sweep)
        assert isinstance(made, AutoState)  # replace keeps the class
        made = self._judged(replace(made, own=made.own + time.perf_counter() - came), sweep, update)
        made.found.rest[made.size] = made.rest()
        if made.gave_up:
            update = replace(update, alone=True)
            made = replace(made, began=time.perf_counter(), taken=0, before=sweep.model_seconds)
        return update, made

    def _judged(self, state: AutoState, sweep: Sweep, update: Update) -> AutoState:
        """With whether sampling the rest sequentially is faster than going on, by the clock."""
        steps = sweep.problem.steps
        assert update.residual is not None  # this and what follows: QuasiNewton always says them
        assert update.limit is not None
        assert update.least is not None
        close = (update.residual / state.norms[sweep.n] <= self.config.tolerance**2) & sweep.valid
        stride = torch.maximum(torch.minimum(close.long().cumprod(1).sum(1) + 1, update.limit), update.least)
        # The slowest sample ends the solve, at whatever the calls for it alone cost.
        done = int(torch.where(sweep.valid[:, 0], sweep.n[:, 0] + stride, steps).min())
        elapsed = time.perf_counter() - state.began
        rest, each = state.rest(), elapsed / state.taken
        calls = sorted(state.found.calls.items())
        curve = CostCurve(tuple(nodes for nodes, _ in calls), tuple(seconds for _, seconds in calls))
        expected = state.expected + curve(max(1.0, float(sweep.evaluated.sum()) / len(sweep.n)))
        pace = state.network / expected if expected else 1.0
        # Of a sequential step, on a machine that is as busy as it is now: less than when the calls were timed, or more.
        # What the driver takes for one is no more than it takes for a sweep.
        step = state.one * pace
        step += state.found.rest.get(1, max(0.0, rest - state.own / state.taken) / 2)
        left = steps - done
        gap = int(state.spacing.min())
        more = (PASS_ALL if gap == 1 else PASS_LATTICE) * left / (state.size * gap) + 1
        if state.sweeps > TRIAL and elapsed - done * step > ALLOWED * steps * step:
            more = max(more, left * state.sweeps / max(done, 1.0))
        slower = left > 0 and each * more > left * step * (1 + MARGIN)
        strode = done - state.done
        won = max(1 if done <= state.sweeps else 0, strode // 3)  # by the next sweep: a front that is ahead may wait
        risky = left > 0 and elapsed + state.full * pace + rest - (done + won) * step > MOST * steps * step
        mine = torch.tensor([slower or risky], device=sweep.n.device)
        gave_up = bool(sweep.problem.agree(mine)[0])
        wanted, lost = self.tolerance(sweep.problem), state.found.lost
        if gave_up or not left:  # what ends ahead was not in vain
            lost[wanted] = lost.get(wanted, 0) + 1 if elapsed > done * step else 0
        return replace(state, expected=expected, done=done, strode=strode, gave_up=gave_up)


def _outside(found: Known, size: int) -> float:
    """Seconds outside the network of a sweep with so many nodes, as far as known of it or of another size."""
    known = {other: seconds for other, seconds in found.rest.items() if other > 1}
    return known.get(size, max(known.values(), default=0.0))


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
