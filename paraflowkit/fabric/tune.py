"""Which solver, window and tolerance are the fastest for a wanted error on the present devices, if any is?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, inf
from typing import Any

import torch
from lightning.fabric import Fabric
from pydantic import ValidationError

from paraflowkit import registry
from paraflowkit.config import Component, RunConfig
from paraflowkit.core.cost import CostCurve
from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError, explain
from paraflowkit.fabric.folder import check_same_everywhere
from paraflowkit.fabric.mesh import Mesh, check_strategy
from paraflowkit.fabric.metered import metered_solve
from paraflowkit.fabric.pieces import make_component, make_fabric, sequential_pair
from paraflowkit.fabric.setup import Setup
from paraflowkit.fabric.watch import Watch
from paraflowkit.requests import read_requests
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import SweepInfo, check_pair

#: Windows that are tried, those of N steps and more as N.
WINDOWS = (4, 8, 16, 32, 64)
#: For so many times the present devices the speedup is foretold, and solvers are tried.
DEVICES = (1, 2, 4, 8)
#: Between one tolerance that is tried and the next.
_STEP = 2.0
#: Tolerances that are tried for a solver with a window, at most.
_TRIES = 8


@dataclass(frozen=True)
class Trial:
    """A solver with its loosest tolerance, of those tried, that meets the error, and what a batch costs with it.

    Attributes:
        solver, window: names and settings. size: steps that a sweep evaluates at most.
        error, worst: mean and largest relative RMSE of the samples to the sequential ones.
        iterations, evaluations: mean of a sample. rows: network rows of each sweep.
        rest: seconds outside the network. seconds: of the whole solve, as it was measured once.
    """

    solver: Component
    window: Component
    size: int
    error: float
    worst: float
    iterations: float
    evaluations: float
    rows: tuple[int, ...]
    rest: float
    seconds: float

    @property
    def tolerance(self) -> float:
        """Of the solver."""
        return getattr(self.solver.settings, "tolerance", 0.0)

    def predicted(self, curve: CostCurve) -> float:
        """Seconds of the solve by the cost curve, which is less noisy than a single measurement."""
        return self.rest + sum(curve(rows) for rows in self.rows)


@dataclass(frozen=True)
class Tuning:
    """What was found out.

    Attributes:
        config: with the fastest settings, the sequential sampler's where nothing is faster. wanted: the error.
        batch: samples of the batch that was solved. curve: seconds of network calls. sequential: the sampler compared
            with. trials: of the parallel solvers, the fastest first. left_out: solvers and why they could not be tried.
    """

    config: RunConfig
    wanted: float
    batch: int
    curve: CostCurve
    sequential: Trial
    trials: tuple[Trial, ...]
    left_out: dict[str, str]

    def speedup(self, devices: int = 1) -> tuple[float, Trial | None]:
        """Over the sequential sampler on so many times the present devices, by the cost curve; the best, and its trial.

        All calls are shared between the devices, those of a sequentially sampled batch too. The exchange of outputs is
        left out.
        """
        curve = self.curve.shared(devices)
        whole = self.sequential.predicted(curve)
        found = [(whole / trial.predicted(curve), trial) for trial in self.trials]
        return max(found, key=lambda each: each[0], default=(0.0, None))

    def promised(self) -> Iterator[tuple[int, float, Trial]]:
        """:meth:`speedup` on 2, 4 and 8 times the present devices."""
        for devices in DEVICES[1:]:
            speedup, trial = self.speedup(devices)
            if trial is not None:
                yield devices, speedup, trial

    def verdict(self) -> str:
        """Whether a parallel solver is faster here, with the numbers."""
        speedup, best = self.speedup()
        whole = self.sequential.predicted(self.curve)
        if best is None:
            return f"No solver met the error {self.wanted:g}, or none could be tried: sample sequentially."
        name = f"{best.solver.name} with a window of {best.size} and tolerance {best.tolerance:.3g}"
        if speedup > 1:
            return (
                f"Fastest here: {name}, {best.predicted(self.curve):.3g} s a batch in place of {whole:.3g} s "
                f"(sequential sampling), which is {speedup:.2f} times as fast. Its error is {best.error:.2g}."
            )
        step, most = self.sequential.rows[0], max(best.rows)
        return (
            f"Parallel sampling is slower here: the best is {name}, {best.predicted(self.curve):.3g} s a batch, and "
            f"sequential sampling takes {whole:.3g} s. A call of {most} rows takes "
            f"{self.curve(most) / self.curve(step):.1f} times as long as one of {step}, and there are only "
            f"{len(self.sequential.rows) / len(best.rows):.1f} times fewer."
        )


def tune(
    config: RunConfig,
    fabric: Fabric | None = None,
    *,
    error: float = 1e-2,
    solvers: Sequence[str] = (),
    model: VelocityModel | None = None,
    on_trial: Callable[[str], None] | None = None,
) -> Tuning:
    """Measure what network calls cost here, and choose settings by it.

    Every solver is tried on the first batch of the run with windows of 4, 8, 16, … steps, each with the loosest
    tolerance, in steps of a factor 2, that meets the error. What could not be faster than the best so far even if every
    sweep accepted its whole window, on no number of :data:`DEVICES`, is left out.

    Args:
        config: of the run. fabric: as in :func:`~paraflowkit.fabric.predict.predict`.
        error: wanted mean relative RMSE to the sequential samples. solvers: names; by default all that are installed.
        model: in place of the configured one. on_trial: told what is tried next, by the first process.

    Raises:
        ParaflowkitError: as predict does.
    """
    if not 0 < error < inf:
        raise ParaflowkitError(f"The wanted error must be more than 0 and finite, got {error:g}: tolerance 0 is exact.")
    for name in solvers:
        registry.get("solver", name)
        if name == "sequential":
            raise ParaflowkitError("The sequential sampler is what solvers are compared with: name others, or none.")
    requests = read_requests(config)
    fabric = fabric or make_fabric(config)
    check_strategy(fabric)
    with Watch(fabric):
        check_same_everywhere(fabric, config, requests)
        setup = Setup.build(config, requests, fabric, Mesh.of(fabric), model)
        wanted = (error, list(solvers or [name for name in registry.names("solver") if name != "sequential"]))
        error, names = fabric.broadcast(wanted)  # other arguments or plugins elsewhere must not part the processes
        return _Tuner(setup, error, on_trial)(names)


class _Refused(Exception):
    """A solver that cannot be tried with these settings; every process finds out alike."""


class _Tuner:
    """:func:`tune` in processes that agree on what to do; decisions are the first one's."""

    def __init__(self, setup: Setup, error: float, on_trial: Callable[[str], None] | None) -> None:
        self.setup, self.error = setup, error
        self.told = on_trial if setup.fabric.is_global_zero and on_trial is not None else _quiet
        self.problem, self.steps = setup.first, setup.first.steps
        self.std = setup.pieces.model.data_std

    def __call__(self, solvers: Sequence[str]) -> Tuning:
        config, problem = self.setup.config, self.problem
        count = len(problem.x0)
        self.told("calls of the network")
        nodes = count * min(self.steps, WINDOWS[-1])
        if config.run.max_rows is not None:
            guided = problem.network_rows(torch.arange(count, device=problem.x0.device)) > count
            nodes = min(nodes, max(1, config.run.max_rows // (2 if guided else 1)))
        curve = CostCurve.measure(problem, nodes)
        curve = self.setup.fabric.broadcast(curve)
        self.told("sequential sampling")
        plain, rows = self._solve(sequential_pair())
        self.reference = plain.x
        best = sequential = self._trial(_component("solver", "sequential"), _window(1), 1, plain, rows)
        curves = [curve.shared(devices) for devices in DEVICES]
        least = [best.predicted(each) for each in curves]
        trials: list[Trial] = []
        left_out: dict[str, str] = {}
        for name in solvers:
            start: float | None = None
            try:
                sizes = self._sizes(name)
            except ParaflowkitError as broken:
                left_out[name] = str(broken)
                continue
            for size in sizes:
                if trials and all(self._least(size, each) > time for each, time in zip(curves, least, strict=True)):
                    continue
                try:
                    trial = self._loosest(name, size, start)
                except _Refused as refused:
                    left_out[name] = str(refused)
                    break
                if trial is None:
                    left_out.setdefault(name, f"does not meet the error with a window of {size}")
                    continue
                trials.append(trial)
                start = trial.tolerance
                least = [min(time, trial.predicted(each)) for each, time in zip(curves, least, strict=True)]
                left_out.pop(name, None)
        trials.sort(key=lambda trial: trial.predicted(curve))
        if trials and trials[0].predicted(curve) < best.predicted(curve):
            best = trials[0]
        # Limits and guesses that were not those of the trials are not those of their settings either.
        run = config.run.model_copy(update={"max_sweeps": None, "warm_start": None})
        chosen = replace(config, solver=best.solver, window=best.window, run=run)
        return Tuning(chosen, self.error, count, curve, sequential, tuple(trials), left_out)

    def _sizes(self, name: str) -> list[int]:
        """Windows for a solver; one that lays out the whole trajectory has none."""
        if registry.get("solver", name).whole:
            return [self.steps]
        return sorted({min(size, self.steps) for size in WINDOWS})

    def _least(self, size: int, curve: CostCurve) -> float:
        """Seconds that a solve takes whose every sweep accepts all of its window."""
        sweeps = ceil(self.steps / size)
        count = len(self.problem.x0)
        rows = self.problem.network_rows(torch.arange(count, device=self.problem.x0.device))
        return sweeps * curve(rows * self.steps / sweeps)

    def _loosest(self, name: str, size: int, start: float | None) -> Trial | None:
        """The trial with the loosest tolerance that meets the error, or None where none does."""
        tolerance = start or getattr(registry.config_class("solver", name)(), "tolerance", 0.0) or self.error
        met: Trial | None = None
        failed = inf
        for _ in range(_TRIES):
            trial = self._attempt(name, size, tolerance)
            if trial.error <= self.error:
                met = trial
                if tolerance * _STEP >= failed or trial.iterations <= ceil(self.steps / size):
                    break
                tolerance *= _STEP
            else:
                failed = tolerance
                if met is not None:
                    break
                tolerance /= _STEP
        if met is None:
            exact = self._attempt(name, size, 0.0)
            met = exact if exact.error <= self.error else None
        return met

    def _attempt(self, name: str, size: int, tolerance: float) -> Trial:
        cls = registry.config_class("solver", name)
        settings: dict[str, Any] = {"tolerance": tolerance}
        length = size
        own = self.setup.config.solver
        if own.name == name:
            settings = {**own.settings.model_dump(exclude_unset=True, exclude={"preset"}), **settings}
        if "degree" in cls.model_fields:  # evaluates so many steps of a window three times as long, as in its paper
            settings["degree"], length = size, min(3 * size, self.steps)
        window = _window(length)
        self.told(f"{name}, window {size}, tolerance {tolerance:.3g}")
        try:  # all processes refuse alike; what fails in the solve itself may fail in one alone, and ends the run
            solver = Component("solver", name, cls.model_validate(settings))
            pair = (make_component(solver), make_component(window))
            check_pair(self.problem.rule, pair[0])
            pair[0].init(self.problem)
        except ValidationError as error:
            raise _Refused("; ".join(explain(dict(item)) for item in error.errors(include_url=False))) from error
        except (ValueError, ParaflowkitError) as error:
            raise _Refused(str(error)) from error
        found, rows = self._solve(pair)
        return self._trial(solver, window, size, found, rows)

    def _solve(self, pair: tuple[Any, Any]) -> tuple[Solution, tuple[int, ...]]:
        """A solution, and the network rows of its sweeps."""
        totals = [0]

        def told(info: SweepInfo) -> None:
            totals.append(info.stats.rows)

        found = metered_solve(self.setup.config, pair, self.problem, None, told)
        rows = [after - before for before, after in pairwise(totals)]
        return found, tuple(row for row in rows if row)

    def _trial(self, solver: Component, window: Component, size: int, found: Solution, rows: tuple[int, ...]) -> Trial:
        errors = relative_rmse(found.x, self.reference, self.std)
        errors = torch.where(errors.isfinite(), errors, inf)
        stats = found.stats
        trial = Trial(
            solver,
            window,
            size,
            error=float(errors.mean()),
            worst=float(errors.max()),
            iterations=float(stats.sample_iterations.double().mean()),
            evaluations=float(stats.evaluations.double().mean()),
            rows=rows,
            rest=stats.rest_seconds,
            seconds=stats.seconds - stats.compile_seconds,
        )
        return self.setup.fabric.broadcast(trial)  # processes that measure different times must go the same way


def _quiet(trial: str) -> None:
    """For processes that do not talk."""


def _component(kind: str, name: str, **settings: Any) -> Component:
    return Component(kind, name, registry.config_class(kind, name)(**settings))


def _window(size: int) -> Component:
    return _component("window", "sliding", size=size)
