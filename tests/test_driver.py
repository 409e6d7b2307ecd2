"""The driver: faults, limits, callbacks, memory, counting."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from problems import STEPPERS, Counting, make_stepper, mixture, problem, sequential, sliding

from paraflowkit.core.config import SolverConfig
from paraflowkit.core.problem import make_problem
from paraflowkit.core.solver import Sweep, Update
from paraflowkit.core.treatment import Treatment
from paraflowkit.solution import Result, relative_rmse
from paraflowkit.solve import SweepInfo, solve
from paraflowkit.solvers.configs import ParaDiGMSConfig, ParaFlowConfig
from paraflowkit.solvers.paradigms import ParaDiGMS
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.spacing import make_grid

EXACT = ParaFlow(ParaFlowConfig(tolerance=0.0))


def test_nan_stops_that_sample_only() -> None:
    p = problem(mixture(), STEPPERS["euler"], 10, 3)
    reference = sequential(p)

    def spoil(out: torch.Tensor, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        # Whatever the guess: node 4 of the sample that starts at x0[1] cannot be told by its node, so spoil by value.
        bad = (x - x1_at_4).abs().amax(1) < 1e-9
        return torch.where(bad[:, None], torch.nan, out)

    assert reference.trajectory is not None
    x1_at_4 = reference.trajectory[1, 4]
    found = solve(dataclasses.replace(p, evaluate=Counting(p, spoil)), EXACT, sliding(4))
    assert found.results == (Result.CONVERGED, Result.NONFINITE, Result.CONVERGED)
    assert not found.ok
    assert torch.isfinite(found.x).all()
    torch.testing.assert_close(found.x[1], x1_at_4)  # the last state that is exact
    torch.testing.assert_close(found.x[[0, 2]], reference.x[[0, 2]])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_guess_that_meets_nan_can_fall_back_to_sequential(value: float) -> None:
    p = problem(mixture(), STEPPERS["euler"], 10, 2)
    reference = sequential(p)
    assert reference.trajectory is not None
    path = reference.trajectory

    def spoil(out: torch.Tensor, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        # Anything off the true path of sample 0 at nodes 5 and later is spoilt, as an overflow far away would.
        far = (node >= 5) & ((x[:, None] - path[:, node].transpose(0, 1)).abs().amax(2).amin(1) > 1e-9)
        return torch.where(far[:, None], value, out)

    bad = dataclasses.replace(p, evaluate=Counting(p, spoil))
    stopped = solve(bad, EXACT, sliding(8))
    assert stopped.results == (Result.NONFINITE,) * 2
    saved = solve(bad, EXACT, sliding(8), nonfinite="sequential")
    assert saved.results == (Result.FELL_BACK,) * 2
    assert saved.ok
    torch.testing.assert_close(saved.x, reference.x)
    assert saved.stats.sweeps <= 11


@pytest.mark.parametrize("call", range(1, 9))
def test_the_printed_stride_survives_nan_too(call: int) -> None:
    """What a spoilt call costs is in the default limit on sweeps."""
    p = problem(mixture(), STEPPERS["euler"], 12, 1)
    counting = Counting(p)
    counting.spoil = lambda out, x, node: out * torch.nan if counting.calls == call else out
    solver = ParaFlow(ParaFlowConfig(tolerance=0.0, stride="printed"))
    found = solve(dataclasses.replace(p, evaluate=counting), solver, sliding(6), nonfinite="sequential")
    assert found.results == (Result.FELL_BACK,)
    torch.testing.assert_close(found.x, sequential(p).x)


def test_a_network_that_is_broken_everywhere_ends_the_fallback_too() -> None:
    p = problem(mixture(), STEPPERS["euler"], 10, 2)
    bad = dataclasses.replace(p, evaluate=lambda x, node, cond: x * torch.nan)
    found = solve(bad, EXACT, sliding(4), nonfinite="sequential")
    assert found.results == (Result.NONFINITE,) * 2
    assert torch.equal(found.x, p.x0)


def test_max_sweeps_gives_the_clean_estimate() -> None:
    p = problem(mixture(), STEPPERS["euler"], 20, 2, guidance=1.0)
    found = solve(p, EXACT, sliding(4), max_sweeps=5)
    assert found.results == (Result.MAX_SWEEPS,) * 2
    assert found.stats.sweeps == 5
    assert "Raise max_sweeps" in found.results[0].value
    front = sequential(p).trajectory[:, 4]  # type: ignore[index]
    node = torch.full((2,), 4)
    m = p.output(front, node, torch.arange(2))
    torch.testing.assert_close(found.x, p.clean(front, m, node))


def test_callback_sees_every_sweep_and_previews_converge() -> None:
    p = problem(mixture(), STEPPERS["euler"], 30, 4, guidance=1.0)
    seen: list[SweepInfo] = []
    errors: list[float] = []
    final = sequential(p).x

    def look(info: SweepInfo) -> None:
        seen.append(info)
        errors.append(float(relative_rmse(info.clean(), final).mean()))

    found = solve(p, ParaFlow(ParaFlowConfig(tolerance=1e-3)), sliding(8), callback=look)
    assert [info.sweep for info in seen] == list(range(1, found.stats.sweeps + 1))
    assert errors[-1] < 1e-2 < errors[0]
    assert seen[-1].fronts.tolist() == [30] * 4
    total = torch.stack(found.stats.strides).sum(0)
    assert total.tolist() == [30] * 4


def test_each_sample_slides_on_its_own() -> None:
    p = problem(mixture(), STEPPERS["euler"], 40, 6, guidance=1.0)
    found = solve(p, ParaFlow(ParaFlowConfig(tolerance=1e-2)), sliding(8))
    assert len(set(found.stats.sample_iterations.tolist())) > 1
    assert found.stats.iterations == int(found.stats.sample_iterations.max())


def test_buffers_do_not_grow_with_the_steps() -> None:
    sizes = [
        solve(problem(mixture(), STEPPERS["ddim-1"], n, 2), EXACT, sliding(8)).stats.buffer_bytes for n in (50, 400)
    ]
    assert sizes[0] == sizes[1]


def test_noise_of_a_step_is_drawn_once_and_depends_on_seed_and_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from paraflowkit import buffers as module
    from paraflowkit.core import draws

    asked: list[tuple[int, int]] = []

    def counted(seed: int, counter: int, shape: tuple[int, ...]) -> torch.Tensor:
        asked.append((seed, counter))
        return draws.draw(seed, counter, shape)

    p = problem(mixture(), STEPPERS["ddim-1"], 12, 3)
    monkeypatch.setattr(module, "draw", counted)
    solve(p, EXACT, sliding(5))
    assert sorted(asked) == [(seed, n + 1) for seed in p.seeds for n in range(12)]


@pytest.mark.parametrize("where", ["euler", "ddim-1", "unipc"])
def test_a_solver_may_go_on_alone(where: str) -> None:
    """Steps that are taken one by one afterwards are the sequential sampler's, with noise and history too."""

    class Leaves(ParaFlow):
        widths: ClassVar[list[int]] = []

        def sweep(self, state: Any, sweep: Sweep) -> Any:
            self.widths.append(sweep.n.shape[1])
            if sweep.n.shape[1] == 1:
                return sweep.phi, state
            found, state = super().sweep(state, sweep)
            update = found if isinstance(found, Update) else Update(found)
            return dataclasses.replace(update, alone=len(self.widths) == 3), state

    Leaves.widths.clear()
    if where == "unipc":
        p = problem(mixture("vp"), make_stepper("unipc", order=3), 12, 3)
    else:
        p = problem(mixture("vp" if where == "ddim-1" else "flow"), STEPPERS[where], 12, 3)
    found = solve(p, Leaves(ParaFlowConfig(tolerance=0.0)), sliding(5), trajectory=True)
    wanted = sequential(p)
    assert found.ok
    assert Leaves.widths[:3] == [5] * 3
    assert set(Leaves.widths[3:]) == {1}
    torch.testing.assert_close(found.trajectory, wanted.trajectory, rtol=0, atol=1e-12)
    assert {r.shape for r in found.stats.residuals} == {(3, 5)}
    assert found.stats.sweeps <= 12


