"""The example stepper, found through its entry points and checked against exact flows."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.grid import TimeGrid
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaDiGMSConfig, SequentialConfig
from paraflowkit.solvers.paradigms import ParaDiGMS
from paraflowkit.solvers.sequential import Sequential
from paraflowkit.spacing import make_grid
from paraflowkit.steppers.configs import EulerConfig
from paraflowkit.steppers.euler import Euler
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding
from pydantic import ValidationError


def installed(group, name):
    """What the distribution registered: exactly one value, even where it is installed twice."""
    (value,) = {e.value: e for e in entry_points(group=group, name=name)}.values()
    return value.load()


CONFIG = installed("paraflowkit.configs", "stepper.adams-bashforth")
STEPPER = installed("paraflowkit.steppers", "adams-bashforth")
SEEDS = [3, 4, 5]


def uneven(noise: NoiseSchedule, steps: int) -> TimeGrid:
    """A smooth grid whose steps grow by a factor of about three from noise to data."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return TimeGrid.of(noise, noise.start + (noise.end - noise.start) * (u + u.square()) / 2)


def one_gaussian(noise: NoiseSchedule, spread: float) -> GaussianMixture:
    settings = GaussianMixtureConfig(dimension=3, components=1, classes=1, spread=spread)
    return GaussianMixture(settings, noise=noise)


def exact_end(model: GaussianMixture, x0: torch.Tensor) -> torch.Tensor:
    """The flow of a single Gaussian keeps the number of standard deviations from the mean."""
    start = torch.tensor([model.noise.start], dtype=torch.float64)
    alpha, sigma = float(model.noise.alpha(start)), float(model.noise.sigma(start))
    width = math.sqrt(alpha**2 * model.spread**2 + sigma**2)
    return model.means + model.spread * (x0 - alpha * model.means) / width


def sequentially(problem: Problem, trajectory: bool = False):
    return solve(problem, Sequential(SequentialConfig()), Sliding(SlidingConfig(size=1)), trajectory=trajectory)


def test_the_class_and_its_settings_belong_together():
    assert STEPPER.config_cls is CONFIG


def test_the_settings_load_without_torch():
    code = "import sys, paraflowkit_example.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("noise", [FlowMatching(), VE(sigma_max=3.0)], ids=["flow", "ve"])
@pytest.mark.parametrize("grid", [make_grid, uneven], ids=["even", "uneven"])
@pytest.mark.parametrize("order", [1, 2])
def test_order_of_convergence(noise, grid, order):
    model = one_gaussian(noise, spread=1.5)
    stepper = STEPPER(CONFIG(order=order))
    steps, errors = [16, 32, 64, 128], []
    for n in steps:
        problem = make_problem(model, stepper, grid(noise, n), SEEDS, dtype=torch.float64)
        errors.append(float((sequentially(problem).x - exact_end(model, problem.x0)).square().mean().sqrt()))
    logs = torch.tensor([[math.log(n), math.log(e)] for n, e in zip(steps, errors, strict=True)], dtype=torch.float64)
    centred = logs - logs.mean(0)
    slope = -float((centred[:, 0] * centred[:, 1]).sum() / centred[:, 0].square().sum())
    assert slope == pytest.approx(order, abs=0.1), errors
    assert stepper.order == order


def test_order_one_is_euler():
    noise = FlowMatching()
    ours = STEPPER(CONFIG(order=1)).table(uneven(noise, 9))
    theirs = Euler(EulerConfig()).table(uneven(noise, 9))
    assert torch.equal(ours.a, theirs.a)
    assert torch.equal(ours.b, theirs.b)


def test_a_line_is_integrated_exactly():
    """Two exact values of a velocity that is linear in time give its integral, after the first step."""
    noise = FlowMatching()
    nodes = uneven(noise, 7)
    table, t = STEPPER(CONFIG()).table(nodes), nodes.t
    moved = table.b[1:, 0] * t[1:-1] + table.b[1:, 1] * t[:-2]
    assert moved == pytest.approx((t[2:].square() - t[1:-1].square()) / 2, abs=1e-15)


@pytest.mark.parametrize("window", [1, 3, 8, 20, 25])
@pytest.mark.parametrize("noise", [FlowMatching(), VE(sigma_max=3.0)], ids=["flow", "ve"])
def test_tolerance_zero_is_the_sequential_trajectory(noise, window):
    steps = 20
    settings = GaussianMixtureConfig(dimension=3, components=4, classes=2)
    problem = make_problem(
        GaussianMixture(settings, noise=noise),
        STEPPER(CONFIG()),
        uneven(noise, steps),
        SEEDS,
        classes=[0, 1, None],
        guidance=2.0,
        dtype=torch.float64,
    )
    reference = sequentially(problem, trajectory=True)
    solver = ParaDiGMS(ParaDiGMSConfig(tolerance=0))
    solution = solve(problem, solver, Sliding(SlidingConfig(size=window)), trajectory=True)
    assert solution.ok
    assert solution.stats.sweeps <= steps
    assert float((solution.trajectory - reference.trajectory).abs().max()) < 1e-10


def test_a_process_without_velocity_is_refused():
    with pytest.raises(ValueError, match="VP process lacks"):
        STEPPER(CONFIG()).table(make_grid(VP(), 10))


@pytest.mark.parametrize("settings", [{"order": 3}, {"order": "two"}, {"ordre": 2}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        CONFIG(**settings)
