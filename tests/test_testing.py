"""The conformance kit: what is shipped passes it, and what is wrong is caught by the check that names the cause."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import SkipTest, mock

import planted_faults as planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paraflowkit import registry
from paraflowkit.core.problem import Problem
from paraflowkit.grid import TimeGrid
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import VP
from paraflowkit.prediction import Prediction
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaFlowConfig, SequentialConfig
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.solvers.sequential import Sequential
from paraflowkit.table import StepTable
from paraflowkit.testing import (
    CheckFailed,
    _watch,
    check_component,
    check_model,
    check_solver,
    check_stepper,
    check_window,
    checks_of,
    parametrize_with_checks,
    strategies,
)
from paraflowkit.testing._problems import Counting, make, sequential
from paraflowkit.testing._watch import gap, same, sliding

KINDS = ("solver", "stepper", "model", "window")
#: Settings of components that have no usable defaults.
NEEDED = {"stepper:clipped-ddim": ",clip=20.0"}
#: Models of folders, which test_adapters_networks.py checks on tiny ones.
FOLDERS = {f"model:{name}" for name in ("diffusers-unet", "diffusers-transformer", "diffusers-pipeline", "edm")}
#: Other settings that change what a component does.
VARIANTS = [
    "solver:paraflow,stride=printed",
    "solver:paraflow,precondition=2,guess=clean_estimate,entering=clean_estimate",
    "solver:paradigms,norm=sigma,guess=noise,entering=noise",
    "solver:parataa,order=1,memory=1",
    "solver:parataa,order=4,memory=5",
    "solver:parasolver,subintervals=4",
    "solver:parasolver,subintervals=4,inner=parallel",
    "solver:parasolver,precondition=0,guess=noise",
    "solver:parasolver-turbo,degree=2",
    "stepper:dpm-solver,order=3",
    "stepper:dpm-solver,order=2,algorithm=sde-dpmsolver++",
    "stepper:dpm-solver-singlestep,order=3",
    "stepper:unipc,order=3,predict=noise",
    "stepper:lms,order=2",
    "stepper:edm,s_churn=10",
    "stepper:ddim,eta=1.0",
    "stepper:ddpm,variance=learned_range",
    "model:gaussian-mixture,process=vp,prediction=v",
    "model:gaussian-mixture,process=ve,prediction=noise",
    "model:gaussian-mixture,prediction=velocity",
    "window:sliding,size=1",
    "window:sliding,size=100",
    "window:fixed,size=5",
]


def shipped(kind: str) -> list[str]:
    """What this distribution registers; other plugins have tests of their own."""
    named = [f"{kind}:{e.name}" for e in registry.entries(kind) if e.distribution == "paraflowkit"]
    return [name + NEEDED.get(name, "") for name in named if name not in FOLDERS]


#: Of those that are built alike one is enough for a quick look; the slow tests check all.
ALIKE = ["solver:paradigms", "solver:parasolver", "solver:sequential", "model:digits-flow", "model:digits-vp"]
FAST = [name for kind in KINDS for name in shipped(kind) if kind != "stepper" and name not in ALIKE]


@parametrize_with_checks([*FAST, "stepper:euler", "stepper:ddpm"])
def test_shipped(component: Any, check: Any) -> None:
    check(component)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*shipped("stepper"), *ALIKE])
def test_all_others_that_are_shipped(name: str) -> None:
    check_component(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_settings_that_change_what_a_component_does(name: str) -> None:
    check_component(name)


# (what is wrong, the checks that catch it first of all, words of the message)
SOLVERS: list[tuple[type, tuple[str, ...], str]] = [
    (planted.ResetHistory, ("check_history",), "history behind the window was reset: keep x[lo-1], m[lo-1]"),
    (planted.ForgottenNoise, ("check_noise",), "noise drawn beforehand was forgotten"),
    (planted.RedrawnNoise, ("check_noise", "check_repeatable", "check_state"), "drawn from a random generator"),
    (planted.OffByOneStride, ("check_exact", "check_stride"), "stride is off by one"),
    (planted.AcceptsUnevaluated, ("check_exact", "check_accepts_evaluated"), "of which 1 come of evaluated steps"),
    (planted.MutatesSweep, ("check_inputs_unmutated",), "sweep.phi was changed in place"),
    (planted.MutatesProblem, ("check_inputs_unmutated",), "problem.x0 was changed in place"),
    (planted.LeaksOverBatch, ("check_batch_independent", "check_nan"), "samples look at each other"),
    (planted.WaitsForSlowest, ("check_batch_independent",), "let every sample keep its own front"),
    (planted.LiesAboutEvaluations, ("check_counts",), "the solver called the network itself"),
    (planted.RoundsFront, ("check_front",), "is not phi[:, 0]"),
    (planted.KeepsOnObject, ("check_state", "check_repeatable"), "an attribute of the solver changed"),
    (planted.MutatesState, ("check_state",), "the state given to sweep was changed in place"),
    (planted.StateIsADictionary, ("check_protocol",), "frozen dataclass"),
    (planted.ResidualOfTheBatch, ("check_protocol",), "residual is torch.float64 (3, 1) and not torch.float64 (3, 5)"),
    (planted.WidensStates, ("check_dtypes",), "float32 states came back as torch.float64"),
    (planted.ReadsCoefficients, ("check_not_affine",), "AttributeError"),
    (planted.IgnoresTolerance, ("check_tolerance",), "does not fall with the tolerance"),
    (planted.DividesBySteps, ("check_inner_stages",), "predicted nodes are steps of their own"),
    (planted.GuidesTwice, ("check_guidance",), "guidance was applied twice"),
    (planted.MindsTheWindow, ("check_window_independent",), "the window must only change the cost"),
    (planted.SpreadsNaN, ("check_nan",), "0 · NaN is NaN"),
    (planted.RemembersNaN, ("check_nan_sequential",), "lives on in the solver's state"),
    (planted.DrawsGuesses, ("check_state", "check_repeatable"), "random generator"),
    (planted.SwallowsSettings, ("check_settings",), "an unknown setting is accepted"),
    (planted.RefusesZero, ("check_exact",), "tolerance 0 is refused"),
]
OTHERS: list[tuple[type, tuple[str, ...], str]] = [
    (planted.BeyondLimit, ("check_slides",), "is longer than limit"),
    (planted.StartsLate, ("check_slides",), "initial starts at node 0"),
    (planted.SkipsAState, ("check_slides",), "more would skip states"),
    (planted.FallsBack, ("check_slides",), "the end fell back"),
    (planted.PassesTheEnd, ("check_slides",), "passes the last of"),
    (planted.CountsCalls, ("check_slides", "check_from_anywhere"), "keep nothing on the object"),
    (planted.FitChangesIt, ("check_fit",), "fit changed the policy"),
    (planted.Stops, ("check_slides",), "is empty"),
    (planted.ClaimsTwo, ("check_order",), "is measured and 2 claimed"),
    (planted.VPFormula, ("check_order",), "written for one process or for equal steps only"),
    (planted.EqualSteps, ("check_order",), "written for one process or for equal steps only"),
    (planted.TooMuchNoise, ("check_moments",), "the variance does not converge"),
    (planted.RemembersCalls, ("check_pure",), "keep nothing on the object"),
    (planted.MutatesGrid, ("check_pure",), "the grid was changed in place"),
    (planted.RefusesAll, ("check_rule",), "every process is refused"),
    (planted.LeavesItToTheTable, ("check_rule",), "refuse nodes on which the method does not exist"),
    (planted.OneStepShort, ("check_rule",), "nodes(grid) and table(nodes) must agree"),
    (planted.LooksAhead, ("check_apply", "check_parallel"), "it looks at a later node"),
    (planted.WidensSteps, ("check_dtypes",), "cast the coefficients"),
    (planted.CentresRows, ("check_rows",), "rows look at each other"),
    (planted.RoundsTimes, ("check_times",), "times are rounded or ignored"),
    (planted.ScalesInPlace, ("check_inputs_unmutated",), "an argument was changed in place"),
    (planted.Drops, ("check_deterministic",), "dropout is on"),
    (planted.RunningStatistics, ("check_frozen",), "running statistics"),
    (planted.IgnoresClasses, ("check_condition_matters",), "forward leaves cond out"),
    (planted.AcceptsNonsense, ("check_conditions",), "class 1000000000 is accepted"),
    (planted.WidensOutputs, ("check_output",), "gave torch.float64 outputs"),
    (planted.HalvesShape, ("check_output",), "gave outputs (3, 1)"),
    (planted.NoDeviation, ("check_attributes",), "data_std is 0.0"),
]
RIGHT = {"solver": planted.Right, "window": planted.Policy, "stepper": planted.Stepper, "model": planted.Model}


def named(kind: str, name: str) -> Any:
    return {check.__name__: check for check in checks_of(kind)}[name]


def kind_of(cls: type) -> str:
    return next(kind for kind, right in RIGHT.items() if issubclass(cls, right))


@pytest.mark.parametrize(
    ("wrong", "checks", "words"), [pytest.param(*case, id=case[0].__name__) for case in SOLVERS + OTHERS]
)
def test_fault_is_caught_by_name(wrong: type, checks: tuple[str, ...], words: str) -> None:
    """Each named check refuses the fault and passes the same component without it."""
    kind = kind_of(wrong)
    told = []
    for name in checks:
        check = named(kind, name)
        check(RIGHT[kind](RIGHT[kind].config_cls()))
        component = wrong(wrong.config_cls())  # type: ignore[attr-defined]
        with torch.random.fork_rng():
            torch.manual_seed(0)  # some faults draw random numbers
            with pytest.raises(CheckFailed) as failure:
                check(component)
        assert failure.value.checks == (name,)
        assert str(failure.value).startswith(f"{name}: ")
        told.append(str(failure.value))
    assert words in "\n".join(told)


#: Faults that leave every other duty fulfilled: no other check may complain of them.
ALONE = [
    *(planted.MutatesSweep, planted.WaitsForSlowest, planted.LiesAboutEvaluations, planted.RoundsFront),
    *(planted.MutatesState, planted.StateIsADictionary, planted.WidensStates, planted.ReadsCoefficients),
    *(planted.IgnoresTolerance, planted.DividesBySteps, planted.SpreadsNaN, planted.RemembersNaN),
    *(planted.RefusesZero, planted.RefusesAll, planted.ClaimsTwo, planted.EqualSteps, planted.TooMuchNoise),
    *(planted.MutatesGrid, planted.WidensSteps, planted.CentresRows, planted.RoundsTimes, planted.IgnoresClasses),
]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ALONE)
def test_fault_is_caught_by_nothing_else(wrong: type) -> None:
    ((_, checks, _),) = [case for case in SOLVERS + OTHERS if case[0] is wrong]
    with pytest.raises(CheckFailed) as failure:
        check_component(wrong)
    assert failure.value.checks == checks


@pytest.mark.slow
def test_the_acceptance_of_the_turbo_paper_is_seen_for_what_it_is() -> None:
    """It accepts states that the network has never seen, and keeps every other promise."""
    with pytest.raises(CheckFailed) as failure:
        check_solver("parasolver-turbo,accept=all,degree=2")
    assert failure.value.checks == ("check_accepts_evaluated",)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_passes(kind: str) -> None:
    check_component(RIGHT[kind])


def test_later_checks_send_to_the_first_one() -> None:
    """History is not blamed for what fails without any."""
    with pytest.raises(CheckFailed, match="check_exact fails too: mend that first"):
        named("solver", "check_history")(planted.OffByOneStride(planted.SolverConfig()))
    with pytest.raises(CheckFailed, match="check_history fails too: mend that first"):
        named("solver", "check_inner_stages")(planted.ResetHistory(planted.SolverConfig()))


def test_chunks_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No solver sees chunks, so the fault is planted in the driver that the check calls."""

    def careless(problem: Problem, *given: Any, max_rows: int | None = None, **more: Any) -> Any:
        found = solve(problem, *given, max_rows=max_rows, **more)
        return found if max_rows is None else dataclasses.replace(found, x=found.x + 1e-12)

    monkeypatch.setattr(_watch, "solve", careless)
    with pytest.raises(CheckFailed, match="with at most 2 rows a call the result differs"):
        named("solver", "check_chunks")(planted.Right(planted.SolverConfig()))


