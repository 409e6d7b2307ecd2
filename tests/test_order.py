"""Convergence order by regression against the exact flow of a Gaussian, and weak moments of stochastic DDIM."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from problems import STEPPERS, exact_flow, one_gaussian, problem, sequential

from paraflowkit.core.problem import make_problem
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.steppers.configs import DDIMConfig
from paraflowkit.steppers.ddim import DDIM


def measured_order(noise: NoiseSchedule, stepper: BaseStepper[object], start: float, end: float) -> float:  # type: ignore[type-var]
    model = one_gaussian(noise=noise)
    sizes, errors = [], []
    for steps in (20, 40, 80, 160):
        t = torch.linspace(start, end, steps + 1, dtype=torch.float64)
        p = make_problem(model, stepper, TimeGrid.of(model.noise, t), [1, 2, 3], dtype=torch.float64)
        exact = exact_flow(model, p.x0, t[:1], t[-1:])
        sizes.append(math.log(steps))
        errors.append(math.log(float((sequential(p).x - exact).abs().max())))
    x, y = torch.tensor(sizes), torch.tensor(errors)
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize("name", ["euler", "ddim-0"])
def test_order_on_flow_matching(name: str) -> None:
    # The end stays clear of sigma = 0, where DDIM's error would be of the end point alone.
    assert measured_order(FlowMatching(), STEPPERS[name], 0.05, 0.95) == pytest.approx(STEPPERS[name].order, abs=0.1)


@pytest.mark.parametrize("name", ["euler", "ddim-0"])
def test_order_on_ve(name: str) -> None:
    assert measured_order(VE(sigma_max=3.0), STEPPERS[name], 3.0, 0.3) == pytest.approx(1, abs=0.12)


def test_order_of_ddim_on_vp() -> None:
    """VP is known at whole steps only, so the steps are refined within a long schedule."""
    noise = VP(steps=3201, beta_start=1e-4 / 3.2, beta_end=0.02 / 3.2)
    model = one_gaussian(noise=noise)
    errors = []
    for steps in (20, 40, 80, 160):
        t = torch.linspace(3200, 0, steps + 1, dtype=torch.float64)
        p = make_problem(model, STEPPERS["ddim-0"], TimeGrid.of(model.noise, t), [1, 2], dtype=torch.float64)
        errors.append(float((sequential(p).x - exact_flow(model, p.x0, t[:1], t[-1:])).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("process", ["flow", "vp"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_weak_moments_of_stochastic_ddim(process: str, eta: float) -> None:
    """Samples of one Gaussian have its mean and standard deviation, within sampling and discretisation error."""
    model = one_gaussian(process)
    p = problem(model, DDIM(DDIMConfig(eta=eta)), 100, 2000)
    x = sequential(p).x
    assert (x.mean(0) - model.means[0]).abs().max() < 5 * model.spread / math.sqrt(2000) + 0.02
    assert (x.std(0) / model.spread - 1).abs().max() < 0.1
