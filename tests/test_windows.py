"""Window policies: what they ask for, and that they change the cost of a solve and not its result."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from problems import STEPPERS, Counting, make_solver, make_window, mixture, problem, sequential, sliding
from pydantic import ValidationError

from paraflowkit.core.config import ComponentConfig
from paraflowkit.core.memory import AliveBytes
from paraflowkit.core.solver import Sweep
from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import DigitsFlow
from paraflowkit.solve import solve
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.windows import fit as module

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "adaptive": ("adaptive", {}),
    "adaptive-tight": ("adaptive", {"least": 1, "size": 2, "most": 5, "ratio": 1.0}),
    "fit-rows": ("fit", {"rows": 24}),
    "fit-memory": ("fit", {"memory": 2e-5}),
    "fit": ("fit", {}),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("solver", ["paraflow", "parataa", "parasolver", "parasolver-turbo"])
def test_tolerance_zero_is_sequential(name: str, solver: str) -> None:
    p = problem(mixture("vp"), STEPPERS["ddim-1"], 20, 3, guidance=2.0)
    kind, settings = POLICIES[name]
    found = solve(p, make_solver(solver, tolerance=0.0), make_window(kind, **settings), max_sweeps=60)
    assert found.stats.sweeps <= 20
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-10)


def test_adaptive_follows_the_strides() -> None:
    policy = make_window("adaptive", size=4, least=2, most=10, ratio=2.0)
    window = policy.initial(50)
    lengths = []
    for stride in (4, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1):
        window = policy.advance(window, stride, 50)
        lengths.append(window.hi - window.lo)
    # It grows to twice the stride at once and shrinks by what the front moves, down to the least.
    assert lengths == [8, 10, 9, 8, 7, 6, 5, 4, 3, 2, 2, 2]
    assert policy.advance(Window(16, 20), 3, 23) == Window(19, 23)


def test_adaptive_needs_fewer_evaluations_than_its_largest_window_and_fewer_sweeps_than_its_least() -> None:
    p = problem(mixture(), STEPPERS["euler"], 100, 8, guidance=2.0)
    solver = make_solver("parasolver", tolerance=1e-3, norm="absolute")
    adaptive = solve(p, solver, make_window("adaptive", size=8, least=2, most=32, ratio=2.0)).stats
    largest, least = solve(p, solver, sliding(32)).stats, solve(p, solver, sliding(2)).stats
    assert adaptive.evaluations.sum() < largest.evaluations.sum()
    assert adaptive.iterations < least.iterations


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("rows", "max_rows"), [(24, None), (None, 24), (24, 30), (40, 24)])
def test_fit_fills_the_rows_of_a_call_and_no_more(guidance: float, rows: int | None, max_rows: int | None) -> None:
    p = problem(mixture(), STEPPERS["euler"], 40, 3, guidance=guidance)
    counting = Counting(p)
    sizes: list[int] = []
    counting.spoil = lambda out, x, node: (sizes.append(len(x)), out)[1]
    solver = make_solver("paraflow", tolerance=0.0)
    found = solve(dataclasses.replace(p, evaluate=counting), solver, make_window("fit", rows=rows), max_rows=max_rows)
    assert max(sizes) == 24
    assert found.stats.calls == found.stats.iterations  # nothing had to be cut


def test_fit_measures_what_a_row_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(DigitsFlow(DigitsConfig()), STEPPERS["euler"], 50, 2, guidance=3.0, dtype=torch.float32)
    peaks = [module._peak(p, k) for k in (1, 3, 9)]  # type: ignore[attr-defined]
    slope = (peaks[1] - peaks[0]) / 2
    assert peaks[2] - peaks[1] == pytest.approx(6 * slope, rel=0.02)  # linear in the rows
    free = 40 * slope  # 20 steps of two samples
    size = make_window("fit", memory=free / 2**30).fit(p, None).limit(1000)
    assert 15 <= size <= 20
    assert module._peak(p, 2 * size) <= free
    monkeypatch.setattr(module, "_free", lambda device: 2 * free)  # of which half is taken
    assert make_window("fit").fit(p, None).limit(1000) == size
    assert make_window("fit", memory=free / 2**30).fit(p, 16).limit(1000) == 4


def test_fit_asks_for_no_more_rows_than_a_call_may_have() -> None:
    p = problem(mixture(), STEPPERS["euler"], 40, 3, guidance=2.0)
    counting = Counting(p)
    sizes: list[int] = []
    counting.spoil = lambda out, x, node: (sizes.append(len(x)), out)[1]
    make_window("fit", memory=1.0).fit(dataclasses.replace(p, evaluate=counting), 6)
    assert max(sizes) <= 6


@pytest.mark.parametrize("before", [0, 1, 5, 10])
def test_the_first_window_is_as_long_as_asked_for_whatever_comes_before(before: int) -> None:
    p = problem(mixture(), STEPPERS["euler"], 50, 1)
    counting = Counting(p)
    solver = make_solver("paraflow", precondition=before, tolerance=0.0)
    window = make_window("adaptive", size=16, least=4)
    solve(dataclasses.replace(p, evaluate=counting), solver, window, max_sweeps=before + 1)
    assert counting.nodes == [*range(before), *range(before, before + 16)]


def test_counting_alive_tensors() -> None:
    weight = torch.zeros(500)  # there before, so neither it nor a view of it counts
    with torch.no_grad(), AliveBytes() as count:
        weight.view(50, 10)
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1
        c = b.view(10, 100) * 2  # a view takes nothing
        del a, b
        d = c.sum()
    assert d == 2000
    assert count.most == 12_000
    assert count.now == 4004


def test_what_does_not_fit_gets_a_sentence() -> None:
    p = problem(mixture(), STEPPERS["euler"], 10, 5, guidance=2.0)
    with pytest.raises(ValueError, match=r"may have 9 rows, and one step of 5 sample\(s\) needs 10"):
        solve(p, make_solver("paraflow"), make_window("fit", rows=9))
    with pytest.raises(ValueError, match="make run"):
        solve(p, make_solver("paraflow"), make_window("fit", memory=1e-9))


def test_ill_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="least <= size <= most"):
        make_window("adaptive", size=3, least=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "stepper"),
    [
        *(("paradigms", "euler"), ("paraflow", "ddim-1"), ("parataa", "ddim-1")),
        *(("parasolver", "euler"), ("parasolver-turbo", "ddim-1")),
    ],
)
def test_memory_does_not_grow_with_the_steps(solver: str, stepper: str) -> None:
    """All tensors alive within a solve, N = 400 against N = 50; the tables are made before."""
    settings = {"subintervals": None} if solver == "parasolver" else {}
    peaks = []
    for steps in (50, 400):
        p = problem(mixture(dimension=4096), STEPPERS[stepper], steps, 2, guidance=2.0, dtype=torch.float32)
        with AliveBytes() as count:
            solve(p, make_solver(solver, tolerance=1e-2, norm="absolute", **settings), sliding(8))
        peaks.append(count.most)
    tables = 400 * 64  # weights, norms and held predictions of a step, float64
    assert peaks[1] <= 1.05 * peaks[0] + tables


@pytest.mark.parametrize(
    ("first", "then"),
    [((1, 4), None), ((0, 0), None), ((0, 99), None), ((0, 4), (0, 6)), ((0, 4), (2, 3)), ((0, 4), (2, 13))],
)
def test_a_policy_that_breaks_its_contract_is_told(first: tuple[int, int], then: tuple[int, int] | None) -> None:
    class Bad(WindowPolicy[ComponentConfig]):
        def limit(self, steps: int) -> int:
            return steps

        def initial(self, steps: int) -> Window:
            return Window(*first)

        def advance(self, window: Window, stride: int, steps: int) -> Window:
            assert then is not None
            return Window(*then)

    p = problem(mixture(), STEPPERS["euler"], 12, 1)
    with pytest.raises(ValueError, match=r"The window policy Bad gave Window\(.*a window starts at the front"):
        solve(p, make_solver("paraflow", tolerance=0.0), Bad(ComponentConfig()))


def test_a_solver_that_returns_something_else_is_told() -> None:
    class Bad(ParaFlow):
        def sweep(self, state: None, sweep: Sweep) -> tuple[torch.Tensor, None]:
            return sweep.phi[:, :1], None

    p = problem(mixture(), STEPPERS["euler"], 12, 1)
    with pytest.raises(ValueError, match=r"Bad.sweep returned states of shape \(1, 1, 5\), and the window has \(1, 4"):
        solve(p, Bad(Bad.config_cls()), sliding(4))