def test_all_failures_are_reported_together() -> None:
    with pytest.raises(CheckFailed) as failure:
        check_stepper(planted.LooksAhead)
    first, *lines = str(failure.value).splitlines()
    assert first == f"LooksAhead fails 2 of the {len(checks_of('stepper'))} checks of a stepper:"
    assert [line.split(":")[0].strip() for line in lines] == list(failure.value.checks)


@pytest.mark.parametrize(
    ("call", "given", "words"),
    [
        (check_solver, "paraflo", "Did you mean 'paraflow'"),
        (check_solver, "paraflow,tolerance", "settings follow the name as key=value"),
        (check_solver, "paraflow,tolerance=-1", "tolerance must be at least 0"),
        (check_stepper, "clipped-ddim", "set either 'clip' or 'threshold'"),
        (check_solver, planted.Policy, "Policy is no solver: derive it from ParallelSolver"),
        (check_model, 3, "int is no model"),
        (check_window, planted.Right(planted.SolverConfig()), "Right is no window"),
        (check_component, "paraflow", "write model|stepper|solver|window:NAME"),
        (check_component, object(), "object is no component"),
        (checks_of, "solvers", "Unknown kind 'solvers'"),
    ],
)
def test_what_cannot_be_checked_is_told(call: Any, given: Any, words: str) -> None:
    with pytest.raises((ValueError, registry.PluginError)) as error:
        call(given)
    assert words in str(error.value)


