"""A solver under observation: it does what it does, and every sweep is shown to a check."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from paraflowkit.core.config import QuasiNewtonConfig, SolverConfig
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.core.window import WindowPolicy
from paraflowkit.solution import Solution
from paraflowkit.solve import check_pair, solve
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding

AnySolver = ParallelSolver[Any, Any]
#: What a check is shown: the solver's state, the sweep, and the call that makes the next states.
See = Callable[[Any, Sweep, Callable[[], tuple[Any, Any]]], tuple[Any, Any]]


class Watched(ParallelSolver[SolverConfig, Any]):
    """A solver whose every sweep goes through ``see``.

    ``busy`` is called with True and False around each call of the solver.
    """

    def __init__(self, inner: AnySolver, see: See | None = None, busy: Callable[[bool], None] | None = None) -> None:
        super().__init__(inner.config)
        self.inner, self.see, self.busy = inner, see, busy
        self.max_window, self.whole, self.needs_table = inner.max_window, inner.whole, inner.needs_table

    def _call(self, function: Callable[..., Any], *given: Any) -> Any:
        if self.busy is None:
            return function(*given)
        self.busy(True)
        try:
            return function(*given)
        finally:
            self.busy(False)

    def init(self, problem: Problem) -> Any:
        return self._call(self.inner.init, problem)

    def select(self, state: Any, n: Tensor, valid: Tensor) -> Tensor:
        return self._call(self.inner.select, state, n, valid)

    def sweep(self, state: Any, sweep: Sweep) -> tuple[Any, Any]:
        def go() -> tuple[Any, Any]:
            return self._call(self.inner.sweep, state, sweep)

        return go() if self.see is None else self.see(state, sweep, go)


def sliding(size: int) -> Sliding:
    """A sliding window."""
    return Sliding(SlidingConfig(size=size))


def run(solver: AnySolver, problem: Problem, window: int | WindowPolicy[Any] = 5, **settings: Any) -> Solution:
    """Solve, for a long time if need be, so that a solver that is wrong and one that is slow can be told apart.

    Raises:
        SkipTest: the solver does not take this problem.
    """
    refusal(solver, problem)
    settings.setdefault("max_sweeps", 2 * problem.steps + 2)
    return solve(problem, solver, sliding(window) if isinstance(window, int) else window, **settings)


def refusal(solver: AnySolver, problem: Problem) -> None:
    """Raises SkipTest where the solver does not take this problem."""
    try:
        check_pair(problem.rule, solver)
        solver.init(problem)
    except ValueError as error:
        raise SkipTest(str(error)) from error


def at_tolerance(solver: AnySolver, tolerance: float) -> AnySolver:
    """The solver with another tolerance and otherwise its own settings.

    Raises:
        ValueError: its settings refuse it.
    """
    config = solver.config
    other = {"error"} if isinstance(config, QuasiNewtonConfig) else set[str]()  # which a tolerance takes the place of
    return type(solver)(type(config).model_validate({**config.model_dump(exclude=other), "tolerance": tolerance}))


def exact(solver: AnySolver) -> AnySolver:
    """The solver at tolerance 0.

    Raises:
        SkipTest: it refuses that, of which check_exact says more.
    """
    try:
        return at_tolerance(solver, 0.0)
    except ValueError as error:
        raise SkipTest("the solver refuses tolerance 0") from error


def loose(solver: AnySolver) -> AnySolver:
    """The solver at its own tolerance, or at 1e-2 if that is 0; a solver that knows no other than 0 as it is."""
    if solver.config.tolerance > 0:
        return solver
    try:
        return at_tolerance(solver, 1e-2)
    except ValueError:
        return solver


def most_sweeps(solver: AnySolver, steps: int) -> int:
    """N, or 2N for the printed stride, which may accept nothing in a sweep."""
    return steps if solver.config.stride == "exact" else 2 * steps


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal to the last bit, tensors within dataclasses and containers included."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        if left.shape != right.shape or left.dtype != right.dtype:
            return False
        equal = left == right
        if left.is_floating_point():
            equal = equal | (left.isnan() & right.isnan())
        return bool(equal.all())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if dataclasses.is_dataclass(left) and not isinstance(left, type):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    try:
        return left is right or bool(left == right)
    except (RuntimeError, ValueError):
        return False


def frozen_copy(value: Any) -> Any:
    """A deep copy of the tensors of a state; what holds no tensor is shared."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: frozen_copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [frozen_copy(item) for item in value]
    if type(value) is tuple:
        return tuple(frozen_copy(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Problem):
        twin = copy.copy(value)
        for f in dataclasses.fields(value):
            object.__setattr__(twin, f.name, frozen_copy(getattr(value, f.name)))
        return twin
    return value


def update_of(found: Any) -> Update:
    """A sweep's answer as an :class:`Update`, which plain states stand for."""
    return found if isinstance(found, Update) else Update(found)


def gap(found: Tensor, wanted: Tensor) -> Tensor:
    """Largest difference of each state to the one that is wanted, over the largest of all; NaN counts as infinite.

    Args:
        found, wanted: ``(samples, nodes, *shape)``.

    Returns:
        float64 ``(samples, nodes)``.
    """
    scale = wanted.double().abs().max().clamp(min=1e-12)
    return ((found.double() - wanted.double()).abs().flatten(2).amax(2) / scale).nan_to_num(torch.inf)
