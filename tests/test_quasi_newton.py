"""What the quasi-Newton solvers are made of: responses, interpolation, secants, settings; and the solver ``secant``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import make_solver, make_stepper, mixture, one_gaussian, problem, sequential, sliding
from pydantic import ValidationError
from torch import Tensor

from paraflowkit import registry
from paraflowkit.config import dump, loads
from paraflowkit.core.draws import draw
from paraflowkit.core.interpolation import cubic, leaving_out, left_out, over_window, smooth, usual_spacing
from paraflowkit.core.interpolation import linear as straight
from paraflowkit.core.problem import Problem
from paraflowkit.core.response import Response
from paraflowkit.core.secants import Secants
from paraflowkit.errors import ConfigError
from paraflowkit.prediction import Prediction
from paraflowkit.solution import relative_rmse
from paraflowkit.solve import solve

FAMILY = ("secant", "lattice", "auto")
AFFINE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "euler": ("flow", "euler", {}),
    "dpm-3": ("vp", "dpm-solver", {"order": 3}),
    "lms": ("ve", "lms", {"order": 4}),
    "ddim-half": ("vp", "ddim", {"eta": 0.5}),
    "heun": ("ve", "heun", {}),
}


def linear(p: Problem, slope: float) -> Problem:
    """The problem with a network whose data prediction is the state times a number."""
    return dataclasses.replace(
        p, evaluate=lambda x, node, cond: slope * x, prediction=Prediction.DATA, cond=None, uncond=None, guidance=None
    )


# The nodes of a window


@pytest.mark.parametrize("size", [1, 3, 8, 16, 32, 60])
@pytest.mark.parametrize("steps", [25, 50, 200])
def test_a_window_looks_ahead_and_wastes_nothing(steps: int, size: int) -> None:
    p = problem(mixture("flow"), make_stepper("euler"), steps, 1)
    solver = make_solver("secant", tolerance=1e-3)
    most = min(size, steps)
    state = solver.opened(solver.init(p), most)
    width, gap = min(solver.stretch(state) * most, steps), state.gap
    assert gap == {25: 2, 50: 4, 200: 8}[steps]
    for front in range(steps):
        n = torch.arange(front, front + width)[None]
        valid = n < steps
        on = solver.select(state, n.clamp(max=steps - 1), valid)[0]
        nodes = n[0, on & (on.long().cumsum(0) <= most)].tolist()
        assert len(nodes) == min(most, steps - front)
        near = [node for at, node in enumerate(nodes) if node == front + at]
        assert len(near) >= 0.8 * len(nodes)
        assert all(node % gap == 0 for node in nodes[len(near) :])
        if size >= 16 and front + 2 * size + gap < steps:
            assert nodes[-1] > front + size


def test_lines_between_nodes_and_the_last_value_beyond() -> None:
    made = straight(np.array([0.0, 1.0, 5.0]), np.array([0.0, 1.0, 2.0, 5.0, 9.0]))
    np.testing.assert_allclose(made, [[1, 0, 0], [0, 1, 0], [0, 0.75, 0.25], [0, 0, 1], [0, 0, 1]])


# Responses


@pytest.mark.parametrize("where", AFFINE)
def test_states_of_a_trajectory_follow_from_their_own_predictions(where: str) -> None:
    process, stepper, given = AFFINE[where]
    p = problem(mixture(process), make_stepper(stepper, **given), 9, 2, guidance=3.0)
    found = sequential(p).trajectory
    assert found is not None
    steps, depth = p.steps, p.rule.order_in_time
    response = Response.of(p)
    both = torch.arange(2)
    m = torch.stack([p.output(found[:, k], torch.full((2,), k), both) for k in range(steps)], 1)
    data = torch.stack([p.clean(found[:, k], m[:, k], torch.full((2,), k)) for k in range(steps)], 1)
    h = torch.where(response.raw[:, None], m, data)
    z = torch.stack([torch.stack([draw(seed, k + 1, (5,)).double() for k in range(steps)]) for seed in p.seeds])
    scale = found.abs().max()
    for front in range(steps):
        lo = torch.tensor([front, min(front + 2, steps - 1)])  # the second window carries more padding
        node = lo[:, None] + torch.arange(steps - front)
        n = node.clamp(max=steps - 1)
        behind = (lo[:, None] - depth + 1 + torch.arange(depth)).clamp(min=0)
        rows = both[:, None]
        of_x, of_m = response.past(n)
        made = response.of_data(n) @ h[rows, n] + of_x @ found[rows, behind] + of_m @ m[rows, behind[:, :-1]]
        if response.table.stochastic:
            made += response.within(n) @ (z[rows, n] * response.table.s[n][..., None])
        valid = node < steps
        assert (made - found[rows, n + 1])[valid].abs().max() <= 1e-9 * scale, front


def test_padding_does_not_touch_the_steps_before_it() -> None:
    p = problem(mixture("vp"), make_stepper("dpm-solver", order=3), 9)
    response = Response.of(p)
    own = torch.arange(4, 9)[None]
    padded = torch.cat([own, torch.full((1, 3), 8)], 1)
    assert torch.equal(response.of_data(padded)[:, :5, :5], response.of_data(own))
    assert not response.of_data(padded)[:, :5, 5:].any()
    for long, short in zip(response.past(padded), response.past(own), strict=True):
        assert torch.equal(long[:, :5], short)


# Interpolation


@settings(max_examples=50, deadline=None)
@given(
    gaps=st.lists(st.floats(0.1, 10), min_size=2, max_size=8),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    beyond=st.floats(0, 20),
    c=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
)
def test_cubics_through_uneven_nodes_meet_every_quadratic(
    gaps: list[float], shares: list[float], beyond: float, c: list[float]
) -> None:
    nodes = np.concatenate([[-1.0], -1.0 + np.cumsum(gaps)])
    at = np.concatenate([nodes[0] + np.array(shares) * (nodes[-1] - nodes[0]), nodes, [nodes[-1] + beyond]])
    weights = cubic(nodes, at)
    assert weights.shape == (len(at), len(nodes))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-9)
    value = np.polyval(c, np.minimum(at, nodes[-1]))  # beyond the last node its value is held
    np.testing.assert_allclose(weights @ np.polyval(c, nodes), value, atol=1e-9 * (1 + np.abs(value).max()))
    np.testing.assert_allclose(weights[len(shares) : -1], np.eye(len(nodes)), atol=1e-12)


def test_one_node_is_held_and_two_make_a_line() -> None:
    at = np.array([2.0, 3.0, 4.0, 9.0])
    assert cubic(np.array([2.0]), at).tolist() == [[1.0]] * 4
    np.testing.assert_allclose(cubic(np.array([2.0, 4.0]), at), [[1, 0], [0.5, 0.5], [0, 1], [0, 1]], atol=1e-12)


@pytest.mark.parametrize("spacing", [2, 4])
def test_leaving_nodes_out_tells_the_order_of_the_error(spacing: int) -> None:
    nodes = list(range(0, 33, spacing))

    def curve(t: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(t / 5), np.exp(-t / 10), np.tanh((t - 16) / 6)], 1)

    between = np.array([n + spacing / 2 for n in nodes[:-1]])
    at = np.array(nodes, dtype=float)
    true = np.sqrt(np.mean((cubic(at, between) @ curve(at) - curve(between)) ** 2))
    weights = leaving_out(tuple(nodes), spacing, nodes[-1])
    assert weights is not None
    h = torch.from_numpy(curve(at))
    (found,) = left_out([weights], h[None])
    # It errs on the safe side for what is smoother than networks are.
    assert true < found < 20 * true


def test_nobody_can_tell_the_error_without_enough_nodes() -> None:
    assert leaving_out((0, 4, 8), 4, 12) is None
    assert leaving_out((0, 4, 6, 10), 4, 12) is None  # none stands halfway between two, a spacing from each
    assert leaving_out((0, 4, 8, 12), 4, 3) is None  # all inner nodes are beyond the last that counts


def test_errors_of_several_windows_are_those_of_each() -> None:
    nodes = [(0, 4, 8, 12), (0, 1, 5, 9, 13, 17), (0, 2, 6, 10, 14)]
    weights = [leaving_out(each, 4, 20) for each in nodes]
    assert all(each is not None for each in weights)
    h = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h[0] = torch.arange(7)[:, None]  # a line is missed nowhere
    together = left_out(weights, h)  # type: ignore[arg-type]
    assert together[0] == pytest.approx(0, abs=1e-12)
    for each, own, found in zip(weights, h, together, strict=True):
        assert each is not None
        missed = torch.from_numpy(each.copy()) @ own[: each.shape[1]]
        assert found == pytest.approx(float(missed.square().mean().sqrt()) / 2.7)


def test_weights_over_a_window() -> None:
    at = np.arange(9.0)
    np.testing.assert_array_equal(over_window((-2, 0, 3, 7), 9), cubic(np.array([-2.0, 0, 3, 7]), at))
    np.testing.assert_array_equal(over_window((0, 3), 9, True), straight(np.array([0.0, 3]), at))


def test_the_usual_spacing_leaves_the_nodes_that_an_error_needs() -> None:
    assert [usual_spacing(steps, 1e-2) for steps in (1, 10, 25, 50, 100, 1000)] == [1, 1, 2, 4, 8, 64]
    assert [usual_spacing(1000, error) for error in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-9)] == [64, 64, 64, 16, 4, 1]


@pytest.mark.parametrize(
    ("process", "stepper", "given", "wanted"),
    [
        ("flow", "euler", {}, True),
        ("ve", "euler", {}, True),
        ("vp", "ddim", {}, True),
        ("vp", "dpm-solver", {"order": 3}, True),
        ("ve", "lms", {}, True),
        ("vp", "unipc", {"order": 3}, True),
        ("vp", "ddim", {"eta": 0.5}, False),
        ("vp", "ddpm", {}, False),
        ("ve", "heun", {}, False),
        ("vp", "clipped-ddim", {"clip": 2.0}, False),
    ],
)
def test_only_curves_that_run_one_way_in_time_without_noise_are_interpolated(
    process: str, stepper: str, given: dict[str, Any], wanted: bool
) -> None:
    p = problem(mixture(process), make_stepper(stepper, **given), 32)
    assert smooth(p) is wanted
    assert not smooth(dataclasses.replace(p, nominal=True))
    state = make_solver("lattice", error=1e-2).init(p)
    assert (int(state.spacing[0]) > 1) is wanted


# Secants


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_two_evaluations_of_a_linear_network_tell_its_slope() -> None:
    every = torch.ones(2, 5, dtype=torch.bool)
    slope, prior = 0.7, torch.full((2, 5), -9.0, dtype=torch.float64)
    one, two = states(2, 5, 3), states(2, 5, 3, seed=1)
    seen = Secants.empty(2, 5, 3, one).seen(one, slope * one + 2, every)
    assert torch.equal(seen.slopes(every, prior), prior)
    seen = seen.seen(two, slope * two + 2, every)
    torch.testing.assert_close(seen.slopes(every, prior), torch.full((2, 5), slope, dtype=torch.float64))
    again = seen.seen(two, slope * two + 2, every)  # what has not moved says nothing new
    torch.testing.assert_close(again.slopes(every, prior), seen.slopes(every, prior))


def test_slopes_are_pooled_with_the_next_nodes_that_are_evaluated() -> None:
    some = torch.tensor([[True, False, True, True, False, True]])
    slope = torch.tensor([[1.0, 9.0, 2.0, 3.0, 9.0, 4.0]], dtype=torch.float64)
    step = torch.tensor([[1.0, 5.0, 1.0, 1.0, 5.0, 2.0]], dtype=torch.float64)
    one = states(1, 6, 1)
    two = one + step[..., None]
    seen = Secants.empty(1, 6, 1, one).seen(one, slope[..., None] * one, some).seen(two, slope[..., None] * two, some)
    found = seen.slopes(some, torch.full((1, 6), -9.0, dtype=torch.float64))
    wanted = [(1 + 2) / 2, -9, (1 + 2 + 3) / 3, (2 + 3 + 4 * 4) / 6, -9, (3 + 4 * 4) / 5]
    torch.testing.assert_close(found, torch.tensor([wanted], dtype=torch.float64))


def test_windows_that_slide_keep_what_they_have_seen() -> None:
    every = torch.ones(2, 6, dtype=torch.bool)
    slope = torch.arange(12, dtype=torch.float64).view(2, 6)[..., None]
    one, two = states(2, 6, 4), states(2, 6, 4, seed=1)
    before = Secants.empty(2, 6, 4, one).seen(one, slope * one, every).seen(two, slope * two, every)
    after = before.moved(torch.tensor([2, 5]))
    assert after.have.tolist() == [[True] * 4 + [False] * 2, [True] + [False] * 5]
    for name in ("x", "h", "num", "den"):
        old, new = getattr(before, name), getattr(after, name)
        assert torch.equal(new[0, :4], old[0, 2:])
        assert torch.equal(new[1, :1], old[1, 5:])
    assert not after.den[0, 4:].any()
    assert not after.den[1, 1:].any()
    # A node that is evaluated for the second time after the slide has its secant; one that has entered has none.
    three = states(2, 6, 4, seed=2)
    once = Secants.empty(2, 6, 4, one).seen(one, slope * one, every).moved(torch.tensor([2, 5]))
    found = once.seen(three, torch.cat([slope[:, 2:], slope[:, :2]], 1) * three, every)
    assert (found.den[0] > 0).tolist() == [True] * 4 + [False] * 2
    torch.testing.assert_close((found.num / found.den)[0, :4], slope[0, 2:, 0])


# The solver `secant`


@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("vp", "dpm-solver")])
def test_a_linear_network_is_solved_as_soon_as_its_slope_is_known(process: str, stepper: str) -> None:
    p = linear(problem(mixture(process), make_stepper(stepper), 40, 2), 0.4)
    found = solve(p, make_solver("secant", tolerance=1e-10), sliding(40))
    # One step that comes before the window, two evaluations that tell the slopes, one that sees that nothing moves.
    assert found.stats.sweeps <= 4
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddim")])
def test_one_gaussian_takes_few_sweeps(process: str, stepper: str) -> None:
    """Its data prediction is affine with a slope for each node, close to those of the nodes beside it."""
    p = problem(one_gaussian(process), make_stepper(stepper), 40, 2)
    reference = sequential(p).x
    secant = solve(p, make_solver("secant", tolerance=1e-6), sliding(40))
    paraflow = solve(p, make_solver("paraflow", tolerance=1e-6), sliding(40))
    assert secant.stats.sweeps < paraflow.stats.sweeps
    assert secant.stats.sweeps <= 8
    assert float(relative_rmse(secant.x, reference).max()) < 1e-5


@pytest.mark.parametrize("error", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("ve", "heun"), ("vp", "ddpm")])
def test_the_final_error_is_what_was_asked_for(process: str, stepper: str, error: float) -> None:
    model = mixture(process)
    p = problem(model, make_stepper(stepper), 40, 4, guidance=2.0)
    found = solve(p, make_solver("secant", error=error), sliding(12))
    assert float(relative_rmse(found.x, sequential(p).x, model.data_std).max()) <= error
    assert found.stats.iterations < 0.75 * p.steps


# Settings


@pytest.mark.parametrize("name", FAMILY)
def test_error_and_tolerance_exclude_each_other(name: str) -> None:
    cls = registry.config_class("solver", name)
    with pytest.raises(ValidationError, match="'error' takes the place of 'tolerance': give one of them"):
        cls.model_validate({"error": 1e-2, "tolerance": 1e-3})
    alone = cls.model_validate({"tolerance": 1e-3})
    assert alone.model_dump()["error"] is None
    assert cls.model_validate({}).model_dump()["error"] == (1e-2 if name == "auto" else None)
    for made in (alone, cls.model_validate({}), cls.model_validate({"error": 1e-3})):
        assert cls.model_validate(made.model_dump()) == made
        assert cls.model_validate_json(made.model_dump_json()) == made
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(ValidationError):
            cls.model_validate({"error": wrong})


RUN = """\
model: digits-flow
solver:
  name: {name}
  {first}
  {second}