def test_components_are_taken_as_name_class_or_instance() -> None:
    for window in ("sliding", "sliding,size=3", planted.Policy, sliding(2), "paraflowkit.windows.fixed:Fixed"):
        check_window(window)


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_says_what_it_checks(kind: str) -> None:
    checks = checks_of(kind)
    names = [check.__name__ for check in checks]
    assert len(set(names)) == len(names) >= 5
    assert all(name.startswith("check_") for name in names)
    assert all((check.__doc__ or "").strip().endswith(".") for check in checks)
    page = (Path(__file__).parents[1] / "docs" / "testing.md").read_text()
    missing = [name for name in names if f"`{name}`" not in page]
    assert not missing


def test_the_reference_loop_is_the_sequential_solver() -> None:
    """The kit's own loop shares no code with the driver, and they agree."""
    for problem in (make("ve", "lms", 3, order=4), make("vp", "ddim", 3, eta=1.0, guidance=3.0), make("ve", "heun")):
        found = solve(problem, Sequential(SequentialConfig()), sliding(1), trajectory=True)
        assert found.trajectory is not None
        assert float((found.trajectory - sequential(problem)).abs().max()) < 1e-12


def test_same_sees_bits_and_nan() -> None:
    nan = torch.tensor([1.0, torch.nan])
    assert same({"a": [nan, None]}, {"a": [nan.clone(), None]})
    assert not same(nan, nan.double())
    assert not same(torch.tensor(0.1), torch.tensor(0.1) + 1e-8)
    assert float(gap(nan.view(1, 1, 2), torch.ones(1, 1, 2))) == torch.inf
    counting = Counting(make("flow", "euler"))
    assert (counting.rows, counting.calls) == (0, 0)