def test_unchanged_states_are_not_evaluated_again() -> None:
    p = problem(mixture(), STEPPERS["euler"], 12, 1)
    zero = dataclasses.replace(p, evaluate=lambda x, node, cond: torch.zeros_like(x), prediction=p.wants)
    found = solve(zero, EXACT, sliding(12))
    assert found.stats.evaluations.tolist() == [12]
    assert found.stats.iterations == 1


@pytest.mark.parametrize("norm", ["absolute", "sigma", "posterior"])
def test_norms_lead_to_the_solution(norm: str) -> None:
    p = problem(mixture("vp"), STEPPERS["ddim-0"], 25, 2)
    reference = sequential(p).x
    found = solve(p, ParaDiGMS(ParaDiGMSConfig(tolerance=1e-2, norm=norm)), sliding(8))  # type: ignore[arg-type]
    assert found.ok
    assert relative_rmse(found.x, reference).max() < 0.05


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"nonfinite": "ignore"}, "'stop' or 'sequential'"), ({"max_rows": 0}, "max_rows"), ({"max_sweeps": 0}, "max_sw")],
)
def test_ill_settings_get_a_sentence(settings: dict[str, object], words: str) -> None:
    p = problem(mixture(), STEPPERS["euler"], 3)
    with pytest.raises(ValueError, match=words):
        solve(p, EXACT, sliding(2), **settings)  # type: ignore[arg-type]


def test_pieces_that_do_not_fit_get_a_sentence() -> None:
    euler = STEPPERS["euler"]
    with pytest.raises(ValueError, match="at least one seed"):
        make_problem(mixture(), euler, make_grid(mixture().noise, 5), [])
    with pytest.raises(ValueError, match="use guidance 1"):
        make_problem(mixture(), euler, make_grid(mixture().noise, 5), [1], guidance=2.0)
    with pytest.raises(ValueError, match="Class 4 does not exist"):
        make_problem(mixture(), euler, make_grid(mixture().noise, 5), [1], classes=[4])
    with pytest.raises(ValueError, match="not 'prompts'"):
        make_problem(mixture(), euler, make_grid(mixture().noise, 5), [1], prompts=["a cat"])


def test_clipping_derives_every_parameterisation_again_from_the_clipped_data() -> None:
    model = mixture("vp", prediction="noise")
    p = make_problem(
        model, STEPPERS["ddim-0"], make_grid(model.noise, 5), [1, 2], dtype=torch.float64, treatment=Treatment(clip=0.1)
    )
    out = p.output(p.x0, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    assert out.abs().max() <= 0.1
    assert sequential(p).x.abs().max() <= 0.1 + 1e-12


def test_base_settings_are_frozen_and_strict() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        SolverConfig(tolerance=-1.0)
    with pytest.raises(ValidationError):
        SolverConfig(tolerence=1.0)  # type: ignore[call-arg]
