"""Which solver, window and tolerance are the fastest for a wanted error on the present devices, if any is?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from paraflowkit.fabric.alike import Alike
from paraflowkit.fabric.evaluator import Evaluator
from paraflowkit.fabric.folder import check_same_everywhere
from paraflowkit.fabric.mesh import Mesh, check_strategy
from paraflowkit.fabric.metered import metered_solve
from paraflowkit.fabric.pieces import call_nodes, make_component, make_fabric, sequential_pair, warm_up
from paraflowkit.fabric.setup import Setup
from paraflowkit.fabric.tuning import DEVICES, Trial, Tuning, check_wanted, in_words
from paraflowkit.fabric.watch import Watch
from paraflowkit.requests import read_requests
from paraflowkit.solution import Result, Solution, relative_rmse
from paraflowkit.solve import SweepInfo, check_pair

#: Windows that are tried, those of N steps and more as N.
WINDOWS = (4, 8, 16, 32, 64)
#: Between one tolerance that is tried and the next.
_STEP = 2.0
#: Tolerances that are tried for a solver with a window, at most.
_TRIES = 8


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
    sweep accepted its whole window, on no number of devices, is left out, and so is a solver that fails.

    Args:
        config: of the run. fabric: as in :func:`~paraflowkit.fabric.predict.predict`.
        error: wanted mean relative RMSE to the sequential samples. solvers: names; by default all that are installed.
        model: in place of the configured one. on_trial: told what is tried next, by the first process.

    Raises:
        ParaflowkitError: as predict does.
    """
    check_wanted(error, solvers)
    for name in solvers:
        registry.get("solver", name)  # one that was asked for and is broken
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
    """A solver cannot be tried with these settings, or failed; every process finds out alike."""