# parametrize_with_checks


def test_one_case_for_each_component_and_check() -> None:
    mark = parametrize_with_checks(["window:fixed", sliding(3), sliding(4)])
    names = [check.__name__ for check in checks_of("window")]
    ids = [case.id for case in mark.args[1]]
    assert ids == [f"{title}-{name}" for title in ("window-fixed", "Sliding", "Sliding-2") for name in names]


def test_expected_failures_become_strict_xfails() -> None:
    for reasons in ({"check_order": "no"}, lambda stepper: {"check_order": "no"} if stepper.order == 2 else {}):
        mark = parametrize_with_checks([planted.ClaimsTwo], reasons)
        (xfail,) = [mark for case in mark.args[1] for mark in case.marks]
        assert (xfail.name, xfail.kwargs["strict"], xfail.kwargs["reason"]) == ("xfail", True, "no")
    with pytest.raises(ValueError, match=r"'check_ordr', which is no check\. Did you mean 'check_order'"):
        parametrize_with_checks([planted.ClaimsTwo], {"check_ordr": "no"})
    with pytest.raises(ValueError, match="which is no check"):
        parametrize_with_checks([planted.ClaimsTwo], lambda stepper: {"check_front": "of solvers"})


def test_a_check_that_does_not_apply_is_skipped() -> None:
    with pytest.raises(SkipTest, match="the solver has no positive tolerance"):
        named("solver", "check_tolerance")(Sequential(SequentialConfig()))


