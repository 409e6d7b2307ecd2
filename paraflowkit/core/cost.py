"""What a network call costs: seconds against rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from statistics import median
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from paraflowkit.core.problem import Here, Problem


@dataclass
class Known:
    """What solves of a network with one size of batch have found out.

    Attributes:
        calls: seconds of a call, by nodes of each sample. rest: the least mean seconds of a solve's sweeps outside the
            network, by the nodes of each sample that they may evaluate, and the kind of solve. lost: how many solves in
            turn were behind sequential sampling when they ended or were given up, by the same.
    """

    calls: dict[int, float] = field(default_factory=dict[int, float])
    rest: dict[tuple[Any, ...], float] = field(default_factory=dict[tuple[Any, ...], float])
    lost: dict[tuple[Any, ...], int] = field(default_factory=dict[tuple[Any, ...], int])


#: By what else a call depends on, for as long as its network lives.
_remembered: WeakKeyDictionary[Callable[..., Any], dict[tuple[Any, ...], Known]] = WeakKeyDictionary()


@dataclass(frozen=True)
class CostCurve:
    """t(b): seconds of a network call with b rows, on the devices that it was measured on.

    Between measured numbers of rows it is a straight line, and beyond the largest in proportion to the rows.

    Attributes:
        rows: increasing numbers of rows. seconds: one each, medians. cut: in a sentence, what was not measured because
            it took too long; empty where nothing was left out.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    cut: str = ""

    def __call__(self, rows: float) -> float:
        """Seconds of a call with so many rows; 0 for none."""
        if rows <= 0:
            return 0.0
        if rows <= self.rows[0]:
            return self.seconds[0]
        for (low, a), (high, b) in pairwise(zip(self.rows, self.seconds, strict=True)):
            if rows <= high:
                return a + (b - a) * (rows - low) / (high - low)
        return self.seconds[-1] * rows / self.rows[-1]

    def shared(self, devices: int) -> CostCurve:
        """The curve of so many such devices that share each call, their exchange of outputs left out."""
        own = [rows * devices for rows in self.rows]
        rows = sorted({*self.rows, *own})
        return CostCurve(tuple(rows), tuple(self(ceil(r / devices)) for r in rows))

    @classmethod
    def measure(cls, problem: Problem, counts: Sequence[int], repeat: int = 5, budget: float = 30.0) -> CostCurve:
        """Time calls of a problem's network, their numbers of rows in turn.

        Args:
            problem: whose first state and conditions are evaluated.
            counts: evaluations of one call, guided or not, the fewest first. The first and the last number are
                measured in any case.
            repeat: times each is measured, after one that warms up.
            budget: seconds after which no further number but the last, and no further turn, is begun.

        Every process of a group that shares the calls must take part. The papers' speedups, with a device for each row,
        are those of a constant t(b).
        """
        found: dict[int, list[float]] = {}
        began = time.perf_counter()

        def spent(share: float) -> bool:
            late = time.perf_counter() - began > share * budget
            return bool(problem.agree(torch.tensor([late], device=problem.x0.device))[0])

        with torch.no_grad():
            for count in counts:
                if found and count != counts[-1] and spent(0.3):
                    continue
                warm, seconds = _seconds(problem, count), _seconds(problem, count)
                found[count] = [seconds]
                began += max(0.0, warm - seconds)  # what only the first call takes, such as compiling
            turns = 1
            while turns < repeat and not spent(1.0):
                turns += 1
                for count, times in found.items():
                    times.append(_seconds(problem, count))

        def rows(count: int) -> int:
            return problem.network_rows(_samples(problem, count))

        cut = ""
        if skipped := [str(rows(count)) for count in counts if count not in found]:
            cut = f"calls of {', '.join(skipped)} rows were left out"
        if turns < repeat:
            cut += f"{' and ' if cut else ''}each number of rows was timed {turns} of {repeat} times"
        if cut:
            cut = f"The {budget:g} s for timing calls did not suffice: {cut}."
        return cls(tuple(rows(count) for count in found), tuple(median(times) for times in found.values()), cut)


def known(problem: Problem) -> Known:
    """What is remembered of a problem's network and size of batch; it may be added to."""
    evaluate, count = problem.evaluate, len(problem.x0)
    at = torch.arange(count, device=problem.x0.device)
    kind = (count, problem.network_rows(at), problem.x0.shape, problem.x0.dtype, str(problem.x0.device))
    owner: Any = evaluate.model if isinstance(evaluate, Here) else evaluate
    try:
        return _remembered.setdefault(owner, {}).setdefault(kind, Known())
    except TypeError:  # it cannot be a key, so it is timed each time
        return Known()


def call_seconds(problem: Problem, nodes: int, found: Known) -> float:
    """Seconds of a call with so many nodes of each of a problem's samples, timed once for a network and such a batch.

    The least of two calls, after one that warms up if it is the first of its kind; larger ones without can only seem
    dearer than they are. Processes that share the calls must all ask; the first one's clock counts.

    Args:
        found: what is :func:`known`, to which it is added.
    """
    if nodes not in found.calls:
        count = len(problem.x0)
        with torch.no_grad():
            if not found.calls:
                _seconds(problem, count * nodes)
            mine = min(_seconds(problem, count * nodes) for _ in range(2))
        told = problem.agree(torch.tensor([mine], dtype=torch.float64, device=problem.x0.device))
        found.calls[nodes] = float(told[0])
    return found.calls[nodes]


def _samples(problem: Problem, count: int) -> Tensor:
    return torch.arange(count, device=problem.x0.device) % len(problem.x0)


def _seconds(problem: Problem, count: int) -> float:
    """Seconds of one call with the first states of the samples, over and over."""
    sample = _samples(problem, count)
    x, node = problem.x0[sample], torch.zeros_like(sample)
    _wait(x.device)
    began = time.perf_counter()
    problem.output(x, node, sample)
    _wait(x.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
