"""The solver ``lattice``: what it evaluates and how far it is from sequential sampling; what the driver does for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Counting, fixed, make_solver, make_stepper, mixture, problem, sequential, sliding
from torch import Tensor

from paraflowkit.core.config import SolverConfig
from paraflowkit.core.march import picard
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep, Update
from paraflowkit.core.window import WindowPolicy
from paraflowkit.prediction import Prediction
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import SweepInfo, solve

SMOOTH: dict[str, tuple[str, str, dict[str, Any]]] = {
    "euler": ("flow", "euler", {}),
    "ddim": ("vp", "ddim", {}),
    "dpm-2": ("vp", "dpm-solver", {"order": 2}),
    "dpm-3": ("vp", "dpm-solver", {"order": 3}),
    "unipc": ("vp", "unipc", {"order": 3}),
}


def smooth_problem(name: str, steps: int, batch: int = 4, **more: Any) -> Problem:
    process, stepper, given = SMOOTH[name]
    return problem(mixture(process), make_stepper(stepper, **given), steps, batch, **{"guidance": 2.0, **more})


def wild(p: Problem, size: float = 0.1) -> Problem:
    """The problem with a network that jumps with state and node, so that nothing about it can be extrapolated."""

    def jump(x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        return size * torch.sin(1000 * x + 97.0 * node[:, None] + torch.arange(x.shape[1]))

    return dataclasses.replace(p, evaluate=jump, prediction=Prediction.DATA, cond=None, uncond=None, guidance=None)


def error(found: Solution, p: Problem, reference: Tensor | None = None) -> float:
    """The largest relative error of a sample."""
    return float(relative_rmse(found.x, sequential(p).x if reference is None else reference, p.data_std).max())


class Watch:
    """A callback that notes what each sweep evaluated and how far its windows reached."""

    def __init__(self) -> None:
        self.evaluated: list[list[int]] = []
        self.ends: list[list[int]] = []
        self._before: Tensor | None = None

    def __call__(self, info: SweepInfo) -> None:
        now = info.stats.evaluations.clone()
        self.evaluated.append((now if self._before is None else now - self._before).tolist())
        self.ends.append(info.ends.tolist())
        self._before = now


# At a tolerance


@pytest.mark.parametrize("wanted", [1e-2, 1e-3])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_final_error_is_what_was_asked_for(name: str, wanted: float) -> None:
    p = smooth_problem(name, 64)
    reference = sequential(p).x
    for policy in (sliding(4), sliding(12), fixed(4)) if wanted == 1e-2 else (sliding(4), sliding(12)):
        found = solve(p, make_solver("lattice", error=wanted), policy)
        assert found.ok
        assert error(found, p, reference) <= wanted


@pytest.mark.parametrize("name", ["dpm-2", "dpm-3", "unipc"])
def test_steps_that_look_back_see_the_interpolated_predictions(name: str) -> None:
    """Of nodes that were accepted unseen; any other output there is an error of its own."""
    p = smooth_problem(name, 128)
    state = make_solver("lattice", error=1e-3).init(p)
    assert int(state.spacing[0]) > 1
    reference = sequential(p).x
    for size in (8, 16):
        found = solve(p, make_solver("lattice", error=1e-3), sliding(size))
        assert error(found, p, reference) <= 1e-3
        assert int(found.stats.evaluations.max()) < 2 * 128


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_it_evaluates_fewer_nodes_than_there_are_steps(name: str) -> None:
    p = smooth_problem(name, 64)
    counting = Counting(p)
    found = solve(dataclasses.replace(p, evaluate=counting), make_solver("lattice", error=1e-2), sliding(4))
    assert int(found.stats.evaluations.max()) < 64
    assert counting.rows == found.stats.rows == 2 * int(found.stats.evaluations.sum())
    assert set(counting.nodes) < set(range(64))
    every = solve(p, make_solver("secant", error=1e-2), sliding(4))
    # Of the samples, one of which finds its lattice too coarse and goes on with a finer one.
    assert found.stats.sample_iterations.sum() < 0.7 * every.stats.sample_iterations.sum()


@pytest.mark.parametrize("wanted", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_iterations_hardly_grow_with_the_steps(name: str, wanted: float) -> None:
    solver = make_solver("lattice", error=wanted)
    few, many = (solve(smooth_problem(name, steps), solver, sliding(8)).stats for steps in (64, 512))
    assert many.iterations <= 1.5 * few.iterations
    assert int(many.evaluations.max()) < 512


@pytest.mark.parametrize("size", [1, 3, 8, 100])
@pytest.mark.parametrize("wanted", [1e-2, 1e-5])
def test_a_sweep_evaluates_no_more_nodes_than_the_window_has(size: int, wanted: float) -> None:
    p = smooth_problem("ddim", 50, batch=3)
    watch = Watch()
    found = solve(p, make_solver("lattice", error=wanted), sliding(size), callback=watch)
    assert max(map(max, watch.evaluated)) <= size
    assert watch.evaluated[0] == [1] * 3  # before the window opens
    assert found.stats.sweeps <= 50
    assert error(found, p) <= wanted


@pytest.mark.parametrize("name", SMOOTH)
def test_a_lattice_that_is_too_coarse_is_refined(name: str) -> None:
    p = smooth_problem(name, 64)
    found = solve(p, make_solver("lattice", error=1e-6, spacing=8), sliding(8))
    assert error(found, p) <= 1e-6
    assert found.stats.sweeps <= 64


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("steps", [12, 25])
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_what_is_coarser_than_usual_is_not_trusted_where_nodes_are_too_few_to_tell(
    name: str, steps: int, size: int
) -> None:
    p = smooth_problem(name, steps)
    reference = sequential(p).x
    for wanted in (1e-2, 1e-6):
        found = solve(p, make_solver("lattice", error=wanted, spacing=8), sliding(size))
        assert error(found, p, reference) <= wanted


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 30),
    size=st.integers(1, 12),
    wanted=st.sampled_from([1.0, 1e-1, 1e-2, 1e-4, 1e-8]),
    spacing=st.sampled_from([None, 1, 2, 4, 8, 64]),
    jumps=st.booleans(),
)
def test_it_never_takes_more_sweeps_than_steps(
    steps: int, size: int, wanted: float, spacing: int | None, jumps: bool
) -> None:
    p = smooth_problem("euler", steps, batch=2)
    if jumps:
        p = wild(p)
    found = solve(p, make_solver("lattice", error=wanted, spacing=spacing), sliding(size))
    assert found.ok
    assert found.stats.sweeps <= steps
    if wanted == 1e-8 and not jumps:
        assert error(found, p) <= wanted


@pytest.mark.parametrize("size", [0.1, 1.0])
def test_a_front_may_wait_for_a_finer_lattice(size: int) -> None:
    p = wild(problem(mixture(), make_stepper("euler"), 50, 2), size)
    found = solve(p, make_solver("lattice", error=1e-2, spacing=4), sliding(16))
    strides, fronts = torch.stack(found.stats.strides), torch.stack(found.stats.fronts)
    waits = (strides == 0) & (fronts < 50)
    assert bool(waits.any()) is (size < 1)  # the larger jumps never let a front get ahead
    assert bool((fronts >= torch.arange(len(fronts))[:, None])[waits].all())
    assert found.ok
    assert found.stats.sweeps <= 50
    tight = solve(p, make_solver("lattice", error=1e-9, spacing=4), sliding(16))
    assert tight.stats.sweeps <= 50
    assert error(tight, p) <= 1e-9


@pytest.mark.parametrize("name", SMOOTH)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    p = smooth_problem(name, 50)
    p = dataclasses.replace(p, guidance=torch.tensor([1.0, 2.0, 7.5, 1.0], dtype=torch.float64))
    solver = make_solver("lattice", error=1e-2)
    together = solve(p, solver, sliding(6))
    assert len(set(together.stats.evaluations.tolist())) > 1
    for i in range(4):
        part = slice(i, i + 1)
        assert p.cond is not None
        assert p.uncond is not None
        assert p.guidance is not None
        rest = {"cond": p.cond[part], "uncond": p.uncond[part], "guidance": p.guidance[part]}
        alone = solve(dataclasses.replace(p, x0=p.x0[part], seeds=p.seeds[part], **rest), solver, sliding(6))
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=0, atol=1e-10)
        assert alone.stats.evaluations[0] == together.stats.evaluations[i]
        assert alone.stats.sample_iterations[0] == together.stats.sample_iterations[i]


def test_a_tolerance_of_each_step_works_too() -> None:
    p = smooth_problem("ddim", 64)
    errors = []
    for tolerance in (1e-1, 1e-3, 0.0):
        found = solve(p, make_solver("lattice", tolerance=tolerance), sliding(8))
        errors.append(error(found, p))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 5e-3
    assert errors[2] < 1e-10


# What the driver does for such solvers


class Stretched(ParallelSolver[SolverConfig, None]):
    """Picard iteration on windows that reach three times as far as what is evaluated."""

    def __init__(self, **given: Any) -> None:
        super().__init__(SolverConfig(tolerance=0.0, **given))

    def init(self, problem: Problem) -> None:
        return None

    def stretch(self, state: None) -> int:
        return 3

    def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor | Update, None]:
        return picard(sweep), state


@pytest.mark.parametrize("policy", [sliding(4), fixed(4)])
def test_windows_are_stretched_and_as_many_nodes_evaluated_as_the_policy_asks_for(policy: WindowPolicy[Any]) -> None:
    p = problem(mixture(), make_stepper("euler"), 30, 2)
    watch, counting = Watch(), Counting(p)
    found = solve(dataclasses.replace(p, evaluate=counting), Stretched(), policy, callback=watch)
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-10)
    assert found.stats.sweeps <= 30
    assert max(map(max, watch.evaluated)) == 4
    assert counting.nodes[:8] == [0, 1, 2, 3] * 2  # the first of those that the solver names: all
    lengths = [
        [end - front for front, end in zip(fronts.tolist(), ends, strict=True)]
        for fronts, ends in zip(found.stats.fronts, watch.ends, strict=True)
    ]
    assert lengths[0] == [12, 12]
    if policy.limit(5) == policy.limit(30) and type(policy).__name__ == "Sliding":
        for fronts, length in zip(found.stats.fronts, lengths, strict=True):
            assert length == [min(12, 30 - front) for front in fronts.tolist()]


def test_a_step_before_the_window_opens_is_not_stretched() -> None:
    p = problem(mixture(), make_stepper("euler"), 20)
    watch = Watch()
    solve(p, Stretched(precondition=2), sliding(4), callback=watch)
    assert watch.ends[:3] == [[1], [2], [14]]
    assert watch.evaluated[:3] == [[1], [1], [4]]


class Waiting(Stretched):
    """Accepts four states at once, and then would wait for ever."""

    def stretch(self, state: None) -> int:
        return 1

    def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor | Update, None]:
        first = int(sweep.n[0, 0]) == 0
        limit, least = torch.full((2, len(sweep.n)), 4 if first else 0)
        return Update(picard(sweep), residual=torch.zeros(sweep.n.shape).double(), limit=limit, least=least), state


def test_a_front_waits_only_as_long_as_there_are_sweeps_enough() -> None:
    p = problem(mixture(), make_stepper("euler"), 12, 2)
    found = solve(p, Waiting(), sliding(6))
    assert found.ok
    assert torch.stack(found.stats.strides)[:, 0].tolist() == [4, 0, 0, 0] + [1] * 8
    assert found.stats.sweeps == 12


def test_a_front_that_must_not_wait_moves_by_one() -> None:
    class Impatient(Waiting):
        def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor | Update, None]:
            update, state = super().sweep(state, sweep)
            assert isinstance(update, Update)
            return dataclasses.replace(update, least=None), state

    p = problem(mixture(), make_stepper("euler"), 12, 2)
    assert torch.stack(solve(p, Impatient(), sliding(6)).stats.strides)[:, 0].tolist() == [4] + [1] * 8


class Choosing(Stretched):
    """Knows its own window."""

    def window(self, state: None, policy: WindowPolicy[Any]) -> WindowPolicy[Any]:
        assert policy.limit(30) == 9
        return sliding(2)


def test_a_solvers_window_takes_the_place_of_the_policy() -> None:
    p = problem(mixture(), make_stepper("euler"), 30, 2)
    watch = Watch()
    found = solve(p, Choosing(), sliding(9), callback=watch)
    assert max(map(max, watch.evaluated)) == 2
    assert watch.ends[0] == [6, 6]
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-10)


class Knowing(ParallelSolver[SolverConfig, None]):
    """Evaluates the front alone, and knows what the network would say of the next two nodes."""

    def __init__(self, states: Tensor, outputs: Tensor, **given: Any) -> None:
        super().__init__(SolverConfig(tolerance=0.0, **given))
        self.states, self.outputs = states, outputs

    def init(self, problem: Problem) -> None:
        return None

    def select(self, state: None, n: Tensor, valid: Tensor) -> Tensor:
        return valid & (torch.arange(n.shape[1]) == 0)

    def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor | Update, None]:
        rows = torch.arange(len(sweep.n))[:, None]
        new = torch.cat([sweep.phi[:, :1], self.states[rows, sweep.n + 1][:, 1:]], 1)
        still = torch.zeros(sweep.n.shape).double()
        limit = torch.full((len(sweep.n),), 3)
        return Update(new, residual=still, limit=limit, outputs=self.outputs[rows, sweep.n]), state


@pytest.mark.parametrize("entering", ["constant", "noise", "clean_estimate"])
def test_outputs_of_nodes_that_were_accepted_unseen_are_the_solvers(entering: str) -> None:
    """Steps of order 3 look back at them, whatever guesses are made in the meantime."""
    p = smooth_problem("dpm-3", 20, batch=2)
    states = sequential(p).trajectory
    assert states is not None
    both = torch.arange(2)
    outputs = torch.stack([p.output(states[:, k], torch.full((2,), k), both) for k in range(20)], 1)
    solver = Knowing(states, outputs, entering=entering, precondition=1)
    found = solve(p, solver, sliding(6), trajectory=True)
    assert found.trajectory is not None
    assert found.stats.evaluations.tolist() == [8, 8]  # nodes 0, 1, 4, 7, …, 19
    torch.testing.assert_close(found.trajectory, states, rtol=0, atol=1e-12)
    wrong = Knowing(states, outputs + 1, entering=entering, precondition=1)
    other = solve(p, wrong, sliding(6), trajectory=True).trajectory
    assert other is not None
    assert (other - states)[:, 5::3].abs().amin((0, 2))[:-2].min() > 1e-4  # the last steps look back at less
