"""The solver that needs no settings: it measures what calls cost here and chooses by it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.cost import CostCurve, Known, call_seconds, known
from paraflowkit.core.interpolation import smooth
from paraflowkit.core.problem import Problem
from paraflowkit.core.quasi_newton import QuasiNewton, QuasiNewtonState
from paraflowkit.core.solver import Spent, Sweep, Update
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
#: A window that promises less than this share is not tried: the model of its time is not better.
GAIN = 0.1
#: A solve that is behind sequential sampling by more than this share of it is judged by the pace that it has shown,
#: after so many sweeps; where another sweep could leave it behind by more than the last share, it ends at once.
ALLOWED, TRIAL, MOST = 0.03, 2, 0.05
#: Solves of a kind that ended behind sequential sampling one after the other, after which their window is left alone.
LOST = 2
#: Sequential steps after which their time outside the network is known.
SETTLED = 4


@dataclass(frozen=True)
class AutoState(QuasiNewtonState):
    """Beside the iteration's state, what was chosen, and what the clock has shown since.

    Attributes:
        size: nodes that are evaluated at once; 1 is sequential sampling. one, full: seconds of a call with one node and
            with so many. found: what is known of the network.
        began: clock when the present way of sampling began, and before: what was spent by then; spent: so far. taken,
            own: sweeps since, and their seconds in this solver. outside: seconds outside the network by each of them.
            expected: seconds that the calls would have taken when they were timed; first: of those of the first sweep,
            what they took over that.
        done: steps that the slowest sample has been taken. gave_up: the clock has ended the parallel solve.
    """

    size: int = 1
    one: float = 0.0
    full: float = 0.0
    found: Known = field(default_factory=Known)
    began: float = -1.0
    taken: int = 0
    before: Spent = field(default_factory=Spent)
    spent: Spent = field(default_factory=Spent)
    outside: tuple[float, ...] = ()
    own: float = 0.0
    expected: float = 0.0
    first: float = 1.0
    done: int = 0
    gave_up: bool = False

    @classmethod
    def sequential(cls, problem: Problem, one: float, found: Known) -> AutoState:
        """Of a solve that needs nothing of the iteration's."""
        none = problem.x0.new_zeros(0)
        still = torch.ones(len(problem.x0), dtype=torch.int64, device=none.device)
        made = cls(None, none, none, none, none, none, none, None, still, 0, -still, none, stretch=1)
        return replace(made, one=one, full=one, found=found, began=time.perf_counter())

    def elapsed(self, spent: Spent) -> float:
        """Seconds since it began, those in callbacks left out."""
        return time.perf_counter() - self.began - (spent.aside - self.before.aside)

    def rest(self, spent: Spent) -> float:
        """Mean seconds of a sweep outside the network."""
        return max(0.0, self.elapsed(spent) - (spent.model_seconds - self.before.model_seconds)) / self.taken


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
        kind = self._kind(problem)
        step = one + found.rest.get((1, *kind), 0.0)
        times: dict[int, float] = {}
        for size, full in seconds.items():
            rest = _outside(found, size, kind)
            # A sweep may take so many steps: one that wins a single step loses the rest.
            if size > 1 and full + rest <= (1 + MOST * steps) * step:
                times[size] = sweeps(nodes / size, spacing) * (curve(max(1.0, FILLED * size)) + rest)
        lost = {size: found.lost.get((size, *kind), 0) for size in times}
        gain = [size for size in times if times[size] < (1 - GAIN) * steps * step and lost[size] < LOST]
        best = min(gain, key=lambda size: (lost[size], times[size]), default=1)
        best = int(problem.agree(torch.tensor([best], device=problem.x0.device))[0])
        return best, one, seconds[best]

    def _kind(self, problem: Problem) -> tuple[Any, ...]:
        """What solves of a network have in common that do alike."""
        return (problem.steps, type(problem.rule), self.tolerance(problem))

    def select(self, state: QuasiNewtonState, n: Tensor, valid: Tensor) -> Tensor:
        assert isinstance(state, AutoState)  # it is made by init
        return super().select(state, n, valid) if state.size > 1 and not state.gave_up else valid

    def sweep(self, state: QuasiNewtonState, sweep: Sweep) -> tuple[Update, QuasiNewtonState]:
        assert isinstance(state, AutoState)  # it is made by init
        if state.size == 1:  # a state a step would take a twentieth of a network call of a millisecond
            taken = int(sweep.n[0, 0]) + 1
            if taken == sweep.problem.steps > SETTLED:
                self._note(state, 1, sweep, replace(state, taken=taken).rest(sweep.spent))
            return Update(sweep.phi), state
        state = replace(state, taken=state.taken + 1)
        if state.gave_up:
            if state.taken > SETTLED:
                self._note(state, 1, sweep, state.rest(sweep.spent))
            return Update(sweep.phi), state
        came = time.perf_counter()
        update, made = super().sweep(state, sweep)
        assert isinstance(made, AutoState)  # replace keeps the class
        made = self._judged(replace(made, own=made.own + time.perf_counter() - came), sweep, update)
        made = replace(made, outside=(*made.outside, made.taken * made.rest(sweep.spent)))
        if made.gave_up or made.done == sweep.problem.steps:
            each = [now - last for last, now in pairwise((0.0, *made.outside))]
            self._note(made, made.size, sweep, median(each))  # one that was held up says nothing of the others
        if made.gave_up:
            update = replace(update, alone=True)
            made = replace(made, began=time.perf_counter(), taken=0, before=sweep.spent)
        return update, made

    def _note(self, state: AutoState, size: int, sweep: Sweep, rest: float) -> None:
        """Remember what sweeps take outside the network: the least, since other work can only add to it."""
        key = (size, *self._kind(sweep.problem))
        state.found.rest[key] = min(state.found.rest.get(key, rest), rest)

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
        spent, kind = sweep.spent, self._kind(sweep.problem)
        elapsed, rest = state.elapsed(spent), state.rest(spent)
        each = elapsed / state.taken
        state = self._paced(state, sweep)
        pace = min(state.first, (spent.model_seconds - state.before.model_seconds) / (state.expected or 1.0))
        # Of a sequential step, on a machine that is as busy as it is now: less than when the calls were timed, or more.
        # What the driver takes for one is no more than it takes for a sweep.
        step = state.one * pace
        step += state.found.rest.get((1, *kind), max(0.0, rest - state.own / state.taken) / 2)
        left = steps - done
        gap = int(state.spacing.min())
        more = (PASS_ALL if gap == 1 else PASS_LATTICE) * left / (state.size * gap) + 1
        if state.sweeps > TRIAL and elapsed - done * step > ALLOWED * steps * step:
            more = max(more, left * state.sweeps / max(done, 1.0))
        slower = left > 0 and each * more > left * step * (1 + MARGIN)
        # By the next sweep; a front that is ahead may wait.
        won = max(1 if done <= state.sweeps else 0, (done - state.done) // 3)
        risky = left > 0 and elapsed + state.full * pace + rest - (done + won) * step > MOST * steps * step
        mine = torch.tensor([slower or risky], device=sweep.n.device)
        gave_up = bool(sweep.problem.agree(mine)[0])
        if gave_up or not left:  # what ends ahead was not in vain
            behind = elapsed > (1 + MARGIN) * done * step
            kind = (state.size, *kind)
            state.found.lost[kind] = state.found.lost.get(kind, 0) + 1 if behind else 0
        return replace(state, done=done, gave_up=gave_up)

    def _paced(self, state: AutoState, sweep: Sweep) -> AutoState:
        """With the seconds that the calls of this sweep would have taken when they were timed.

        The first sweep, whose calls have one node, tells how busy the machine is; larger calls may be dearer for
        another reason, such as a limit on their rows.
        """
        seconds = sorted(state.found.calls.items())
        curve = CostCurve(tuple(nodes for nodes, _ in seconds), tuple(each for _, each in seconds))
        spent, before = sweep.spent, state.spent
        calls = spent.calls - before.calls
        per_node = sweep.problem.network_rows(torch.arange(len(sweep.n), device=sweep.n.device))
        nodes = (spent.rows - before.rows) / (per_node * max(calls, 1))
        expected = state.expected + calls * curve(max(1.0, nodes) if calls else 0.0)
        first = state.first
        if state.taken == 1 and expected:
            first = (spent.model_seconds - before.model_seconds) / expected
        return replace(state, expected=expected, first=first, spent=spent)


def _outside(found: Known, size: int, kind: tuple[Any, ...]) -> float:
    """Seconds outside the network of a sweep with so many nodes, as far as known of it or of another size."""
    same = {key[0]: seconds for key, seconds in found.rest.items() if key[0] > 1 and key[1:] == kind}
    return same.get(size, max(same.values(), default=0.0))


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
