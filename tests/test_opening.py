"""The first sweep of a solve that has no estimate yet."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from problems import make_solver, make_stepper, mixture, problem, sequential, sliding
from torch import Tensor

from paraflowkit import registry
from paraflowkit.core.opening import DATA, noisy_nodes
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.solution import relative_rmse
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid

SOLVERS = ["secant", "lattice", "paraflow", "parataa", "parasolver", "parasolver-turbo"]
CLEAN = {"guess": "clean_estimate", "precondition": 0}


class First:
    """Notes the nodes and states of the network's first call."""

    def __init__(self, p: Problem) -> None:
        self.inner = p.evaluate
        self.nodes: Tensor | None = None
        self.x: Tensor | None = None

    def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        if self.nodes is None:
            self.nodes, self.x = node, x
        return self.inner(x, node, cond)


def first_call(p: Problem, solver: Any, size: int, **more: Any) -> tuple[list[int], Tensor]:
    seen = First(p)
    solve(dataclasses.replace(p, evaluate=seen), solver, sliding(size), **more)
    assert seen.nodes is not None
    assert seen.x is not None
    return seen.nodes.tolist(), seen.x


def share(p: Problem) -> Tensor:
    """Of the data's variance in that of the states, by the definition."""
    alpha, sigma = p.nodes.alpha[:-1].double(), p.nodes.sigma[:-1].double()
    data = (alpha * p.data_std) ** 2
    return data / (data + sigma**2)


@pytest.mark.parametrize(
    ("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("vp", "ddpm"), ("ve", "euler"), ("ve", "heun")]
)
@pytest.mark.parametrize("steps", [1, 7, 50, 200])
def test_noisy_nodes_are_those_with_hardly_any_data(process: str, stepper: str, steps: int) -> None:
    p = problem(mixture(process), make_stepper(stepper), steps, 1)
    count = noisy_nodes(p)
    assert 1 <= count <= p.steps
    of_data = share(p)
    assert (of_data[1:count] <= DATA).all()
    if count < p.steps:
        assert of_data[count] > DATA
    if steps == 200:
        assert 5 < count < 190  # the rule is not about the given noise alone


def test_levels_that_are_not_known_are_not_gone_by() -> None:
    p = problem(mixture("vp"), make_stepper("ddim"), 50, 1)
    assert noisy_nodes(p) > 1
    assert noisy_nodes(dataclasses.replace(p, nominal=True)) == 1


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_first_call_has_the_noisy_nodes_with_no_prediction(name: str, size: int) -> None:
    """The states are those of the sampler with 0 for a data prediction: the given noise, scaled."""
    p = problem(mixture("vp"), make_stepper("ddim"), 60, 1)
    noisy = noisy_nodes(p)
    more = {"degree": 100} if name == "parasolver-turbo" else {}
    nodes, x = first_call(p, make_solver(name, tolerance=0.0, **CLEAN, **more), size)
    assert nodes == list(range(min((min(size, 60) + 1) // 2, noisy)))
    scale = p.nodes.sigma[nodes] / p.nodes.sigma[0]
    start = p.x0 * scale.to(p.x0)[:, None]
    # The given noise holds as much data as its level says, of which a state without any has none.
    torch.testing.assert_close(x, start, rtol=0, atol=2 * float(p.nodes.alpha[0]) + 1e-6)
    torch.testing.assert_close(x[:1], p.x0, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["secant", "lattice"])
def test_a_step_taken_first_and_a_warm_start_take_its_place(name: str) -> None:
    p = problem(mixture("vp"), make_stepper("ddim"), 60, 1)
    nodes, _ = first_call(p, make_solver(name, tolerance=1e-3), 8)
    assert nodes == [0]
    warm = sequential(p).trajectory
    assert warm is not None
    spacing = {"spacing": 4} if name == "lattice" else {}
    nodes, x = first_call(p, make_solver(name, tolerance=1e-3, precondition=0, **spacing), 8, warm=warm)
    assert len(nodes) == 8
    assert nodes[-1] >= 8  # as in any other sweep, some lie ahead
    torch.testing.assert_close(x, warm[0, nodes])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [3, 30])
@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddpm"), ("ve", "lms")])
def test_tolerance_0_is_the_sequential_trajectory(name: str, size: int, process: str, stepper: str) -> None:
    p = problem(mixture(process), make_stepper(stepper), 20, 2, guidance=2.0)
    found = solve(p, make_solver(name, tolerance=0.0, **CLEAN), sliding(size))
    assert found.stats.sweeps <= p.steps
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-12 * float(p.nodes.sigma[0] + 1))


def test_a_front_that_stays_keeps_its_window() -> None:
    """The printed stride may not move the front at all, which then begins its window again."""
    p = problem(mixture("vp"), make_stepper("ddim"), 25, 3, guidance=2.0)
    made = make_solver("paraflow", tolerance=0.0, stride="printed", **CLEAN)
    found = solve(p, made, sliding(6), trajectory=True)
    reference = sequential(p)
    assert found.stats.sweeps <= 2 * p.steps
    torch.testing.assert_close(found.trajectory, reference.trajectory, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "window"), [("secant", 16), ("lattice", 16)])
def test_it_saves_a_part_of_a_sweep(name: str, window: int) -> None:
    model = registry.get("model", "digits-vp")(registry.config_class("model", "digits-vp")())
    more = {"guidance": 7.5, "classes": list(range(6))}
    p = make_problem(model, make_stepper("ddim"), make_grid(model.noise, 50), list(range(10, 16)), **more)  # type: ignore[arg-type]
    reference = sequential(p).x
    took: list[float] = []
    for before in (0, 1):
        found = solve(p, make_solver(name, error=1e-2, precondition=before), sliding(window))
        assert float(relative_rmse(found.x, reference, p.data_std).mean()) < 1e-2
        took.append(float(found.stats.sample_iterations.double().mean()))
    assert took[0] <= took[1] - 0.1
