"""Answers to the calls of a pipeline's networks: from memory where they are known, held where they are not yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from paraflowkit.pipelines.evaluate import Evaluator
from paraflowkit.pipelines.record import Callee, Entry, Memory, Segment
from paraflowkit.pipelines.rewind import Randomness
from paraflowkit.pipelines.rows import Layout, Unbatchable, clone, layout, leaves, put, take
from paraflowkit.pipelines.state import hooks_of


class Refuse(BaseException):
    """Ends a run that cannot be made parallel; the message says why. No Exception, so that no pipeline catches it."""


@dataclass(kw_only=True)
class Answers(ABC):
    """The table of calls, and the side of a run that the networks' callers see.

    Attributes:
        evaluator: where rows are evaluated. randomness: the generators that a call may draw from.
        tolerance, precondition: of the solver.
        segments: what happens between the steps of the sampler. known: calls that were really made.
        feeders: networks whose outputs are inputs of others in the same step, such as ControlNets.
        denoisers: networks that are called at more than one step. made: outputs of the real calls of this step.
        proven: networks and how often they were asked before in the step, of which a call was really made.
        real_calls: networks that were called as the pipeline asked. end: steps, once a run has come to its end.
        interrupt: steps that were accepted when the caller stopped the call, or None.
        real: a callback has changed the networks: whatever they are asked from then on is a real call.
        samples: rows of the sampler's state, 0 before its first step. scale: of the squared tolerance, by step.
        n, j: step and call of the run now. roles: calls so far of each network at this step.
        live: the last run, with the caller's callbacks. inside: within a real call, whose own calls are real too.
        guessed: the run has taken a step that is not exact, or within the tolerance.
    """

    evaluator: Evaluator
    randomness: Randomness
    tolerance: float = 0.0
    precondition: int = 1
    segments: list[Segment] = field(default_factory=list[Segment])
    memory: Memory = field(default_factory=Memory)
    known: list[Entry] = field(default_factory=list[Entry])
    feeders: set[str] = field(default_factory=set[str])
    denoisers: set[str] = field(default_factory=set[str])
    made: list[tuple[int, str, list[Tensor]]] = field(default_factory=list[tuple[int, str, list[Tensor]]])
    proven: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    real_calls: list[str] = field(default_factory=list[str])
    end: int | None = None
    real: bool = False
    interrupt: int | None = None
    samples: int = 0
    scale: Tensor | None = None
    n: int = 0
    j: int = 0
    roles: dict[str, int] = field(default_factory=dict[str, int])
    live: bool = False
    inside: bool = False
    guessed: bool = False

    @abstractmethod
    def stop(self) -> NoReturn:
        """Evaluate what was asked for, and end the run."""
        raise NotImplementedError

    def call(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answers a call of a network."""
        if self.inside:
            return callee.real(*args, **kwargs)
        while len(self.segments) <= self.n:
            self.segments.append(Segment())
        calls, j = self.segments[self.n].calls, self.j
        name = str(callee)
        if self.live:
            return self._live(calls[j] if j < len(calls) else None, callee, args, kwargs)
        self.j += 1
        role = (name, self.roles.get(name, 0))
        self.roles[name] = role[1] + 1
        entry = calls[j] if j < len(calls) else None
        if entry is not None and entry.callee != callee:
            del calls[j:]  # other networks are called than in the last run: guesses had led it elsewhere
            entry = None
        exact = not self.guessed
        ended = self.end is not None and self.n >= self.end
        if entry is not None:
            entry.ask(self.memory.keep(role, (args, kwargs), entry.asked))
            open_ = not bool(entry.fresh.all()) or bool(entry.changed.any())
            if open_ and (ended or callee.method != "__call__"):  # an encoder or a decoder
                if not exact:
                    self.stop()
                del calls[j:]
                return self._really(callee, role, args, kwargs)
            if self.n == 0 and open_:
                raise Refuse(f"{name} is asked for something else when the same call is run again")
            if not bool(entry.fresh.all()):
                self._hold(entry, role[1])
            return self._answer(entry)
        like = None if ended or callee.method != "__call__" else self._like(callee, role[1], (args, kwargs))
        if exact and (self.n < self.precondition or like is None or role not in self.proven):
            return self._really(callee, role, args, kwargs)
        if like is None or role not in self.proven:  # a real call shows first that it is what earlier ones were
            self.stop()
        self.denoisers.add(name)
        tree = self.memory.keep(role, (args, kwargs), like.tree)
        lay = self.layout(callee, tree)
        none = torch.zeros(lay.units, dtype=torch.bool)
        far = none.double() + float("inf")
        hooks = hooks_of(callee.parts)
        calls.append(Entry(callee, tree, lay, like.out, none, tree, ~none, far, node=self.n, hooks=hooks))
        return self._answer(calls[-1])

    def _answer(self, entry: Entry) -> Any:
        """A copy of what is remembered, for the pipeline to do with as it likes."""
        if entry.after is not None:
            self.randomness.restore(entry.after)
        out = clone(entry.out)
        if str(entry.callee) in self.feeders:
            self.memory.give(out, entry.out)
        return out

    def _live(self, entry: Entry | None, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The last run asks for what the run before it asked for, bit for bit, unless a callback changed something."""
        if entry is None or entry.callee != callee:
            return self._through(callee, args, kwargs)
        self.j += 1
        name = str(callee)
        role = (name, self.roles.get(name, 0))
        self.roles[name] = role[1] + 1
        early = self.interrupt is not None and self.n >= self.interrupt  # what follows was never finished
        if self.real or early or self.memory.keep(role, (args, kwargs), entry.asked) is not entry.asked:
            return self._through(callee, args, kwargs)
        return self._answer(entry)

    def layout(self, callee: Callee, tree: Any) -> Layout:
        """How a call carries its rows. Raises Unbatchable."""
        return layout(tree, self.samples, self.evaluator.shared.get(str(callee), ()))

    def _hold(self, entry: Entry, k: int) -> None:
        """The latest output of an earlier step, for samples that were never evaluated at this one."""
        like = self._like(entry.callee, k, entry.asked)
        if like is not None:
            units = (~entry.fresh).nonzero().flatten().tolist()
            entry.out = put(entry.layout, entry.out, take(entry.layout, like.out, units), units)

    def _through(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A real call in the last run: what came out differently, such as after a callback that changed something."""
        self.inside = True
        self.real_calls.append(str(callee))
        try:
            return self.evaluator.alone(callee, args, kwargs)
        finally:
            self.inside = False

    def _really(self, callee: Callee, role: tuple[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A real call at the exact front, which is remembered."""
        previous = [e for e in self.known if e.callee == callee]
        tree = self.memory.keep(role, (args, kwargs), previous[-1].tree if previous else None)
        self._find_feeders(str(callee), (args, kwargs))
        before = self.randomness.state()
        self.inside = True
        try:
            out = self.evaluator.alone(callee, args, kwargs)
        finally:
            self.inside = False
        after = self.randomness.state() if self.randomness.moved(before) else None
        self.real_calls.append(str(callee))
        self.proven.add(role)
        self.made.append((self.n, str(callee), [leaf for _, leaf in leaves(out) if isinstance(leaf, Tensor)]))
        try:
            lay = self.layout(callee, tree)
        except Unbatchable:  # an encoder: it is never batched
            lay = layout(((torch.zeros(1, 1),), {}), 0)
        every = torch.ones(lay.units, dtype=torch.bool)
        zero = torch.zeros(lay.units, dtype=torch.float64)
        entry = Entry(callee, tree, lay, clone(out), every, tree, ~every, zero, node=self.n, after=after)
        self.segments[self.n].calls.append(entry)
        self.known.append(entry)
        return out

    def _find_feeders(self, name: str, tree: Any) -> None:
        """Networks whose outputs are this one's inputs, such as ControlNets."""
        inputs = {leaf.data_ptr() for _, leaf in leaves(tree) if isinstance(leaf, Tensor) and leaf.numel()}
        self.made = [each for each in self.made if each[0] == self.n]
        for _, other, outputs in self.made:
            if other != name and any(t.data_ptr() in inputs for t in outputs if t.numel()):
                self.feeders.add(other)

    def _like(self, callee: Callee, k: int, tree: Any) -> Entry | None:
        """The latest entry of an earlier step whose output can stand in for this call's."""
        if self.n == 0:
            return None
        lay = None
        for segment in reversed(self.segments[: self.n]):
            same = [e for e in segment.calls if e.callee == callee]
            if same:
                if lay is None:
                    try:
                        lay = self.layout(callee, tree)
                    except Unbatchable:
                        return None
                entry = same[min(k, len(same) - 1)]
                if entry.alike(lay) and _shapes(entry.tree) == _shapes(tree):
                    return entry
        return None

    def scale_of(self, n: int) -> float:
        """Of the squared tolerance for the state before step n."""
        return 1.0 if self.scale is None or not n else float(self.scale[min(n, len(self.scale)) - 1])


def _shapes(tree: Any) -> list[Any]:
    return [(path, tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf)) for path, leaf in leaves(tree)]
