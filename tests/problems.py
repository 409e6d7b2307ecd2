"""Problems for tests, most with an exact solution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paraflowkit import registry
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.core.solver import ParallelSolver
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.core.window import WindowPolicy
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import NoiseSchedule
from paraflowkit.solution import Solution
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaDiGMSConfig, ParaFlowConfig, SequentialConfig
from paraflowkit.solvers.paradigms import ParaDiGMS
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.solvers.sequential import Sequential
from paraflowkit.spacing import make_grid
from paraflowkit.steppers.configs import DDIMConfig, EulerConfig
from paraflowkit.steppers.ddim import DDIM
from paraflowkit.steppers.euler import Euler
from paraflowkit.windows.configs import FixedConfig, SlidingConfig
from paraflowkit.windows.fixed import Fixed
from paraflowkit.windows.sliding import Sliding

STEPPERS: dict[str, BaseStepper[Any]] = {
    "euler": Euler(EulerConfig()),
    "ddim-0": DDIM(DDIMConfig(eta=0.0)),
    "ddim-1": DDIM(DDIMConfig(eta=1.0)),
}


def make_stepper(name: str, **settings: Any) -> BaseStepper[Any]:
    """An installed stepper."""
    return registry.get("stepper", name)(registry.config_class("stepper", name).model_validate(settings))


def make_solver(name: str, **settings: Any) -> ParallelSolver[Any, Any]:
    """An installed solver."""
    return registry.get("solver", name)(registry.config_class("solver", name).model_validate(settings))


def make_window(name: str, **settings: Any) -> WindowPolicy[Any]:
    """An installed window policy."""
    return registry.get("window", name)(registry.config_class("window", name).model_validate(settings))


def exact_solvers() -> dict[str, ParallelSolver[Any, Any]]:
    """Every parallel solver at tolerance 0."""
    return {
        "paradigms": ParaDiGMS(ParaDiGMSConfig(tolerance=0.0)),
        "paraflow": ParaFlow(ParaFlowConfig(tolerance=0.0)),
        "parataa": make_solver("parataa", tolerance=0.0),
        "parasolver": make_solver("parasolver", tolerance=0.0),
        "parasolver-turbo": make_solver("parasolver-turbo", tolerance=0.0, degree=3),
        "secant": make_solver("secant", tolerance=0.0),
        "lattice": make_solver("lattice", tolerance=0.0),
    }


class Counting:
    """Wraps a problem's evaluation: counts rows and calls, and can spoil rows."""

    def __init__(self, problem: Problem, spoil: Any = None) -> None:
        self.inner, self.spoil = problem.evaluate, spoil
        self.rows = self.calls = 0
        self.nodes: list[int] = []

    def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        self.rows += len(x)
        self.calls += 1
        self.nodes += node.tolist()
        out = self.inner(x, node, cond)
        return out if self.spoil is None else self.spoil(out, x, node)


def mixture(process: str = "flow", noise: NoiseSchedule | None = None, **settings: Any) -> GaussianMixture:
    """A class-conditional mixture in five dimensions."""
    config = GaussianMixtureConfig(process=process, **{"dimension": 5, "components": 8, "classes": 4, **settings})
    return GaussianMixture(config, noise=noise)


def one_gaussian(process: str = "flow", noise: NoiseSchedule | None = None) -> GaussianMixture:
    """A mixture of one component, whose flow is affine (see :func:`exact_flow`)."""
    return mixture(process, noise, components=1, classes=1, spread=0.5)


def exact_flow(model: GaussianMixture, x0: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The probability-flow map of one Gaussian from time ``start`` to ``end``.

    The marginal at t is N(alpha mu, alpha² s² + sigma²), and the flow keeps the standardised state.
    """

    def moments(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = model.noise.alpha(t), model.noise.sigma(t)
        return alpha * model.means[0], (alpha.square() * model.spread**2 + sigma.square()).sqrt()

    (mean0, std0), (mean1, std1) = moments(start), moments(end)
    return mean1 + (x0 - mean0) * std1 / std0


def problem(
    model: VelocityModel,
    stepper: BaseStepper[Any],
    steps: int,
    batch: int = 1,
    guidance: float | None = None,
    dtype: torch.dtype = torch.float64,
    spacing: str = "uniform",
    **more: Any,
) -> Problem:
    """A problem of ``batch`` samples; with ``guidance``, of classes 0, 1, … and that scale."""
    classes = None if guidance is None else [i % 4 for i in range(batch)]
    return make_problem(
        model,
        stepper,
        make_grid(model.noise, steps, spacing),
        [100 + i for i in range(batch)],
        classes=classes,  # type: ignore[arg-type]
        guidance=1.0 if guidance is None else guidance,
        dtype=dtype,
        **more,
    )


def sequential(p: Problem, **settings: Any) -> Solution:
    """The reference of every exactness test."""
    return solve(p, Sequential(SequentialConfig()), Sliding(SlidingConfig(size=1)), trajectory=True, **settings)


def sliding(size: int) -> Sliding:
    return Sliding(SlidingConfig(size=size))


def fixed(size: int) -> Fixed:
    return Fixed(FixedConfig(size=size))