# Strategies


@settings(max_examples=40, deadline=None)
@given(strategies.tables(max_steps=8))
def test_tables_are_valid(table: StepTable) -> None:
    assert 1 <= table.steps <= 8
    assert 1 <= table.order_in_time <= 4
    x = torch.ones(1, table.order_in_time - 1 + table.steps, 2, dtype=torch.float64)
    z = torch.ones(1, table.steps, 2, dtype=torch.float64)
    out = table.apply(torch.arange(table.steps)[None], x, x, z if table.stochastic else None)
    assert float(out.abs().max()) <= 2 + 1e-12


@settings(max_examples=20, deadline=None)
@given(strategies.tables(stochastic=True, wants=Prediction.NOISE, max_depth=1, min_steps=3))
def test_tables_are_what_was_asked_for(table: StepTable) -> None:
    assert table.stochastic
    assert (table.wants, table.order_in_time) == (Prediction.NOISE, 1)
    assert table.steps >= 3


@settings(max_examples=40, deadline=None)
@given(strategies.grids(min_steps=2, max_steps=9))
def test_grids_run_from_noise_to_data(grid: TimeGrid) -> None:
    assert 2 <= grid.steps <= 9
    assert bool((grid.log_snr[1:] > grid.log_snr[:-1]).all())
    assert float(grid.sigma[-1]) == 0


@settings(max_examples=20, deadline=None)
@given(strategies.grids(noise=VP(schedule="cosine"), even=False))
def test_uneven_vp_grids_are_whole_training_steps(grid: TimeGrid) -> None:
    assert torch.equal(grid.t, grid.t.round())


@settings(max_examples=60, deadline=None)
@given(strategies.problems(), st.integers(1, 13))
def test_any_problem_is_solved_exactly(problem: Problem, width: int) -> None:
    wanted = sequential(problem)
    assert bool(wanted.isfinite().all())
    found = solve(problem, ParaFlow(ParaFlowConfig(tolerance=0.0)), sliding(width), trajectory=True)
    assert found.ok
    assert found.stats.sweeps <= problem.steps
    assert found.trajectory is not None
    assert float(gap(found.trajectory, wanted).max()) < 1e-9


@settings(max_examples=20, deadline=None)
@given(strategies.problems(guided=True, foreign=True, max_batch=2, dtype=torch.float32))
def test_problems_are_what_was_asked_for(problem: Problem) -> None:
    assert problem.cond is not None
    assert len(problem.x0) <= 2
    assert problem.x0.dtype == torch.float32
    assert isinstance(problem.rule, StepTable)
    assert problem.wants is Prediction.DATA


# The plugin

PLUGIN = ["-p", "paraflowkit.testing.pytest_plugin"]
CONFORMANCE = ["--pyargs", "paraflowkit.testing.conformance"]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Pytest in a folder of its own, with nothing of this project's configuration: exit code, output and errors."""
    registered = any(point.value == PLUGIN[1] for point in entry_points(group="pytest11"))
    usual = ["-p", "no:cacheprovider", "-p", "no:faulthandler", *([] if registered else PLUGIN)]

    def go(*arguments: str) -> tuple[int, str, str]:
        with mock.patch.dict(os.environ), monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
            code = pytest.main([*usual, *arguments])
        sys.modules.pop("test_mine", None)
        return code, *capsys.readouterr()

    return go


