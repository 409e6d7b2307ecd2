"""Solves of a bench: all requests of a run in batches, and some of them by the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraflowkit.bench.contents import contents
from paraflowkit.bench.remembered import Remembered
from paraflowkit.bench.search import Point
from paraflowkit.config import Component, RunConfig, to_data
from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.mesh import Mesh
from paraflowkit.fabric.metered import metered_solve
from paraflowkit.fabric.pieces import make_component, make_model, warm_up
from paraflowkit.fabric.setup import Setup
from paraflowkit.registry import config_class
from paraflowkit.requests import read_requests
from paraflowkit.solution import relative_rmse
from paraflowkit.solve import SweepInfo

if TYPE_CHECKING:
    from lightning.fabric import Fabric

#: Sections whose settings say which equation is solved; the rest says how, where and what is written.
EQUATION = ("model", "stepper", "grid", "prediction", "requests")


class Refused(Exception):
    """A method that this equation, or these settings, do not allow; the bench goes on with the next."""


def component(kind: str, name: str, **settings: Any) -> Component:
    """A plugin and its settings."""
    return Component(kind, name, config_class(kind, name)(**settings))


def sequentially(config: RunConfig) -> RunConfig:
    """The run of the sampler that methods are compared with."""
    return replace(config, solver=component("solver", "sequential"), window=component("window", "sliding", size=1))


def equation(config: RunConfig) -> dict[str, Any]:
    """What decides the sequential samples of a run."""
    data = to_data(config)
    requests = [request.model_dump() for request in read_requests(config)]
    own = {name: data[name] for name in EQUATION if name != "requests"}
    how = {"dtype": config.run.dtype, "precision": config.fabric.precision}
    return {**own, "requests": requests, **how, **contents(own["model"])}


@dataclass(frozen=True)
class Made:
    """Samples of a run.

    Attributes:
        x: ``(n, *shape)`` on the CPU. iterations, evaluations: int64 ``(n,)``.
        fine: bool ``(n,)``, those that ended well.
    """

    x: Tensor
    iterations: Tensor
    evaluations: Tensor
    fine: Tensor

    @property
    def failed(self) -> int:
        """Samples that did not end well."""
        return int((~self.fine).sum())

    def point(self, reference: Tensor | None, std: float) -> Point:
        """Means over the samples; one that failed has an infinite error."""
        errors = torch.zeros(1) if reference is None else relative_rmse(self.x, reference, std)
        errors = torch.where(errors.isfinite() & (self.fine if reference is not None else True), errors, torch.inf)
        iterations, evaluations = (float(each.double().mean()) for each in (self.iterations, self.evaluations))
        return Point(iterations, evaluations, float(errors.mean()), float(errors.max()))


class Solver:
    """Solves runs with models that it keeps.

    Args:
        fabric: launched; its processes share every call.

    Raises:
        ParaflowkitError: the processes are to share requests.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric, self.mesh = fabric, Mesh.of(fabric)
        if self.mesh.data > 1:
            raise ParaflowkitError("A bench shares the rows of calls between processes: leave out mesh.data.")
        self._models: dict[str, tuple[VelocityModel, VelocityModel]] = {}

    def model(self, config: RunConfig, remembered: bool = False) -> VelocityModel:
        """The model of a run, and only the last one is kept; ``remembered``: it evaluates no row twice."""
        settings = to_data(config)
        mark = json.dumps([settings["model"], config.run.dtype, config.fabric.precision], sort_keys=True)
        if mark not in self._models:
            self._models.clear()
            try:
                model = make_model(config, self.fabric)
            except ValueError as error:
                raise ParaflowkitError(str(error)) from error
            self._models[mark] = (model, Remembered(model))
        return self._models[mark][remembered]

    def setup(self, config: RunConfig, remembered: bool = False) -> Setup:
        """Everything of a run but its solves.

        Raises:
            Refused: the pieces do not fit each other.
        """
        # Processes that share a network, or a compiled one, must all be called, and with the rows that they expect.
        model = self.model(config, remembered and not (config.mesh.shard or config.fabric.compile))
        try:
            return Setup.build(config, read_requests(config), self.fabric, self.mesh, model)
        except ParaflowkitError as error:
            raise Refused(str(error)) from error

    def make(self, config: RunConfig, told: Callable[[float], None], remembered: bool = False) -> Made:
        """Make all samples of a run; ``told`` the share that is done.

        Raises:
            Refused: pieces that do not fit each other, or a solver that refuses its settings.
        """
        setup = self.setup(config, remembered)
        pair = (setup.pieces.solver, setup.pieces.window)
        parts: list[tuple[Tensor, ...]] = []
        for number, batch in enumerate(setup.batches):

            def sweep(info: SweepInfo, number: int = number) -> None:
                told((number + float(info.fronts.double().mean()) / info.steps) / len(setup.batches))

            problem = setup.first if number == 0 else setup.make(batch)
            with self._refusals():
                found = metered_solve(config, pair, problem, config.run.max_sweeps, sweep)
            fine = torch.tensor([result.ok for result in found.results])
            parts.append((found.x.cpu(), found.stats.sample_iterations, found.stats.evaluations, fine))
        return Made(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def clock(
        self, configs: Sequence[RunConfig], samples: int, repetitions: int, told: Callable[[float], None]
    ) -> list[list[float]]:
        """Seconds of each repetition of each run, all runs in turn, on the first ``samples`` requests together.

        What one solve takes depends on what the machine does meanwhile; in turn, it is the same for all on the average.
        """
        ready: list[tuple[RunConfig, Any, Any]] = []
        for config in configs:
            setup = self.setup(config)
            problem = setup.make(setup.requests[:samples])
            ready.append((config, (make_component(config.solver), make_component(config.window)), problem))
            warm_up(problem, config.run.max_rows)
        seconds: list[list[float]] = [[] for _ in ready]
        for repetition in range(repetitions):
            for i, (config, pair, problem) in enumerate(ready):
                began = time.perf_counter()
                with self._refusals():
                    stats = metered_solve(config, pair, problem, config.run.max_sweeps).stats
                if self.fabric.device.type == "cuda":
                    torch.cuda.synchronize(self.fabric.device)
                seconds[i].append(time.perf_counter() - began - stats.compile_seconds)
                told((repetition * len(ready) + i + 1) / (repetitions * len(ready)))
        return seconds

    @contextmanager
    def _refusals(self) -> Generator[None]:
        """What a solver raises costs its own rows; in one of several processes it ends them all."""
        try:
            yield
        except ValueError as error:
            raise Refused(str(error)) from error
        except ParaflowkitError:
            raise
        except Exception as error:
            if self.fabric.world_size > 1:
                raise
            raise Refused(f"{type(error).__name__}: {error}") from error

    def images(self, config: RunConfig, x: Tensor) -> Tensor:
        """What samples stand for, on the CPU."""
        model = self.model(config)
        with torch.no_grad():
            parts = [model.decode(part.to(self.fabric.device)).cpu() for part in x.split(config.run.batch)]
        return torch.cat(parts)


def middle(seconds: Sequence[float]) -> float:
    """The median."""
    return float(median(seconds))
