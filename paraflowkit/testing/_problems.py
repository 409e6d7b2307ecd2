"""Small problems, made of shipped pieces, and the sequential sampler that every result is compared with."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from paraflowkit import registry
from paraflowkit.core.draws import draw
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.spacing import make_grid

#: Steps of the problems of the kit.
STEPS = 12
PROCESSES: dict[str, NoiseSchedule] = {"flow": FlowMatching(), "vp": VP(), "ve": VE(sigma_max=10.0)}


def mixture(process: str, noise: NoiseSchedule | None = None, **settings: Any) -> GaussianMixture:
    """A class-conditional mixture in four dimensions, whose predictions are exact."""
    given: dict[str, Any] = {"dimension": 4, "components": 8, "classes": 4, "spread": 0.3, **settings}
    return GaussianMixture(GaussianMixtureConfig(**given), noise=noise or PROCESSES[process])


def make_stepper(name: str, **settings: Any) -> BaseStepper[Any]:
    """An installed stepper."""
    return registry.get("stepper", name)(registry.config_class("stepper", name).model_validate(settings))


def make(
    process: str,
    stepper: str | BaseStepper[Any],
    batch: int = 2,
    *,
    steps: int = STEPS,
    guidance: float | list[float] | None = None,
    model: VelocityModel | None = None,
    dtype: torch.dtype = torch.float64,
    **settings: Any,
) -> Problem:
    """A problem on a uniform grid; with ``guidance`` its samples are of the classes 0, 1, …

    Args:
        process: flow, vp or ve. stepper: its name, with ``settings``, or an object. batch, steps: samples and N.
        guidance: one scale, or one a sample; None is unconditional. model: another than the mixture. dtype: of states.
    """
    model = mixture(process) if model is None else model
    return make_problem(
        model,
        make_stepper(stepper, **settings) if isinstance(stepper, str) else stepper,
        make_grid(model.noise, steps),
        [11 + i for i in range(batch)],
        classes=None if guidance is None else [i % 4 for i in range(batch)],
        guidance=1.0 if guidance is None else guidance,
        dtype=dtype,
    )


def alone(problem: Problem, sample: int) -> Problem:
    """The same problem with one of its samples only."""

    def pick(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[sample : sample + 1]

    return dataclasses.replace(
        problem,
        x0=problem.x0[sample : sample + 1],
        seeds=problem.seeds[sample : sample + 1],
        cond=pick(problem.cond),
        uncond=pick(problem.uncond),
        guidance=pick(problem.guidance),
    )


def sequential(problem: Problem) -> Tensor:
    """The sampler as a loop of its own, which shares nothing with the driver: ``(samples, N + 1, *shape)``."""
    rule, x0, count = problem.rule, problem.x0, len(problem.x0)
    depth, sample = rule.order_in_time, torch.arange(count)
    states = [x0] * depth  # what lies before node 0 has no weight
    outputs = [x0.new_zeros(count, *problem.output_shape)] * (depth - 1)
    trajectory = [x0]
    with torch.no_grad():
        for n in range(rule.steps):
            node = torch.full((count,), n)
            outputs.append(problem.output(states[-1], node, sample).to(x0.dtype))
            z = None
            if rule.stochastic:
                z = torch.stack([draw(seed, n + 1, tuple(x0.shape[1:])) for seed in problem.seeds]).to(x0.dtype)[
                    :, None
                ]
            new = rule.apply(node[:, None], torch.stack(states[-depth:], 1), torch.stack(outputs[-depth:], 1), z)
            states.append(new[:, 0])
            trajectory.append(new[:, 0])
    return torch.stack(trajectory, 1)


class Counting:
    """A problem's network that counts its rows and calls, and can spoil what it returns.

    Attributes:
        rows, calls: so far. inside: how many of the calls came while ``busy`` was set.
        seen: condition, node and state of each row, where they are kept.
    """

    def __init__(self, problem: Problem, keep: bool = False, spoil: Any = None) -> None:
        self.inner, self.keep, self.spoil = problem.evaluate, keep, spoil
        self.rows = self.calls = self.inside = 0
        self.busy = False
        self.seen: list[tuple[int, int, Tensor]] = []

    def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        self.rows += len(x)
        self.calls += 1
        self.inside += self.busy
        if self.keep:
            of = [-1] * len(x) if cond is None else cond.tolist()
            self.seen += list(zip(of, node.tolist(), x.clone(), strict=True))
        out = self.inner(x, node, cond)
        return out if self.spoil is None else self.spoil(out, x, node, cond)
