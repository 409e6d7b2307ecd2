"""The sweeps: a program is re-run with its networks answered from memory, until nothing that they are asked moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from paraflowkit.core.surrogate import Surrogate, View
from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.pipelines.answers import Answers, Refuse
from paraflowkit.pipelines.evaluate import Wanted
from paraflowkit.pipelines.levels import Levels, read_levels
from paraflowkit.pipelines.program import Program
from paraflowkit.pipelines.record import Memory, Segment
from paraflowkit.pipelines.rows import Unbatchable
from paraflowkit.pipelines.state import hooks_of
from paraflowkit.pipelines.stats import PipelineStats

#: Runs in a row that make no step exact, of which feeding networks and the end of the loop explain a few.
FRUITLESS = 4


class Stop(BaseException):
    """Ends a run at the end of the window; no Exception, so that no pipeline catches it."""


@dataclass(kw_only=True)
class Engine(Answers):
    """Solves one call of a program.

    Attributes:
        program: what is run. surrogate, window, norm: of the solver. stats: filled in.
        live_needed: the result is that of one more run, with the caller's callbacks and arguments.
        steps: of the scheduler, as far as they are known. planned: those that it is set to; a loop may be shorter or
            longer. lo: int64 ``(samples,)``, steps accepted of each sample.
        windows: of each sample. levels: of noise, where the scheduler is known.
        open: bool ``(samples,)``, samples all of whose steps were accepted so far in this run.
        last: state and output of the last step.
        closed: the call is over.
    """

    program: Program
    surrogate: Surrogate
    window: WindowPolicy[Any]
    stats: PipelineStats
    norm: str = "absolute"
    live_needed: bool = True
    steps: int = 0
    planned: int = 0
    lo: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    windows: list[Window] = field(default_factory=list[Window])
    levels: Levels | None = None
    open: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    last: tuple[Tensor, Tensor] | None = None
    closed: bool = False

    def close(self) -> None:
        """Forget everything: hooks that are still held somewhere then do nothing."""
        self.closed = True
        self.segments, self.known, self.made, self.last = [], [], [], None
        self.memory = Memory()

    def solve(self) -> Any:
        """The program's result.

        Raises:
            Refuse: it cannot be made parallel. Exception: of the program itself, which it raises run plainly too.
        """
        began = time.perf_counter()
        limit = FRUITLESS
        while True:
            before = (int(self.lo.sum()) if self.samples else -1, self.end)
            self._start(live=False)
            try:
                result = self.program.run(self, live=False)
                finished = self._ended()
            except Stop:
                finished, result = False, None
            except Unbatchable as why:
                raise Refuse(str(why)) from None
            except Exception as error:
                if not self.stats.sweeps and not self.guessed:
                    raise
                raise Refuse(f"with guessed outputs it raised {type(error).__name__}: {error}") from error
            self.stats.sweeps += 1
            limit = FRUITLESS if (int(self.lo.sum()), self.end) != before else limit - 1
            if not limit:
                raise Refuse("its runs do not repeat: the same call asked its networks for something new every time")
            if finished:
                break
            self.inside = True  # what a preview does with the networks is its own
            self.program.progress(float(self.lo.min()) / max(self.steps, 1) if self.samples else 0.0)
            self.program.sweep_done(self, *(self.last or (None, None)))
            if self.program.interrupted():
                self.interrupt = int(self.lo.min()) if self.samples else 0
                break
            self.program.rewind()
        if not self.n:
            raise Refuse("its scheduler's step was never called")
        self.program.progress(1.0)
        if self.live_needed or self.interrupt is not None:
            self.program.rewind()
            self._start(live=True)
            result = self.program.run(self, live=True)
        self._report(time.perf_counter() - began)
        return result

    def _ended(self) -> bool:
        """Whether a run that came to its end was the sampler's own throughout; else the next one knows the end."""
        last = self.segments[self.n].calls[: self.j] if self.n < len(self.segments) else []
        tail = any(bool((entry.changed | ~entry.fresh).any()) for entry in last)
        if not self.guessed and not tail:
            return True
        self.end = self.steps = self.n
        self.windows = [replace(w, hi=min(w.hi, self.n)) for w in self.windows]
        return False

    def _start(self, live: bool) -> None:
        self.n = self.j = 0
        self.roles = {}
        self.live, self.guessed, self.inside = live, False, False
        self.memory.forget_objects()
        self.memory.trusting = not live
        self.open = torch.ones(self.samples, dtype=torch.bool)
        self.lo = torch.zeros_like(self.lo)
        self.last = None

    def _report(self, seconds: float) -> None:
        s, e = self.stats, self.evaluator
        s.steps, s.samples = self.n, max(self.samples, 1)
        s.plain_calls = sum(str(c.callee) in self.denoisers for seg in self.segments for c in seg.calls)
        s.network_calls, s.rows = e.calls, e.rows
        s.singles = sum(name in self.denoisers for name in self.real_calls)
        s.batches = e.calls - len(self.real_calls)
        s.seconds, s.network_seconds = seconds, e.seconds

    def step(
        self, scheduler: Any, take: Callable[[Tensor, Tensor], Any], output: Tensor, x: Tensor, timestep: Any = None
    ) -> Any:
        """Answers a step of the sampler.

        Args:
            scheduler: whose step it is. take: ``(output, x) ->`` what its own step returns.
        """
        n = self.n
        self.stats.marched += 1
        while len(self.segments) <= n:
            self.segments.append(Segment())
        segment = self.segments[n]
        if not self.samples:
            self._begin(scheduler, len(x), timestep)
        self.n, self.j, self.roles = n + 1, 0, {}
        self.steps = max(self.steps, n + 1)
        if self.live:
            result = take(output, x)
            if self.interrupt is not None and n + 1 >= self.interrupt:
                self.program.stop_early()
            return result
        if len(x) != self.samples:
            raise Refuse(f"its steps have {self.samples} and {len(x)} rows")
        fresh, ready = self._ready(segment, n, x)
        accepted = self.open & ready
        self.lo[accepted] = n + 1
        closing = self.open & ~accepted
        self.open = accepted
        for p in closing.nonzero().flatten().tolist():
            stride = int(self.lo[p]) - self.windows[p].lo
            if stride > 0:
                self.windows[p] = self.window.advance(self.windows[p], stride, max(self.steps, n + 1))
        self.last = (x, output)
        if bool(accepted.all()):
            segment.forget()
            return take(output, x)
        self.guessed = True
        result = self._guess(segment, n, take, output, x, fresh, accepted)
        over = not bool(accepted.any()) and n + 1 >= max(w.hi for w in self.windows)
        if over or n + 1 in (self.planned, self.end):
            self.stop()
        return result

    def _begin(self, scheduler: Any, samples: int, timestep: Any) -> None:
        self.samples = samples
        self.lo = torch.zeros(samples, dtype=torch.int64)
        self.open = torch.ones(samples, dtype=torch.bool)
        times = getattr(scheduler, "timesteps", None)
        self.steps = max(1, len(times) if times is not None else 1)
        self.planned = self.steps
        self.windows = [self.window.initial(self.steps)] * samples
        self.levels = read_levels(scheduler, timestep)
        if self.tolerance and self.norm != "absolute":
            if self.levels is None:
                raise Refuse(
                    f"the noise levels of {type(scheduler).__name__} are not known, which the tolerance's norm "
                    f"{self.norm!r} needs: use norm='absolute'"
                )
            self.scale = self.levels.scales(self.norm)
        for entry in self.segments[0].calls:
            if entry.layout.rows % samples == 0 and entry.layout.units != samples and entry.layout.kinds:
                entry.layout = self.layout(entry.callee, entry.tree)
                entry.fresh = torch.ones(entry.layout.units, dtype=torch.bool)
                entry.changed = torch.zeros(entry.layout.units, dtype=torch.bool)
                entry.distance = torch.zeros(entry.layout.units, dtype=torch.float64)

    def _ready(self, segment: Segment, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Samples whose calls were all evaluated, and those of them within the tolerance, bool ``(samples,)``."""
        if segment.judged is not None and all(entry.settled for entry in segment.calls):
            return segment.judged
        fresh = torch.ones(self.samples, dtype=torch.bool)
        same = fresh.clone()
        distance = torch.zeros(self.samples, dtype=torch.float64)
        for entry in segment.calls:
            fresh &= entry.fresh  # one unit stands for all samples
            same &= ~entry.changed
            distance = torch.maximum(distance, entry.distance)
        if not self.tolerance:
            segment.judged = fresh, fresh & same
            return segment.judged
        if segment.at is not None and segment.at.shape == x.shape:
            moved = (x.double() - segment.at.double()).flatten(1).square().mean(1).cpu()
            distance = torch.maximum(distance, torch.where(same, 0.0, moved))
        near = fresh & (same | (distance <= self.tolerance**2 * self.scale_of(n)))
        taken = near & self.open & ~same
        if bool(taken.any()):
            self.stats.largest_change = max(self.stats.largest_change, float(distance[taken].max()) ** 0.5)
        segment.judged = fresh, near
        return segment.judged

    def _guess(
        self,
        segment: Segment,
        n: int,
        take: Callable[[Tensor, Tensor], Any],
        output: Tensor,
        x: Tensor,
        fresh: Tensor,
        accepted: Tensor,
    ) -> Any:
        """A step of which some samples' states are not those that the network was evaluated at."""
        if self.surrogate.slopes:
            segment.shown(output)
        rows = (-1, *(1,) * (x.ndim - 1))
        known = (fresh & ~accepted).to(x.device)
        at = x
        if segment.at is not None and segment.at.shape == x.shape:
            at = torch.where(known.view(rows), segment.at.to(x.dtype), x)
        segment.asked = x.clone()
        level = self.levels.at(n) if self.surrogate.slopes and self.levels is not None else None
        move = self.surrogate.move(View(n, x, at, output, segment.before_at, segment.before_output, level))
        result = take(move.output, move.x)
        first = _first(result)
        if move.shift is not None and first.shape == move.shift.shape:
            first = first + move.shift.to(first.dtype)
        unseen = ~fresh
        if self.surrogate.entering == "constant" and first.shape == x.shape and bool(unseen.any()):
            first = torch.where(unseen.to(x.device).view(rows), x.to(first.dtype), first)
        return _with_first(result, first)

    def stop(self) -> NoReturn:
        """End of the window: evaluate, then leave the run."""
        try:
            self._evaluate()
        except Unbatchable as why:
            raise Refuse(str(why)) from None
        raise Stop

    def _evaluate(self) -> bool:
        """Evaluate what the run asked for that is not known; whether there was anything."""
        wanted = self._wanted()
        feeding = [w for w in wanted if str(w.entry.callee) in self.feeders]
        if not wanted:
            return False
        now = {w.entry.callee.component: hooks_of(w.entry.callee.parts) for w in wanted}
        for each in wanted:
            if each.entry.hooks != now[each.entry.callee.component]:
                raise Unbatchable(f"{each.entry.callee} has other hooks in some of its calls, as guiders switch them")
        self.inside = True
        try:
            self.evaluator(feeding or wanted, self.known)
        finally:
            self.inside = False
        self.stats.rounds += 1
        for entry in (e for segment in self.segments for e in segment.calls):
            paths = self.evaluator.shared.get(str(entry.callee), set())
            if any(entry.layout.kinds.get(p, "shared") != "shared" or p in entry.layout.lists for p in paths):
                entry.layout = self.layout(entry.callee, entry.tree)
        if not feeding:
            self._note(wanted)
        return True

    def _wanted(self) -> list[Wanted]:
        """The calls of each sample's window that are to be evaluated."""
        if not self.samples:
            return []
        degree = self.surrogate.degree
        ends = [
            w.hi if degree is None else min(w.hi, int(lo) + degree) for w, lo in zip(self.windows, self.lo, strict=True)
        ]
        found: list[Wanted] = []
        for n in range(int(self.lo.min()), min(len(self.segments), self.n + 1)):
            inside = torch.tensor([int(lo) <= n < hi for lo, hi in zip(self.lo, ends, strict=True)])
            if not bool(inside.any()):
                continue
            for j, entry in enumerate(self.segments[n].calls):
                if n == self.n and j >= self.j:
                    continue  # of an earlier run that came further
                need = entry.changed | ~entry.fresh
                units = inside & need if entry.layout.units == self.samples else need & inside.any()
                if bool(units.any()):
                    found.append(Wanted(entry, units.nonzero().flatten().tolist()))
        return found

    def _note(self, wanted: list[Wanted]) -> None:
        """The states at which the networks are now evaluated."""
        done = {id(w.entry): w.units for w in wanted}
        now = torch.zeros(self.samples, dtype=torch.bool)
        touched = torch.zeros(self.samples, dtype=torch.bool)
        for segment in self.segments[int(self.lo.min()) : self.n]:
            if segment.calls:
                now = torch.zeros(self.samples, dtype=torch.bool)
                for entry in segment.calls:
                    if id(entry) in done:
                        units = done[id(entry)]
                        now[units if entry.layout.units == self.samples else slice(None)] = True
            if segment.asked is None or not bool(now.any()):
                continue
            touched |= now
            segment.evaluated(now, self.surrogate.slopes)
            self.stats.evaluations = _plus(self.stats.evaluations, now)
        self.stats.iterations = _plus(self.stats.iterations, touched)


def _plus(counts: list[int], where: Tensor) -> list[int]:
    before = counts or [0] * len(where)
    return [c + int(w) for c, w in zip(before, where.tolist(), strict=True)]


def _first(result: Any) -> Tensor:
    """The next state in what a scheduler's step returned."""
    return result[0]


def _with_first(result: Any, first: Tensor) -> Any:
    if isinstance(result, tuple):
        return (first, *result[1:])
    setattr(result, next(iter(result.keys())), first)
    return result
