"""Convergence orders by regression against exact flows, and weak orders of the stochastic methods by exact moments."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import STEPPERS, exact_flow, make_stepper, mixture, one_gaussian, problem, sequential
from scipy.integrate import solve_ivp
from torch import Tensor

from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.prediction import Prediction, convert
from paraflowkit.steppers._exponential import read, step_weights
from paraflowkit.table import StepTable

HIGH, LOW = 5.0, 0.25  # sigma / alpha at the ends
PROCESSES: dict[str, NoiseSchedule] = {"flow": FlowMatching(), "ve": VE(), "vp": VP(schedule="cosine")}
PLAIN = {"lower_order_final": False}
# (stepper, settings, order once the method has its history)
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("euler", {}, 1),
    ("ddim", {}, 1),
    ("heun", {}, 2),
    ("flow-heun", {}, 2),
    ("edm", {}, 2),
    *[("lms", {"order": k}, k) for k in (1, 2, 3)],
    *[
        ("dpm-solver", {"order": k, "algorithm": algorithm, "solver_type": kind, **PLAIN}, min(k, 2))
        for k in (1, 2, 3)  # 3M is of order 2, see below
        for algorithm in ("dpmsolver", "dpmsolver++")
        for kind in ("midpoint", "heun")
    ],
    *[
        ("dpm-solver-singlestep", {"order": k, "algorithm": algorithm, "solver_type": kind, **PLAIN}, k)
        for k in (1, 2, 3)
        for algorithm in ("dpmsolver", "dpmsolver++")
        for kind in ("midpoint", "heun")
    ],
    *[
        ("unipc", {"order": k, "predict": predict, "solver_type": kind, **PLAIN}, k + 1)
        for k in (1, 2, 3)
        for predict in ("data", "noise")
        for kind in ("bh1", "bh2")
    ],
]


def slope(counts: tuple[int, ...], errors: list[float]) -> float:
    """The order: minus the slope of log error over log N."""
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def graded(noise: NoiseSchedule, steps: int, start: int) -> TimeGrid:
    """Nodes at equal steps of log(sigma / alpha), the first ``start - 1`` of them of the square of the others' size.

    A multistep method of order k begins with steps of lower orders, whose error of order 2 would hide its own.
    """
    whole = math.log(HIGH / LOW)
    small = torch.arange(start, dtype=torch.float64) * whole / steps**2
    rest = torch.linspace(float(small[-1]), whole, steps + 2 - start, dtype=torch.float64)
    return TimeGrid.of(noise, noise.time_of((math.log(HIGH) - torch.cat([small[:-1], rest])).exp()))


@cache
def smooth(process: str) -> tuple[GaussianMixture, Tensor, Tensor]:
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
    assert found.success
    return model, x, torch.from_numpy(found.y[:, -1]).view(x.shape) * ends.alpha[1]


def graded_problem(process: str, stepper: BaseStepper[Any], steps: int, start: int) -> Problem:
    model, x, _ = smooth(process)
    grid = graded(model.noise, steps, start)
    return make_problem(model, stepper, grid, [1, 2, 3], x0=x, dtype=torch.float64)


def mixture_errors(
    process: str, name: str, settings: dict[str, Any], counts: tuple[int, ...], rule: Any = None
) -> list[float]:
    start = settings.get("order", 1) if name in ("lms", "dpm-solver", "unipc") else 1
    errors: list[float] = []
    for steps in counts:
        p = graded_problem(process, make_stepper(name, **settings), steps, start)
        p = p if rule is None else dataclasses.replace(p, rule=rule(p))
        errors.append(float((sequential(p).x - smooth(process)[2]).abs().max()))
    return errors


def check_order(
    process: str, name: str, settings: dict[str, Any], order: int, counts: tuple[int, ...] = (24, 48, 96)
) -> None:
    assert slope(counts, mixture_errors(process, name, settings, counts)) == pytest.approx(order, abs=0.35)
    assert make_stepper(name, **settings).order == order


# One of each method and order, the rest with the slow tests.
FEW = list({(case[0], case[1].get("order")): case for case in reversed(CASES)}.values())
# Each on every other process, in turns; VP has no velocity.
ALL = [
    (p, *case)
    for i, p in enumerate(PROCESSES)
    for k, case in enumerate(CASES)
    if (i + k) % 2 == 0 and (p, case[0]) != ("vp", "flow-heun")
]


@pytest.mark.parametrize(("name", "settings", "order"), FEW)
def test_order(name: str, settings: dict[str, Any], order: int) -> None:
    check_order("flow" if name.startswith("flow") else "vp", name, settings, order, counts=(48, 96))


@pytest.mark.parametrize("name", ["unipc", "dpm-solver-singlestep"])
def test_lower_orders_at_the_end_cost_the_order(name: str) -> None:
    counts = (24, 48, 96)
    errors = mixture_errors("vp", name, {"order": 3}, counts)
    assert slope(counts, errors) == pytest.approx(2, abs=0.35)


def test_order_of_the_stepper_in_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs" / "examples")
    check_order("vp", "own_stepper:Midpoint", {}, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("process", "name", "settings", "order"), ALL)
def test_order_on_other_processes(process: str, name: str, settings: dict[str, Any], order: int) -> None:
    check_order(process, name, settings, order)


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
def test_3m_is_of_order_2_for_want_of_a_factor_2(algorithm: str) -> None:
    """With twice the published second difference, multistep DPM-Solver of order 3 has its order."""

    def corrected(p: Problem) -> StepTable:
        assert isinstance(p.rule, StepTable)
        at, b = read(p.nodes, "DPM-Solver"), p.rule.b.clone()
        for n in range(2, p.steps):
            lam = [at[n + i].log_snr for i in (-2, -1, 0, 1)]
            h = lam[3] - lam[2]
            near, far = (lam[2] - lam[1]) / h, (lam[1] - lam[0]) / h
            second = torch.tensor([1 / near, -1 / near - 1 / far, 1 / far], dtype=torch.float64) / (near + far)
            b[n] += step_weights(algorithm, at[n], at[n + 1]).third * second
        return dataclasses.replace(p.rule, b=b)

    counts = (24, 48, 96)
    errors = mixture_errors("vp", "dpm-solver", {"order": 3, "algorithm": algorithm, **PLAIN}, counts, corrected)
    assert slope(counts, errors) == pytest.approx(3, abs=0.35)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_local_error_of_lms(order: int) -> None:
    """One step from exact states and outputs errs by order K + 1; a start of lower orders never lets K = 4 show."""
    counts, errors = (64, 128, 256), []
    for steps in counts:
        model = one_gaussian(noise=VP(schedule="cosine"))
        p = problem(model, make_stepper("lms", order=order), 1, 3)
        start = p.x0
        grid = graded(model.noise, steps, 1)
        p = make_problem(model, make_stepper("lms", order=order), grid, [1, 2, 3], x0=start, dtype=torch.float64)
        path = torch.stack([exact_flow(model, start, grid.t[:1], t[None]) for t in grid.t[:6]], 1)
        out = torch.stack([p.output(path[:, n], torch.full((3,), n), torch.arange(3)) for n in range(5)], 1)
        history = order - 1
        step = torch.full((3, 1), 4)
        after = p.rule.apply(step, path[:, 4 - history : 5], out[:, 4 - history : 5], None)[:, 0]
        errors.append(float((after - path[:, 5]).abs().max()))
    assert slope(counts, errors) == pytest.approx(order + 1, abs=0.25)


def measured_order(noise: NoiseSchedule, stepper: BaseStepper[object], start: float, end: float) -> float:  # type: ignore[type-var]
    model = one_gaussian(noise=noise)
    counts, errors = (20, 40, 80, 160), []
    for steps in counts:
        t = torch.linspace(start, end, steps + 1, dtype=torch.float64)
        p = make_problem(model, stepper, TimeGrid.of(model.noise, t), [1, 2, 3], dtype=torch.float64)
        exact = exact_flow(model, p.x0, t[:1], t[-1:])
        errors.append(float((sequential(p).x - exact).abs().max()))
    return slope(counts, errors)


@pytest.mark.parametrize("name", ["euler", "ddim-0"])
def test_order_on_flow_matching(name: str) -> None:
    # The end stays clear of sigma = 0, where DDIM's error would be of the end point alone.
    assert measured_order(FlowMatching(), STEPPERS[name], 0.05, 0.95) == pytest.approx(STEPPERS[name].order, abs=0.1)


@pytest.mark.parametrize("name", ["euler", "ddim-0"])
def test_order_on_ve(name: str) -> None:
    assert measured_order(VE(sigma_max=3.0), STEPPERS[name], 3.0, 0.3) == pytest.approx(1, abs=0.12)


def test_order_of_ddim_on_whole_training_steps() -> None:
    """The steps are refined within a long schedule."""
    noise = VP(steps=3201, beta_start=1e-4 / 3.2, beta_end=0.02 / 3.2)
    model = one_gaussian(noise=noise)
    errors = []
    for steps in (20, 40, 80, 160):
        t = torch.linspace(3200, 0, steps + 1, dtype=torch.float64)
        p = make_problem(model, STEPPERS["ddim-0"], TimeGrid.of(model.noise, t), [1, 2], dtype=torch.float64)
        errors.append(float((sequential(p).x - exact_flow(model, p.x0, t[:1], t[-1:])).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(1, abs=0.15)


# (stepper, settings, weak order, processes)
EVERY = ("flow", "ve", "vp")
WEAK: list[tuple[str, dict[str, Any], int, tuple[str, ...]]] = [
    ("ddim", {"eta": 0.5}, 1, EVERY),
    ("ddim", {"eta": 1.0}, 1, EVERY),
    ("ddpm", {"variance": "fixed_small"}, 1, EVERY),
    ("ddpm", {"variance": "fixed_large"}, 1, EVERY),
    ("euler-ancestral", {}, 1, EVERY),
    ("euler-ancestral", {"eta": 0.6}, 1, EVERY),
    ("dpm-solver", {"order": 1, "algorithm": "sde-dpmsolver", **PLAIN}, 1, EVERY),
    ("dpm-solver", {"order": 2, "algorithm": "sde-dpmsolver", **PLAIN}, 2, EVERY),
    ("dpm-solver", {"order": 1, "algorithm": "sde-dpmsolver++", **PLAIN}, 1, EVERY),
    ("dpm-solver", {"order": 2, "algorithm": "sde-dpmsolver++", **PLAIN}, 2, EVERY),
    ("dpm-solver", {"order": 2, "algorithm": "sde-dpmsolver++", "solver_type": "heun", **PLAIN}, 2, EVERY),
    ("dpm-solver-singlestep", {"order": 2, "algorithm": "sde-dpmsolver++", **PLAIN}, 1, EVERY),
    ("edm", {"s_churn": 10.0}, 2, EVERY),
    ("flow-sde", {}, 1, ("flow", "ve")),
    ("flow-sde", {"diffusion": "ratio"}, 1, ("flow", "ve")),
]


def moments(model: GaussianMixture, stepper: BaseStepper[Any], grid: TimeGrid) -> tuple[float, float]:
    """Mean and variance of the sampler's result, exactly, for one Gaussian in one dimension.

    Its predictions are affine in the state, so every state is affine in the start and the noises: their weights are
    carried along in place of samples.
    """
    nodes = stepper.nodes(grid, model.noise)
    table = stepper.table(nodes)
    steps = table.steps
    unit = torch.eye(steps + 2, dtype=torch.float64)  # the constant, the start's noise, the noise of every step
    first = (nodes.alpha[0].square() * model.spread**2 + nodes.sigma[0].square()).sqrt()
    x = [nodes.alpha[0] * model.means[0, 0] * unit[0] + first * unit[1]]
    m: list[Tensor] = []
    for n in range(steps):
        t, levels = nodes.t[n : n + 1].expand(2), nodes.levels[torch.full((2,), n)]
        probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        out = convert(model(probe, t, None), probe, levels, model.prediction, table.wants)[:, 0]
        m.append(out[0] * unit[0] + (out[1] - out[0]) * x[-1])
        new = table.s[n] * unit[2 + n]
        for j in range(min(n + 1, table.order_in_time)):
            new = new + table.a[n, j] * x[n - j] + table.b[n, j] * m[n - j]
        x.append(new)
    return float(x[-1][0]), float(x[-1][1:].square().sum())


@pytest.mark.parametrize(("name", "settings", "order", "processes"), WEAK)
def test_weak_order(name: str, settings: dict[str, Any], order: int, processes: tuple[str, ...]) -> None:
    """The mean is exact, as it is for every method here on a Gaussian; the variance's error falls with the order."""
    counts = (24, 48, 96)
    for process in processes:
        noise = PROCESSES[process]
        model = mixture(process, noise, components=1, classes=1, dimension=1, spread=0.5)
        errors = []
        for steps in counts:
            grid = graded(noise, steps, 1)
            mean, variance = moments(model, make_stepper(name, **settings), grid)
            alpha, sigma = grid.alpha[-1], grid.sigma[-1]
            assert mean == pytest.approx(float(alpha * model.means[0, 0]), abs=1e-12)
            errors.append(abs(variance - float(alpha.square() * model.spread**2 + sigma.square())))
        assert slope(counts, errors) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("process", ["flow", "vp"])
def test_sampled_moments_of_stochastic_ddim(process: str) -> None:
    """What the driver samples has them too, within the deviation of 400 samples and the discretisation's error."""
    model = one_gaussian(process)
    x = sequential(problem(model, make_stepper("ddim", eta=1.0), 50, 400)).x
    assert (x.mean(0) - model.means[0]).abs().max() < 4 * model.spread / math.sqrt(400)
    assert (x.std(0) / model.spread - 1).abs().max() < 4 / math.sqrt(800) + 0.03
