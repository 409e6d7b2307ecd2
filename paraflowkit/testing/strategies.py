"""Hypothesis strategies for step tables, grids and problems; needs hypothesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.spacing import make_grid
from paraflowkit.table import StepTable
from paraflowkit.testing._problems import make_stepper, mixture

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "paraflowkit.testing.strategies needs hypothesis: pip install hypothesis, or paraflowkit[test]."
    ) from error

__all__ = ["grids", "noises", "problems", "tables"]

#: Samplers of every sort, with settings, and the processes that they take.
_EVERY = ("flow", "vp", "ve")
_SAMPLERS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("euler", {}, ("flow", "ve")),
    ("ddim", {"eta": 0.0}, _EVERY),
    ("ddim", {"eta": 1.0}, _EVERY),
    ("ddpm", {}, _EVERY),
    ("euler-ancestral", {}, ("vp", "ve")),
    ("dpm-solver", {"order": 2}, ("vp", "ve")),
    ("dpm-solver", {"order": 3, "algorithm": "sde-dpmsolver++"}, ("vp", "ve")),
    ("lms", {"order": 4}, ("vp", "ve")),
    ("heun", {}, ("vp", "ve")),
    ("unipc", {"order": 2}, ("vp", "ve")),
    ("clipped-ddim", {"clip": 2.0}, ("vp", "ve")),
)


def noises(processes: Sequence[str] = _EVERY) -> st.SearchStrategy[NoiseSchedule]:
    """Noise processes.

    Args:
        processes: of which kinds: ``flow``, ``vp``, ``ve``.
    """
    each: dict[str, st.SearchStrategy[NoiseSchedule]] = {
        "flow": st.just(FlowMatching()),
        "vp": st.builds(VP, schedule=st.sampled_from(["linear", "scaled_linear", "cosine"])),
        "ve": st.builds(VE, sigma_max=st.floats(2.0, 80.0)),
    }
    return st.one_of([each[process] for process in processes])


@st.composite
def grids(
    draw: st.DrawFn,
    noise: NoiseSchedule | None = None,
    min_steps: int = 1,
    max_steps: int = 16,
    even: bool | None = None,
) -> TimeGrid:
    """Grids of a process from its start to its clean end, with even or uneven steps.

    Args:
        noise: the process, by default any. min_steps, max_steps: bounds of N. even: only those, or only others.
    """
    noise = draw(noises()) if noise is None else noise
    steps = draw(st.integers(min_steps, max_steps))
    if draw(st.booleans()) if even is None else even:
        return make_grid(noise, steps)
    sizes = draw(st.lists(st.integers(1, 8), min_size=steps, max_size=steps))
    place = torch.tensor([0, *sizes], dtype=torch.float64).cumsum(0) / sum(sizes)
    if isinstance(noise, VP):  # whole training steps, the last of which leads to the clean end
        t = (noise.start * (1 - place)).round()
        t[-1] = noise.end
        return TimeGrid.of(noise, t)
    return TimeGrid.of(noise, noise.start + (noise.end - noise.start) * place)


@st.composite
def tables(
    draw: st.DrawFn,
    min_steps: int = 1,
    max_steps: int = 16,
    max_depth: int = 4,
    stochastic: bool | None = None,
    wants: Prediction | None = None,
) -> StepTable:
    """Step tables with coefficients that keep a solution bounded and that belong to no known sampler.

    Args:
        min_steps, max_steps: bounds of N. max_depth: largest K. stochastic: with noise, without, or either. wants: the
            parameterisation, by default any.
    """
    steps = draw(st.integers(min_steps, max_steps))
    depth = draw(st.integers(1, max_depth))
    noisy = draw(st.booleans()) if stochastic is None else stochastic
    wanted = draw(st.sampled_from(Prediction)) if wants is None else wants
    # Coefficients from a seed: hypothesis would spend its budget on hundreds of floats.
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def values(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=source, dtype=torch.float64) - 1

    a, b = values(steps, depth), values(steps, depth)
    causal = torch.arange(depth) <= torch.arange(steps)[:, None]
    a, b = a * causal, b * causal
    a = a / a.abs().sum(1, keepdim=True).clamp(min=1)  # weights of states that do not grow
    b = 0.5 * b / b.abs().sum(1, keepdim=True).clamp(min=1)
    s = 0.1 + 0.4 * values(steps).abs() if noisy else torch.zeros(steps, dtype=torch.float64)
    return StepTable(a, b, s, wanted)


@st.composite
def problems(
    draw: st.DrawFn,
    max_steps: int = 12,
    max_batch: int = 4,
    guided: bool | None = None,
    foreign: bool | None = None,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Small problems with an exact network: any process, grid, batch and guidance, with shipped samplers or any table.

    ``problem.evaluate`` is that of a Gaussian mixture, so that a solve takes milliseconds. Its sequential solution is
    that of the solver ``sequential``.

    Args:
        max_steps, max_batch: bounds of N, before inner stages, and of the samples. guided: with guidance, without, or
            either. foreign: with a table of no known sampler, with a shipped sampler, or either. dtype: of states.
    """
    process = draw(st.sampled_from(_EVERY))
    noise = draw(noises([process]))
    model = mixture(process, noise, dimension=draw(st.integers(1, 5)), components=draw(st.integers(1, 6)))
    known = [(name, settings) for name, settings, takes in _SAMPLERS if process in takes]
    name, settings = draw(st.sampled_from(known))
    grid = draw(grids(noise, 1, max_steps))
    batch = draw(st.integers(1, max_batch))
    seeds = draw(st.lists(st.integers(0, 2**31), min_size=batch, max_size=batch))
    guide = draw(st.booleans()) if guided is None else guided
    limit = min(model.config.classes, model.config.components)
    classes = draw(st.lists(st.integers(0, limit - 1), min_size=batch, max_size=batch)) if guide else None
    scales = draw(st.lists(st.sampled_from([1.0, 2.0, 7.5]), min_size=batch, max_size=batch)) if guide else 1.0
    alien = draw(st.booleans()) if foreign is None else foreign
    problem = make_problem(
        model,
        make_stepper("ddim" if alien else name, **({} if alien else settings)),
        grid,
        seeds,
        classes=None if classes is None else list(classes),
        guidance=scales,
        dtype=dtype,
    )
    if not alien:
        return problem
    # A noise prediction says nothing where there is no noise, and a velocity needs a process that has one.
    table = draw(tables(grid.steps, grid.steps, wants=Prediction.DATA))
    return dataclasses.replace(problem, rule=table)