def test_an_installed_component_is_checked_without_a_test_file(run: Run) -> None:
    components = ("--component", "window:sliding,size=3", "--component", "model:gaussian-mixture")
    code, told, _ = run("-v", *CONFORMANCE, *components)
    assert code == 0
    assert "test_conformance[window-sliding,size=3-check_slides] PASSED" in told
    assert "test_conformance[model-gaussian-mixture-check_rows] PASSED" in told


@pytest.mark.parametrize(
    ("component", "words"),
    [
        ("solver:paraflo", "unknown solver 'paraflo'. Did you mean 'paraflow'?"),
        ("paraflow", "'paraflow' does not say what it is: write model|stepper|solver|window:NAME."),
        ("stepper:clipped-ddim", "stepper 'clipped-ddim' cannot be made with these settings: set either"),
    ],
)
def test_a_component_that_cannot_be_made_is_one_sentence(run: Run, component: str, words: str) -> None:
    code, _, errors = run(*CONFORMANCE, "--component", component)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert errors.startswith(f"ERROR: --component: {words}")
    assert len(errors.strip().splitlines()) == 1


def test_nothing_named_is_told(run: Run) -> None:
    code, told, _ = run(*CONFORMANCE)
    assert code != 0
    assert "Name what to check, as in --component solver:paraflow" in told


def test_a_third_party_test_file(run: Run, tmp_path: Path) -> None:
    """As in the documentation, with a fault that is expected, one that is not, and one expected in vain."""
    (tmp_path / "test_mine.py").write_text(
        "import planted_faults as mine\n"
        "from paraflowkit.testing import parametrize_with_checks\n"
        "known = {'check_slides': 'halves its window', 'check_solve': 'the driver refuses it'}\n"
        "@parametrize_with_checks([mine.FallsBack], expected_failures=known)\n"
        "def test_expected(component, check):\n    check(component)\n"
        "@parametrize_with_checks([mine.FallsBack])\n"
        "def test_unexpected(component, check):\n    check(component)\n"
        "@parametrize_with_checks([mine.Policy], expected_failures={'check_slides': 'is right'})\n"
        "def test_in_vain(component, check):\n    check(component)\n"
    )
    code, told, _ = run("-rA", "test_mine.py")
    assert code == 1
    assert f"3 failed, {3 * len(checks_of('window')) - 5} passed, 2 xfailed" in told
    assert "FAILED test_mine.py::test_unexpected[FallsBack-check_slides]" in told
    assert "check_slides: the end fell back" in told
    assert "[XPASS(strict)] is right" in told


def test_the_plugin_loads_neither_torch_nor_the_kit() -> None:
    code = (
        "import sys, paraflowkit.testing.pytest_plugin; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'paraflowkit.core', 'paraflowkit.testing._base')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_runtime_does_not_import_the_kit() -> None:
    code = (
        "import sys, paraflowkit.solve, paraflowkit.cli, paraflowkit.config; "
        "sys.exit(any(name.startswith('paraflowkit.testing') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_names_are_lazy() -> None:
    import paraflowkit.testing as kit

    assert set(kit.__all__) <= set(dir(kit))
    assert kit.CheckFailed is CheckFailed
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kit.nothing  # noqa: B018


def test_a_model_is_checked_where_and_as_it_is() -> None:
    """A mixture with a parameter in float64 is called with float64 states."""

    class Wide(GaussianMixture):
        def __init__(self, config: GaussianMixtureConfig) -> None:
            super().__init__(config)
            self.shift = torch.nn.Parameter(torch.zeros(config.dimension, dtype=torch.float64))

        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
            assert x.dtype == torch.float64
            return super().forward(x, t, cond) + self.shift

    check_model(Wide)
