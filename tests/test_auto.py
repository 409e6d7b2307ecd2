"""The solver ``auto`` by a clock that moves in network calls alone: never much slower than sequential sampling."""

from __future__ import annotations

import dataclasses
import importlib
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import make_stepper, mixture, problem, sequential, sliding
from torch import Tensor

from paraflowkit.core import cost
from paraflowkit.core.problem import Problem
from paraflowkit.prediction import Prediction
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import solve
from paraflowkit.solvers import auto
from paraflowkit.solvers.configs import AutoConfig

#: Seconds of a call over those of one with a node of each sample, by how many nodes of each sample it has.
CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda nodes: 1.0,
    "proportional": lambda nodes: nodes,
    "half": lambda nodes: 0.5 + 0.5 * nodes,
    "tenth": lambda nodes: 0.9 + 0.1 * nodes,
    "two": lambda nodes: max(1.0, nodes / 2),
    "eight": lambda nodes: max(1.0, nodes / 8),
}
TIMED = (cost, auto, importlib.import_module("paraflowkit.solve"))
#: The promise: no more than this over sequential sampling, once calls have been timed.
MOST = 1.05


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in TIMED:
        monkeypatch.setattr(module, "time", made)
    return made


class Noted(auto.Auto):
    """Notes its clock and its state as it goes."""

    began = 0.0
    last: auto.AutoState

    def init(self, problem: Problem) -> auto.AutoState:
        self.last = super().init(problem)
        self.began = self.last.began
        return self.last

    def sweep(self, state: Any, sweep: Any) -> Any:
        update, new = super().sweep(state, sweep)
        assert isinstance(new, auto.AutoState)
        self.last = new
        return update, new


@dataclass(frozen=True)
class Run:
    """A solve by the clock; seconds are in sequential steps.

    Attributes:
        probe, seconds: of timing calls, and of everything after. rows: of every call after the probe.
    """

    solution: Solution
    solver: Noted
    probe: float
    seconds: float
    rows: list[int] = field(default_factory=list)


def run(p: Problem, clock: Clock, curve: Callable[[float], float], **given: Any) -> Run:
    per_step = p.network_rows(torch.arange(len(p.x0)))
    calls: list[tuple[float, int]] = []

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        calls.append((clock.now, len(x)))
        clock.now += curve(len(x) / per_step)
        return p.evaluate(x, node, cond)

    start = clock.now
    solver = Noted(AutoConfig(**given))
    solution = solve(dataclasses.replace(p, evaluate=evaluate), solver, sliding(8))
    rows = [rows for when, rows in calls if when >= solver.began]
    one = curve(1.0)
    return Run(solution, solver, (solver.began - start) / one, (clock.now - solver.began) / one, rows)


def easy(process: str = "flow", stepper: str = "euler", steps: int = 50, batch: int = 2, **more: Any) -> Problem:
    return problem(mixture(process), make_stepper(stepper), steps, batch, **{"guidance": 2.0, **more})


def wild(p: Problem, size: float, only: int | None = None) -> Problem:
    """The problem with a network that jumps with state and node: of all samples, or of one class only."""
    inner = p.evaluate

    def jump(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        made = size * torch.sin(1000 * x + 97.0 * node[:, None] + torch.arange(x.shape[1]))
        if only is None or cond is None:
            return made
        return torch.where(cond[:, None] == only, made, inner(x, node, cond))

    if only is not None:
        return dataclasses.replace(p, evaluate=jump)
    return dataclasses.replace(p, evaluate=jump, prediction=Prediction.DATA, cond=None, uncond=None, guidance=None)


def error(found: Solution, p: Problem) -> float:
    return float(relative_rmse(found.x, sequential(p).x, p.data_std).max())


@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("vp", "dpm-solver")])
def test_with_a_device_for_each_row_it_takes_less_than_half_the_time(process: str, stepper: str, clock: Clock) -> None:
    p = easy(process, stepper)
    found = run(p, clock, CURVES["constant"])
    assert found.probe + found.seconds < 0.5 * 50
    assert found.seconds < 0.25 * 50
    assert found.solver.last.size > 1
    assert error(found.solution, p) <= 1e-2


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("steps", [10, 50, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("vp", "ddpm")])
def test_it_is_never_slower_than_sequential_sampling(
    process: str, stepper: str, steps: int, batch: int, clock: Clock
) -> None:
    p = easy(process, stepper, steps, batch)
    reference = sequential(p).x
    for curve in CURVES.values():
        found = run(p, clock, curve)
        assert found.seconds <= MOST * steps
        assert found.solution.stats.sweeps <= steps
        assert steps < 50 or found.probe <= 0.75 * steps
        assert float(relative_rmse(found.solution.x, reference, p.data_std).max()) <= 1e-2