class _Tuner:
    """:func:`tune` in processes that agree on what to do; decisions are the first one's."""

    def __init__(self, setup: Setup, error: float, on_trial: Callable[[str], None] | None) -> None:
        self.setup, self.error = setup, error
        self.told = on_trial if setup.fabric.is_global_zero and on_trial is not None else _quiet
        self.problem, self.steps = setup.first, setup.first.steps
        self.alike = Alike(setup.fabric)
        self.trials: list[Trial] = []

    def __call__(self, solvers: Sequence[str]) -> Tuning:
        setup, config, problem = self.setup, self.setup.config, self.problem
        self.told("sequential sampling")
        warm_up(problem, config.run.max_rows)
        plain, rows = self._solve(sequential_pair())
        if lost := plain.results.count(Result.NONFINITE):
            raise ParaflowkitError(
                f"The sequential sampler gave values that are not finite for {lost} of {len(plain.results)} samples, "
                "and there is nothing to compare solvers with: use float32 instead of a half precision, or lower the "
                "guidance."
            )
        self.reference = plain.x
        sequential = _component("solver", "sequential"), _component("window", "sliding", size=1)
        best = slow = setup.fabric.broadcast(self._trial(*sequential, plain, rows))
        self.told("calls of the network")
        curve = setup.fabric.broadcast(CostCurve.measure(problem, self._counts()))
        self.curves = [curve.shared(devices) for devices in DEVICES]
        self.least = [slow.predicted(each) for each in self.curves]
        reasons: dict[str, str] = {}
        for number, name in enumerate(solvers, 1):
            self.at = f"solver {number} of {len(solvers)}"
            reasons[name] = self._try(name)
        trials = sorted(self.trials, key=lambda trial: trial.predicted(curve))
        if trials and trials[0].predicted(curve) < best.predicted(curve):
            best = trials[0]
        # Limits and guesses that were not those of the trials are not those of their settings either.
        run = config.run.model_copy(update={"max_sweeps": None, "warm_start": None})
        chosen = replace(config, solver=best.solver, window=best.window, run=run)
        left_out = {name: reason for name, reason in reasons.items() if reason}
        return Tuning(chosen, self.error, len(problem.x0), curve, slow, tuple(trials), left_out)

    def _counts(self) -> list[int]:
        """Evaluations of the calls that are timed.

        A network that is compiled is called with few numbers of rows, for all trials together: with those of the first
        sweeps, to which later ones are then filled up, as in a run.
        """
        config, count = self.setup.config, len(self.problem.x0)
        most = count * min(self.steps, WINDOWS[-1])
        most = min(most, call_nodes(self.problem, config.run.max_rows) or most)
        doubled = [2**power for power in range(most.bit_length())]
        wanted = [1, *(count * size for size in (1, 2, *WINDOWS))] if config.fabric.compile else doubled
        return sorted({min(each, most) for each in (*wanted, most)})

    def _try(self, name: str) -> str:
        """Try a solver with each window; why there are no trials of it, or no further ones; empty if there are."""
        try:
            registry.config_class("solver", name)
            solver = registry.get("solver", name)
            if solver.clocked:
                return "chooses its own window by the clock, so there is nothing to tune"
            # One that lays out the whole trajectory has no window.
            windows = (self.steps,) if solver.whole else WINDOWS
        except ParaflowkitError as broken:
            return str(broken)
        reason, tried, start = "", False, None
        for size in sorted({min(size, self.steps) for size in windows}):
            if self.trials and not self._may_win(size):
                continue
            tried = True
            try:
                trial = self._loosest(name, size, start)
            except _Refused as refused:
                return str(refused)
            if trial is None:
                reason = reason or f"does not meet the error with a window of {self._shape(name, size)[1]}"
                continue
            self.trials.append(trial)
            start, reason = trial.tolerance, ""
            self.least = [
                min(least, trial.predicted(each)) for each, least in zip(self.curves, self.least, strict=True)
            ]
        if tried:
            return reason
        return "could not be faster than those that were tried before it, even if every sweep accepted its whole window"

    def _may_win(self, size: int) -> bool:
        """Whether a solve whose every sweep accepts its whole window would be the fastest on any number of devices."""
        sweeps, count = ceil(self.steps / size), len(self.problem.x0)
        rows = self.problem.network_rows(torch.arange(count, device=self.problem.x0.device)) * self.steps / sweeps
        return any(sweeps * curve(rows) <= least for curve, least in zip(self.curves, self.least, strict=True))

    def _loosest(self, name: str, size: int, start: float | None) -> Trial | None:
        """The trial with the loosest tolerance that meets the error, or None where none does."""
        tolerance = start or self._usual(name) or self.error
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

    def _usual(self, name: str) -> float:
        """The tolerance that a solver has by default."""
        field = registry.config_class("solver", name).model_fields.get("tolerance")
        return field.default if field is not None and isinstance(field.default, float) else 0.0

    def _attempt(self, name: str, size: int, tolerance: float) -> Trial:
        """Solve the batch.

        Raises:
            _Refused: the solver does not take these settings, or failed.
            ParaflowkitError: it failed in this process alone.
        """
        degree, length = self._shape(name, size)
        words = f"{in_words(length, degree)} and tolerance {tolerance:.3g}"
        self.told(f"{self.at}: {name} {words}")
        window, trial, fault = _component("window", "sliding", size=length), None, None
        made = False
        try:
            solver = self._settings(name, degree, tolerance)
            pair = (make_component(solver), make_component(window))
            check_pair(self.problem.rule, pair[0])
            pair[0].init(self.problem)
            made = True
            trial = self._trial(solver, window, *self._solve(pair))
        except Exception as error:  # a plugin may fail in any way
            fault = error
        reason = "" if fault is None else _reason(fault)
        if made and reason:
            reason = f"failed {words}: {reason}"
        reason = self.alike(f"Solver {name!r}", reason)
        if trial is None or reason:
            raise _Refused(reason) from fault
        return self.setup.fabric.broadcast(trial)  # processes that measure different times must go the same way

    def _shape(self, name: str, size: int) -> tuple[int | None, int]:
        """Steps that are evaluated where a solver has a setting for them, and the window for a sweep of ``size``."""
        if "degree" not in registry.config_class("solver", name).model_fields:
            return None, size
        return size, min(3 * size, self.steps)  # as in its paper

    def _settings(self, name: str, degree: int | None, tolerance: float) -> Component:
        """A solver as in the run, where it is the run's, with another tolerance."""
        own = self.setup.config.solver
        settings = own.settings.model_dump(exclude_unset=True, exclude={"preset"}) if own.name == name else {}
        settings |= {"tolerance": tolerance} | ({} if degree is None else {"degree": degree})
        return Component("solver", name, registry.config_class("solver", name).model_validate(settings))

    def _solve(self, pair: tuple[Any, Any]) -> tuple[Solution, tuple[int, ...]]:
        """A solution, and the network rows of its sweeps."""
        evaluator = self.problem.evaluate
        assert isinstance(evaluator, Evaluator)
        totals = [0]
        filled = evaluator.filled

        def told(info: SweepInfo) -> None:
            totals.append(info.stats.rows + evaluator.filled - filled)

        found = metered_solve(self.setup.config, pair, self.problem, None, told)
        rows = [after - before for before, after in pairwise(totals)]
        return found, tuple(row for row in rows if row)

    def _trial(self, solver: Component, window: Component, found: Solution, rows: tuple[int, ...]) -> Trial:
        errors = relative_rmse(found.x, self.reference, self.setup.pieces.model.data_std)
        errors = torch.where(errors.isfinite(), errors, inf)
        stats = found.stats
        return Trial(
            solver,
            window,
            error=float(errors.mean()),
            worst=float(errors.max()),
            iterations=float(stats.sample_iterations.double().mean()),
            evaluations=float(stats.evaluations.double().mean()),
            rows=rows,
            rest=stats.rest_seconds,
            seconds=stats.seconds - stats.compile_seconds,
        )


def _quiet(trial: str) -> None:
    """For processes that do not talk."""


def _reason(error: Exception) -> str:
    """An exception in a sentence."""
    if isinstance(error, ValidationError):
        return "; ".join(explain(dict(item)) for item in error.errors(include_url=False))
    first = next(iter(str(error).splitlines()), "")
    if first and isinstance(error, (ValueError, ParaflowkitError)):  # a sentence of its own
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _component(kind: str, name: str, **settings: Any) -> Component:
    return Component(kind, name, registry.config_class(kind, name)(**settings))