requests:
  - classes: [3]
"""


@pytest.mark.parametrize("name", FAMILY)
def test_a_run_file_with_both_is_refused_with_its_line(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(RUN.format(name=name, first="error: 1e-2", second="tolerance: 1e-3"), "run.yaml")
    (message,) = caught.value.messages
    assert message == "run.yaml:3:3: solver: 'error' takes the place of 'tolerance': give one of them."
    config = loads(RUN.format(name=name, first="error: 5e-3", second="precondition: 2"))
    assert config.solver.settings.model_dump()["error"] == 5e-3
    assert loads(dump(config)) == config
    config = loads(RUN.format(name=name, first="tolerance: 5e-3", second="stride: exact"))
    assert config.solver.settings.model_dump()["error"] is None
    assert loads(dump(config)) == config


def test_a_spacing_that_cannot_be_halved_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(RUN.format(name="lattice", first="error: 1e-2", second="spacing: 3"), "run.yaml")
    assert caught.value.messages == [
        "run.yaml:5:12: solver.spacing: 3 cannot be halved down to 1: use 1, 2, 4, 8, ….",
    ]
    for spacing in (1, 2, 8, 64):
        assert make_solver("lattice", spacing=spacing).config.spacing == spacing
    for wrong in (0, -2, 6, 12):
        with pytest.raises(ValidationError):
            make_solver("lattice", spacing=wrong)
