"""What a run is put together from: Fabric, model, stepper, solver, window, grid, problems."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric import Fabric

from paraflowkit import registry
from paraflowkit.config import Component, RunConfig
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.core.solver import ParallelSolver
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.core.treatment import Treatment
from paraflowkit.core.window import WindowPolicy
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.evaluator import Evaluator
from paraflowkit.fabric.mesh import Mesh, MeshStrategy
from paraflowkit.fabric.started import check_meeting, check_mesh, count_processes
from paraflowkit.fabric.watch import end_with_parent
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import FlowMatching
from paraflowkit.requests import Request
from paraflowkit.sections import GridConfig
from paraflowkit.spacing import make_grid, resolution_shift


def make_model(config: RunConfig, fabric: Fabric) -> VelocityModel:
    """The configured model; what it draws at random is the same in every process."""
    if fabric.world_size == 1:
        return make_component(config.model)
    with torch.random.fork_rng():
        torch.manual_seed(fabric.broadcast(torch.initial_seed() % 2**31))
        return make_component(config.model)


@dataclass(frozen=True)
class Pieces:
    """The four plugins of a run."""

    model: VelocityModel
    stepper: BaseStepper[Any]
    solver: ParallelSolver[Any, Any]
    window: WindowPolicy[Any]


def make_component(component: Component) -> Any:
    """The plugin that was chosen, with its settings."""
    return registry.get(component.kind, component.name)(component.settings)


def make_fabric(config: RunConfig) -> Fabric:
    """The Fabric that the configuration describes, launched; several devices are put on the configured mesh.

    Raises:
        ParaflowkitError: the devices do not fit the mesh, or what the environment says of other processes; or
            Lightning refuses the combination: its own words are quoted.
    """
    f = config.fabric
    # They tell of each process that has started and of all, which is worth a line to those who debug them alone.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    end_with_parent()
    world, here = count_processes(f.devices)
    check_mesh(config, world)
    several = world > 1
    try:
        strategy = MeshStrategy(**config.mesh.model_dump()) if f.strategy == "auto" and several else f.strategy
        fabric = Fabric(
            accelerator=f.accelerator,
            devices=f.devices,
            strategy=strategy,
            num_nodes=world // here,
            precision=f.precision,  # pyright: ignore[reportArgumentType]  # Fabric checks the words itself
        )
        check_meeting(getattr(fabric.strategy, "cluster_environment", None), world, here)
        fabric.launch()
    except (ValueError, RuntimeError, TypeError) as error:
        raise ParaflowkitError(f"The 'fabric' section does not fit this machine: {error}") from error
    return fabric


def make_maker(config: RunConfig, fabric: Fabric, pieces: Pieces, mesh: Mesh) -> Callable[[Sequence[Request]], Problem]:
    """A function that turns a batch of requests into a problem; grid and evaluator are made once."""
    dtype = torch.float64 if config.run.dtype == "float64" else torch.float32
    grid = _grid(config, pieces.model)
    treatment = Treatment(**config.prediction.model_dump())
    times = pieces.stepper.nodes(grid, pieces.model.noise).t
    evaluator = Evaluator(fabric, pieces.model, times, dtype, mesh, config.fabric.compile)

    def make(batch: Sequence[Request]) -> Problem:
        return make_problem(
            pieces.model,
            pieces.stepper,
            grid,
            [request.seed for request in batch],
            classes=[request.class_id for request in batch],
            prompts=[request.prompt for request in batch],
            negative_prompts=[request.negative_prompt for request in batch],
            guidance=[request.guidance for request in batch],
            dtype=dtype,
            device=fabric.device,
            treatment=treatment,
            evaluate=evaluator,
        )

    return make


def with_grid(config: RunConfig, model: VelocityModel) -> RunConfig:
    """A section ``grid`` that says nothing but the steps is that of the model's usual grid.

    All or nothing: settings of two grids that are mixed are neither. The result is what the run's folder records.
    """
    if config.grid.model_fields_set - {"steps"}:
        return config
    return replace(config, grid=GridConfig(steps=config.grid.steps, **model.grid_settings(config.grid.steps)))


def _grid(config: RunConfig, model: VelocityModel) -> TimeGrid:
    settings = config.grid.model_dump()
    tokens = settings.pop("image_tokens")
    if tokens is not None:
        if not isinstance(model.noise, FlowMatching):
            raise ValueError("'image_tokens' is a setting of flow-matching grids: leave it out.")
        settings["shift"] = resolution_shift(tokens)
    return make_grid(model.noise, **settings)


def sequential_pair() -> tuple[ParallelSolver[Any, Any], WindowPolicy[Any]]:
    """The sampler that parallel solvers are compared with."""
    return (
        registry.get("solver", "sequential")(registry.config_class("solver", "sequential")()),
        registry.get("window", "sliding")(registry.config_class("window", "sliding")(size=1)),
    )


def warm_up(problem: Problem, max_rows: int | None = None) -> float:
    """The sequential sampler's first calls, so that neither of the compared samplers pays for them.

    With all samples: a network that is compiled would otherwise be compiled for one row, which no solve asks for.

    Args:
        max_rows: most network rows in one call.

    Returns:
        Seconds of calls for which the network had to be compiled.
    """
    evaluator = problem.evaluate
    assert isinstance(evaluator, Evaluator)
    before = evaluator.compile_seconds
    with torch.no_grad():
        first_step(problem, max_rows)
    return evaluator.compile_seconds - before


def first_step(problem: Problem, max_rows: int | None) -> None:
    """Evaluate the network for the first step of all samples, at most ``max_rows`` network rows in a call."""
    sample = torch.arange(len(problem.x0), device=problem.x0.device)
    for part in sample.split(call_nodes(problem, max_rows) or len(sample)):
        problem.output(problem.x0[part], torch.zeros_like(part), part)
    if problem.x0.device.type == "cuda":
        torch.cuda.synchronize(problem.x0.device)


def call_nodes(problem: Problem, max_rows: int | None) -> int | None:
    """Evaluations, guided or not, that go into a call of ``max_rows`` network rows; None where there is no limit."""
    if max_rows is None:
        return None
    sample = torch.arange(len(problem.x0), device=problem.x0.device)
    return max(1, max_rows // (2 if problem.network_rows(sample) > len(sample) else 1))