@pytest.mark.parametrize("size", [0.1, 1.0])
@pytest.mark.parametrize("steps", [20, 50, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("vp", "ddpm")])
def test_it_is_never_slower_where_parallel_sampling_does_not_help(
    process: str, stepper: str, steps: int, size: float, clock: Clock
) -> None:
    p = wild(easy(process, stepper, steps), size)
    for curve in CURVES.values():
        found = run(p, clock, curve)
        assert found.solution.ok
        assert found.seconds <= MOST * steps
        assert found.solution.stats.sweeps <= steps


@pytest.mark.parametrize("name", CURVES)
def test_the_slowest_sample_of_a_batch_is_what_counts(name: str, clock: Clock) -> None:
    for size in (0.1, 1.0):
        p = wild(easy(batch=4, guidance=1.0), size, only=1)  # a sample of each of four classes
        found = run(p, clock, CURVES[name])
        assert found.solution.ok
        assert found.seconds <= MOST * 50


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 60),
    batch=st.integers(1, 3),
    flat=st.floats(1, 40),
    rise=st.floats(0, 1),
    size=st.sampled_from([None, 0.01, 0.3]),
    wanted=st.sampled_from([1e-1, 1e-2, 1e-4]),
)
def test_whatever_calls_cost(
    steps: int, batch: int, flat: float, rise: float, size: float | None, wanted: float
) -> None:
    p = easy(steps=steps, batch=batch)
    p = p if size is None else wild(p, size)
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        for module in TIMED:
            patch.setattr(module, "time", clock)
        found = run(p, clock, lambda nodes: 1.0 + rise * max(0.0, nodes - flat), error=wanted)
    assert found.solution.ok
    assert found.seconds <= MOST * steps + 1e-9


