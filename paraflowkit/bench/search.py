"""The loosest setting that still meets a wanted error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: Tolerances that are tried.
LEAST, MOST = 1e-7, 1e4
#: The search ends when two tolerances are this close together, or the error this close to the wanted one.
CLOSE, NEAR = 1.3, 0.9


@dataclass(frozen=True)
class Point:
    """What a solve has cost and reached: mean iterations and evaluations, mean and largest relative RMSE."""

    iterations: float
    evaluations: float
    error: float
    worst_error: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        setting: tolerance or number of steps. point: with it. met: whether the wanted error is.
    """

    setting: float
    point: Point
    met: bool


def loosest(run: Callable[[float], Point], tried: dict[float, Point], wanted: float, start: float) -> Found:
    """The loosest tolerance whose mean error is at most ``wanted``.

    Bracketing on a logarithmic scale; the error is assumed to grow with the tolerance on the whole. Where no tolerance
    down to 1e-7 meets it, tolerance 0 is tried, which is exact for a solver that keeps the promise.

    Args:
        run: solves at a tolerance; may raise ValueError where the solver's settings do not allow it.
        tried: what was measured before, which is added to. start: tolerance to try first.
    """
    fresh = True
    while True:
        good = [t for t in tried if tried[t].error <= wanted]
        low = max(good, default=0.0)
        high = min((t for t in tried if t > low and t not in good), default=math.inf)
        if low >= MOST or (low and (high <= CLOSE * low or tried[low].error >= NEAR * wanted)):
            return Found(low, tried[low], True)
        if not low and high <= LEAST:
            try:
                exact = run(0.0)
            except ValueError:
                return Found(high, tried[high], False)
            return Found(0.0, exact, exact.error <= wanted)
        tolerance = start if fresh and low < start < high else _next(tried, low, high, wanted)
        fresh = False
        tolerance = min(max(tolerance, LEAST), MOST)
        try:
            tried[tolerance] = run(tolerance)
        except ValueError:  # beyond what the solver's settings allow
            tried[tolerance] = Point(math.nan, math.nan, math.inf, math.inf)


def _next(tried: dict[float, Point], low: float, high: float, wanted: float) -> float:
    """Between ``low``, which meets the error (0: none does), and ``high``, which does not (infinite: all do)."""
    if low and math.isfinite(high):
        share = 0.5 if high <= CLOSE**2 * low else min(max(_between(tried, low, high, wanted), 0.15), 0.85)
        return low * (high / low) ** share
    if low:
        return low * _flat(tried, low, min(max(0.95 * wanted / max(tried[low].error, 1e-12), CLOSE), 30.0))
    ratio = NEAR * wanted / tried[high].error if math.isfinite(tried[high].error) else 0.0
    return high / _flat(tried, high, 1 / min(max(ratio, 1 / 30), 1 / CLOSE))


def _flat(tried: dict[float, Point], end: float, factor: float) -> float:
    """The factor to go on by, a large one where other tolerances have given the same samples."""
    same = [max(t, end) / min(t, end) for t in tried if tried[t].error == tried[end].error]
    return max(factor, MOST / LEAST if max(same) > 10 else 30.0 if max(same) > 1 else 1.0)


def _between(tried: dict[float, Point], low: float, high: float, wanted: float) -> float:
    """Where between two tolerances, in their logarithm, a straight line of the errors' meets the wanted one."""
    least, most = tried[low].error, tried[high].error
    if not 0 < least < most < math.inf:
        return 0.5
    return math.log(0.95 * wanted / least) / math.log(most / least)


def fewest(run: Callable[[int], Point], tried: dict[int, Point], wanted: float, steps: int) -> Found:
    """The fewest sequential steps, up to ``steps``, whose mean error is at most ``wanted``.

    Eighths of ``steps`` are tried first, upwards, then the numbers between. Where none suffices, the best one is told.

    Args:
        run: solves with a number of steps. tried: what was measured before, which is added to.
    """

    def at(count: int) -> float:
        if count not in tried:
            tried[count] = run(count)
        return tried[count].error

    ladder = sorted({max(1, steps * j // 8) for j in range(1, 9)})
    best = next((count for count in ladder if at(count) <= wanted), None)
    if best is None:
        top = min(ladder, key=at)
        if top < ladder[-1] and at(top) <= 2 * wanted:
            # The error has a minimum: a better stepper passes near the reference on its way to the exact solution.
            around = range(max((k for k in ladder if k < top), default=0) + 1, min(k for k in ladder if k > top))
            best = next((count for count in around if at(count) <= wanted), None)
        if best is None:
            best = min(tried, key=lambda count: tried[count].error)
            return Found(best, tried[best], False)
        return Found(best, tried[best], True)
    below = max((count for count in ladder if count < best), default=0)
    while best - below > 1:
        middle = (below + best) // 2
        below, best = (below, middle) if at(middle) <= wanted else (middle, best)
    return Found(best, tried[best], True)
