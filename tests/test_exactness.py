"""The promise: at tolerance 0 the parallel result is the sequential one, in at most N sweeps, honestly counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from problems import STEPPERS, Counting, exact_solvers, fixed, mixture, problem, sequential, sliding

from paraflowkit.core.model import VelocityModel
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import DigitsFlow, DigitsVP
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaFlowConfig
from paraflowkit.solvers.paraflow import ParaFlow

N = 12
PAIRS = [("flow", "euler"), ("flow", "ddim-0"), ("flow", "ddim-1"), ("vp", "ddim-0"), ("vp", "ddim-1"), ("ve", "euler")]


def check(
    model: VelocityModel, stepper: BaseStepper[Any], solver: str, window: Any, batch: int, atol: float, **more: Any
) -> None:
    p = problem(model, stepper, N, batch, **more)
    reference = sequential(p)
    counting = Counting(p)
    found = solve(dataclasses.replace(p, evaluate=counting), exact_solvers()[solver], window, trajectory=True)
    assert found.trajectory is not None
    assert reference.trajectory is not None
    scale = reference.trajectory.abs().max()
    assert (found.trajectory - reference.trajectory).abs().max() <= atol * scale
    assert torch.equal(found.x, found.trajectory[:, -1])
    assert found.ok
    assert found.stats.sweeps <= N
    assert found.stats.iterations == counting.calls == found.stats.calls
    assert found.stats.rows == counting.rows
    per_evaluation = 2 if more.get("guidance", 1.0) not in (None, 1.0) else 1
    assert int(found.stats.evaluations.sum()) * per_evaluation == counting.rows


@pytest.mark.parametrize(("width", "batch"), [(1, 5), (3, 1), pytest.param(N + 5, 5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", exact_solvers())
@pytest.mark.parametrize(("process", "stepper"), PAIRS)
def test_mixture(process: str, stepper: str, solver: str, width: int, batch: int) -> None:
    check(mixture(process), STEPPERS[stepper], solver, sliding(width), batch, atol=1e-10, guidance=3.0)


@pytest.mark.parametrize("width", [1, 5, N + 5])
@pytest.mark.parametrize("solver", exact_solvers())
def test_blocks(solver: str, width: int) -> None:
    check(mixture(), STEPPERS["euler"], solver, fixed(width), 3, atol=1e-10)


@pytest.fixture(scope="module", params=["flow", "vp"])
def digits(request: pytest.FixtureRequest) -> tuple[str, VelocityModel]:
    return request.param, (DigitsFlow if request.param == "flow" else DigitsVP)(DigitsConfig())


def _steppers(process: str) -> list[str]:
    return ["euler", "ddim-1"] if process == "flow" else ["ddim-0", "ddim-1"]


@pytest.mark.parametrize("width", [3, pytest.param(N, marks=pytest.mark.slow)])
def test_networks_float32(digits: tuple[str, VelocityModel], width: int) -> None:
    process, model = digits
    for stepper in _steppers(process):
        check(model, STEPPERS[stepper], "paraflow", sliding(width), 2, 1e-5, guidance=3.0, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "batch"),
    # Larger batches take minutes and show nothing that these do not.
    [(torch.float32, 2), (torch.float64, 1)],
)
@pytest.mark.parametrize("width", [3, N + 5])
def test_networks(digits: tuple[str, VelocityModel], width: int, batch: int, dtype: torch.dtype) -> None:
    process, shared = digits
    model = type(shared)(DigitsConfig()).to(dtype)
    atol = 1e-5 if dtype == torch.float32 else 1e-10
    for stepper in _steppers(process):
        for solver in exact_solvers() if width == 3 else ["paraflow"]:  # one march at tolerance 0; once is enough
            check(model, STEPPERS[stepper], solver, sliding(width), batch, atol, guidance=3.0, dtype=dtype)


@pytest.mark.parametrize("width", [1, 3, 8, N])
def test_printed_stride_needs_at_most_twice_as_many_sweeps(width: int) -> None:
    p = problem(mixture(), STEPPERS["euler"], N, 3, guidance=3.0)
    found = solve(p, ParaFlow(ParaFlowConfig(tolerance=0.0, stride="printed")), sliding(width))
    assert found.stats.sweeps <= 2 * N
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-12)
    assert (width > 1) or found.stats.sweeps == 2 * N  # the printed rule really is the slow one


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = problem(mixture(), STEPPERS["ddim-1"], N, 5, guidance=2.0)
    solver = ParaFlow(ParaFlowConfig(tolerance=1e-2))
    together = solve(whole, solver, sliding(4))
    for i in range(5):
        cond, uncond, guidance = whole.cond, whole.uncond, whole.guidance
        assert cond is not None
        assert uncond is not None
        assert guidance is not None
        one = dataclasses.replace(
            whole,
            x0=whole.x0[i : i + 1],
            seeds=whole.seeds[i : i + 1],
            cond=cond[i : i + 1],
            uncond=uncond[i : i + 1],
            guidance=guidance[i : i + 1],
        )
        alone = solve(one, solver, sliding(4))
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=0, atol=1e-12)
        assert alone.stats.evaluations[0] == together.stats.evaluations[i]
        assert alone.stats.sample_iterations[0] == together.stats.sample_iterations[i]


@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 1000])
def test_chunks_change_nothing(max_rows: int) -> None:
    p = problem(mixture(), STEPPERS["euler"], N, 3, guidance=3.0)
    solver = ParaFlow(ParaFlowConfig(tolerance=1e-3))
    counting = Counting(p)
    largest = 0

    def note(out: torch.Tensor, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(x))
        return out

    counting.spoil = note
    whole = solve(p, solver, sliding(5))
    cut = solve(dataclasses.replace(p, evaluate=counting), solver, sliding(5), max_rows=max_rows)
    assert torch.equal(whole.x, cut.x)
    assert whole.stats.iterations == cut.stats.iterations
    assert cut.stats.calls == counting.calls
    assert largest <= max(max_rows, 2)  # a guided evaluation is two rows and is not torn apart


def test_twice_the_same_and_nothing_is_changed() -> None:
    p = problem(mixture(), STEPPERS["ddim-1"], N, 3, guidance=3.0)
    before = p.x0.clone()
    solver = ParaFlow(ParaFlowConfig(tolerance=1e-3))
    first, second = solve(p, solver, sliding(5)), solve(p, solver, sliding(5))
    assert torch.equal(first.x, second.x)
    assert torch.equal(p.x0, before)


def test_tolerance_trades_error_for_evaluations() -> None:
    p = problem(mixture(), STEPPERS["euler"], 50, 8, guidance=2.0)
    reference = sequential(p).x
    errors, evaluations = [], []
    for tolerance in (1e-1, 1e-2, 1e-4, 0.0):
        found = solve(p, ParaFlow(ParaFlowConfig(tolerance=tolerance)), sliding(16))
        errors.append(float((found.x - reference).abs().max()))
        evaluations.append(int(found.stats.evaluations.sum()))
    assert errors == sorted(errors, reverse=True)
    assert evaluations == sorted(evaluations)
    assert errors[0] > 1e-6 > errors[-1]