def test_the_rest_is_sampled_one_by_one_once_the_clock_says_so(clock: Clock) -> None:
    p = wild(easy(), 1.0)
    found = run(p, clock, CURVES["proportional"])
    assert found.solver.last.size > 1
    assert found.solver.last.gave_up
    assert max(found.rows) > 2 == found.rows[-1]
    assert found.rows[found.rows.index(max(found.rows)) + 1 :].count(2) >= 47
    torch.testing.assert_close(found.solution.x, sequential(p).x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", [{"most": 1}, {"tolerance": 0.0}])
def test_settings_that_leave_no_choice_are_exact(given: dict[str, Any], clock: Clock) -> None:
    p = easy()
    found = run(p, clock, CURVES["constant"], **given)
    torch.testing.assert_close(found.solution.x, sequential(p).x, rtol=0, atol=1e-10)
    if "most" in given:
        assert found.solution.stats.evaluations.tolist() == [50, 50]
        assert found.probe == 3
        assert torch.equal(found.solution.x, sequential(p).x)
    else:
        assert found.seconds < 50


def test_a_network_is_timed_once_for_a_size_of_batch(clock: Clock) -> None:
    p, calls = easy(), [0]

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        calls[0] += 1
        clock.now += 1.0
        return p.evaluate(x, node, cond)

    solver = auto.Auto(AutoConfig())
    same = dataclasses.replace(p, evaluate=evaluate)
    solver.init(same)
    timed = calls[0]
    assert timed > 2
    solver.init(dataclasses.replace(same, seeds=(8, 9)))
    assert calls[0] == timed
    solver.init(dataclasses.replace(easy(batch=3), evaluate=evaluate))
    assert calls[0] > timed

    class Listed(list[int]):
        """A callable that cannot be the key of a dictionary."""

        def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
            return evaluate(x, node, cond)

    timed = calls[0]
    solver.init(dataclasses.replace(p, evaluate=Listed()))
    assert calls[0] > timed


@pytest.mark.parametrize("most", [1, 4, 8])
def test_the_window_is_the_solvers_own(most: int, clock: Clock) -> None:
    p = easy()
    found = run(p, clock, CURVES["constant"], most=most)
    per_step = 4  # of two guided samples
    assert found.rows[0] == per_step  # before the window opens
    assert max(found.rows) == per_step * most
    assert found.solver.last.size == most
    assert found.solver.window(found.solver.last, sliding(3)).limit(50) == found.solver.last.size
    assert found.solver.window(found.solver.last, sliding(3)).limit(1) == 1


def test_processes_that_share_a_solve_decide_by_the_first_ones_clock(clock: Clock) -> None:
    told: list[Tensor] = []

    def speak(decision: Tensor) -> Tensor:
        told.append(decision.clone())
        return decision

    def obey(decision: Tensor) -> Tensor:
        said = heard.pop(0)
        assert said.shape == decision.shape
        assert said.dtype == decision.dtype
        return said

    for p in (easy(), wild(easy(), 0.1)):
        told.clear()
        first = run(dataclasses.replace(p, agree=speak), clock, CURVES["half"])
        heard = list(told)
        other = run(dataclasses.replace(p, agree=obey), clock, lambda nodes: 3.0 / nodes)
        assert not heard
        assert torch.equal(other.solution.x, first.solution.x)
        assert torch.equal(other.solution.stats.evaluations, first.solution.stats.evaluations)
        assert other.solver.last.size == first.solver.last.size


class Slow(Noted):
    """Takes seconds of its own for a sweep, as much as so many calls of one node."""

    clock: Clock
    takes = 5.0

    def sweep(self, state: Any, sweep: Any) -> Any:
        if state.size > 1 and not state.gave_up:
            self.clock.now += self.takes
        return super().sweep(state, sweep)


def test_what_is_spent_outside_the_network_counts(clock: Clock) -> None:
    p = easy()
    Slow.clock = clock
    solver = Slow(AutoConfig())

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        clock.now += 1.0
        return p.evaluate(x, node, cond)

    same = dataclasses.replace(p, evaluate=evaluate)
    took: list[float] = []
    for _ in range(4):
        solve(same, solver, sliding(8))
        took.append(clock.now - solver.began)
    assert took[0] <= MOST * 50 + Slow.takes + 1  # the first sweep has to show it
    assert took[1:] == [50.0] * 3  # from then on it is known
    assert solver.last.size == 1


def test_a_machine_that_is_busier_than_when_calls_were_timed_is_no_reason_to_give_up(clock: Clock) -> None:
    p, pace = easy(), [1.0]

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        clock.now += pace[0]
        return p.evaluate(x, node, cond)

    same = dataclasses.replace(p, evaluate=evaluate)
    solver = Noted(AutoConfig())
    solver.init(same)
    pace[0] = 5.0
    found = solve(same, solver, sliding(8))
    assert found.stats.sweeps < 15
    assert not any(solver.last.found.lost.values())


def test_who_has_lost_twice_does_not_try_again(clock: Clock) -> None:
    p = wild(easy(), 1.0)

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        clock.now += len(x) / 2  # in proportion to the nodes of two samples
        return p.evaluate(x, node, cond)

    same = dataclasses.replace(p, evaluate=evaluate)
    sizes: list[int] = []
    for _ in range(4):
        solver = Noted(AutoConfig())
        solve(same, solver, sliding(8))
        sizes.append(solver.last.size)
    assert [size > 1 for size in sizes] == [True, True, False, False]
    solver = Noted(AutoConfig(error=0.5))  # another tolerance has lost nothing
    solve(same, solver, sliding(8))
    assert solver.last.size > 1


def test_a_window_that_has_lost_leaves_it_to_the_others(clock: Clock) -> None:
    p, dear = easy(), [1.0]

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        clock.now += dear[0] if len(x) > 8 else 1.0  # two guided samples of two nodes each have 8 rows
        return p.evaluate(x, node, cond)

    same = dataclasses.replace(p, evaluate=evaluate)
    Noted(AutoConfig()).init(same)
    dear[0] = 10.0
    sizes: list[int] = []
    for _ in range(8):
        solver = Noted(AutoConfig())
        solve(same, solver, sliding(8))
        sizes.append(solver.last.size)
        assert clock.now - solver.began <= MOST * 50 + 10  # the first of the dear calls is a surprise
    assert sizes == [16, 8, 4, 2, 2, 2, 2, 2]
    assert clock.now - solver.began < 40


@pytest.mark.parametrize("steps", [50, 100])
def test_limited_calls_are_no_busy_machine(steps: int, clock: Clock) -> None:
    """Sweeps whose rows are evaluated in several calls are dearer than a call was when it was timed."""
    p = wild(easy(steps=steps), 1.0)

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        clock.now += 1.0
        return p.evaluate(x, node, cond)

    solver = Noted(AutoConfig())
    found = solve(dataclasses.replace(p, evaluate=evaluate), solver, sliding(8), max_rows=2)
    assert found.ok
    assert clock.now - solver.began <= MOST * steps + 16  # the first whole window has to show it


def test_a_sweep_that_was_held_up_and_a_callback_say_nothing_of_the_others(clock: Clock) -> None:
    p = easy()

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        clock.now += 1.0
        return p.evaluate(x, node, cond)

    same = dataclasses.replace(p, evaluate=evaluate)

    class Held(Noted):
        def sweep(self, state: Any, sweep: Any) -> Any:
            if state.taken == 2:
                clock.now += 30.0
            return super().sweep(state, sweep)

    def slow(info: Any) -> None:
        clock.now += 20.0

    solve(same, Held(AutoConfig()), sliding(8))
    for callback in (None, slow, None):
        found = solve(same, Noted(AutoConfig()), sliding(8), callback=callback)
        assert found.stats.sweeps < 15


def test_the_example_that_times_it(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "examples" / "auto_time.py"))
    script["SETTINGS"][:] = [("gaussian-mixture", "euler", 12, 1.0)]
    script["main"](["--batches", "1", "3", "--repeat", "1"])
    head, line, *rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [["| gaussian-mixture, euler, 12", n] for n in "13"]
    for row in rows:
        assert row.count("|") == head.count("|") == line.count("|")
        *_, first, second, median, worst, iterations, error, noise = map(float, row.strip("| ").split(" | ")[1:])
        assert min(first, second, median) > 0
        assert worst >= median
        assert noise >= 1 <= iterations <= 12
        assert error <= 1e-2


def test_a_loss_on_one_schedule_is_none_on_another(clock: Clock) -> None:
    p, long = easy(steps=20), easy(steps=200)

    def evaluate(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        clock.now += 1.0
        return torch.sin(1000 * x + 97.0 * node[:, None]) if bad[0] else long.evaluate(x, node, cond)

    bad = [True]
    for _ in range(3):
        solve(dataclasses.replace(p, evaluate=evaluate), Noted(AutoConfig()), sliding(8))
    bad[0] = False
    solver = Noted(AutoConfig())
    solve(dataclasses.replace(long, evaluate=evaluate), solver, sliding(8))
    assert solver.last.size > 1
