"""Checks of a stepper's order: convergence to exact flows, and of moments where it adds noise."""

from __future__ import annotations

import math
from functools import cache
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from paraflowkit.core.problem import make_problem
from paraflowkit.grid import TimeGrid
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction, convert
from paraflowkit.table import StepTable
from paraflowkit.testing._base import check, fail, skip
from paraflowkit.testing._problems import mixture, sequential
from paraflowkit.testing.stepper_checks import PROCESSES, AnyStepper

HIGH, LOW = 5.0, 0.25  # sigma / alpha at the ends of the grids on which orders are measured
COUNTS = (24, 48, 96)


def _graded(noise: NoiseSchedule, steps: int, small: int) -> TimeGrid:
    """Long and short steps of log(sigma / alpha) in turn, ``small`` of them at either end of the square of their size.

    Multistep methods begin, and some of them end, with steps of lower orders, whose error would hide their own; and
    weights that are right for equal steps only pass unnoticed wherever neighbouring steps are nearly equal.
    """
    whole = math.log(HIGH / LOW)
    size = torch.tensor([1.0, 1.6], dtype=torch.float64).repeat(steps // 2)
    size[:small] = size[steps - small :] = 1 / steps
    place = torch.cat([size.new_zeros(1), size.cumsum(0)]) * (whole / size.sum())
    return TimeGrid.of(noise, noise.time_of((math.log(HIGH) - place).exp()))


@cache
def _exact(process: str) -> tuple[GaussianMixture, Tensor, Tensor]:
    """A mixture of eight Gaussians, states at HIGH, and where the exact flow takes them at LOW.

    With y = x / alpha and r = sigma / alpha the flow of every process is dy/dr = noise prediction.
    """
    noise = PROCESSES[process]
    model = mixture(process, noise, spread=0.5, prediction="data")
    ends = noise.levels(noise.time_of(torch.tensor([HIGH, LOW], dtype=torch.float64)))
    unit = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = unit * (ends.sigma[0].square() + ends.alpha[0].square()).sqrt()

    def field(r: float, y: Any) -> Any:
        t = noise.time_of(torch.tensor([r], dtype=torch.float64)).expand(len(x))
        at = noise.levels(t)
        state = torch.from_numpy(y).view(x.shape) * at.alpha[0]
        return convert(model(state, t, None), state, at, Prediction.DATA, Prediction.NOISE).flatten().numpy()

    y = (x / ends.alpha[0]).flatten().numpy()
    found = solve_ivp(field, (HIGH, LOW), y, method="DOP853", rtol=1e-11, atol=1e-11)
    return model, x, torch.from_numpy(found.y[:, -1]).view(x.shape) * ends.alpha[1]


def _slope(errors: list[float]) -> float:
    """The order: minus the slope of log error over log N."""
    return -float(np.polyfit(np.log(COUNTS), np.log(np.maximum(errors, 1e-300)), 1)[0])


@check("stepper")
def check_order(stepper: AnyStepper) -> None:
    """A deterministic stepper converges to the exact flow of a mixture, at least as fast as ``order`` says."""
    measured = 0
    for process in PROCESSES:
        model, x, wanted = _exact(process)
        errors: list[float] = []
        try:
            for steps in COUNTS:
                depth = stepper.rule(stepper.nodes(_graded(model.noise, steps, 1), model.noise)).order_in_time
                grid = _graded(model.noise, steps, 1 if depth == 1 else depth + 1)
                problem = make_problem(model, stepper, grid, [1, 2, 3], x0=x, dtype=torch.float64)
                if problem.rule.stochastic:
                    skip("the sampler is stochastic: see check_moments")
                errors.append(float((sequential(problem)[:, -1] - wanted).abs().max()))
        except ValueError:
            continue
        measured += 1
        found, told = _slope(errors), ", ".join(f"{error:.1e}" for error in errors)
        if not found >= stepper.order - 0.4 and not max(errors) < 1e-9:
            fail(
                f"{process}: order {found:.2f} is measured and {stepper.order} claimed (errors {told} at "
                f"{', '.join(map(str, COUNTS))} steps)",
                "a coefficient is wrong, or written for one process or for equal steps only; if the method has that "
                "order, set 'order' to it, and if it limits predictions, check it with limits out of reach",
            )
    if not measured:
        skip("the stepper takes none of the grids on which orders are measured")


def _moments(model: GaussianMixture, stepper: AnyStepper, grid: TimeGrid) -> tuple[float, float]:
    """Mean and variance of the sampler's result for one Gaussian in one dimension, exactly.

    Its predictions are affine in the state, so every state is affine in the start and the noises: their weights are
    carried along in place of samples.
    """
    nodes = stepper.nodes(grid, model.noise)
    table = stepper.rule(nodes)
    assert isinstance(table, StepTable)  # checked by the caller; this is for the type checker
    unit = torch.eye(table.steps + 2, dtype=torch.float64)  # the constant, the start's noise, the noise of every step
    first = (nodes.alpha[0].square() * model.spread**2 + nodes.sigma[0].square()).sqrt()
    x, m = [nodes.alpha[0] * model.means[0, 0] * unit[0] + first * unit[1]], list[Tensor]()
    for n in range(table.steps):
        t, levels = nodes.t[n : n + 1].expand(2), nodes.levels[torch.full((2,), n)]
        probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        out = convert(model(probe, t, None), probe, levels, model.prediction, table.wants)[:, 0]
        m.append(out[0] * unit[0] + (out[1] - out[0]) * x[-1])
        new = table.s[n] * unit[2 + n]
        for j in range(min(n + 1, table.order_in_time)):
            new = new + table.a[n, j] * x[n - j] + table.b[n, j] * m[n - j]
        x.append(new)
    return float(x[-1][0]), float(x[-1][1:].square().sum())


@check("stepper")
def check_moments(stepper: AnyStepper) -> None:
    """The mean and the variance of a stochastic stepper's samples of one Gaussian converge to the exact ones."""
    measured = 0
    for process, noise in PROCESSES.items():
        model = mixture(process, noise, components=1, classes=1, dimension=1, spread=0.5)
        means: list[float] = []
        variances: list[float] = []
        try:
            for steps in COUNTS:
                grid = _graded(noise, steps, 1)
                rule = stepper.rule(stepper.nodes(grid, noise))
                if not rule.stochastic:
                    skip("the sampler is deterministic: see check_order")
                if not isinstance(rule, StepTable) or getattr(rule, "learned_variance", False):
                    skip("exact moments need a step table")
                mean, variance = _moments(model, stepper, grid)
                alpha, sigma = grid.alpha[-1], grid.sigma[-1]
                means.append(abs(mean - float(alpha * model.means[0, 0])))
                variances.append(abs(variance - float(alpha.square() * model.spread**2 + sigma.square())))
        except SkipTest:
            raise
        except ValueError:
            continue
        measured += 1
        for name, errors in (("mean", means), ("variance", variances)):
            if _slope(errors) < 0.6 and not max(errors) < 1e-9:
                told = ", ".join(f"{error:.1e}" for error in errors)
                fail(
                    f"{process}: the {name} does not converge (errors {told} at {', '.join(map(str, COUNTS))} steps)",
                    "the noise that is added and what the step removes do not match: check s against sigma of the next "
                    "node, and formulas that hold for VP only",
                )
    if not measured:
        skip("the stepper takes none of the grids on which moments are measured")
