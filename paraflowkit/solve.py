"""The only sampling loop: it marches, evaluates, measures, slides, counts and calls back, for every solver."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.draws import draw
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Sweep
from paraflowkit.core.stepper import StepRule
from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.norms import tolerance_scales
from paraflowkit.solution import Result, Solution, Stats
from paraflowkit.table import StepTable

__all__ = ["SweepInfo", "check_pair", "solve"]


@dataclass(frozen=True)
class SweepInfo:
    """What a callback is told after each sweep.

    Attributes:
        sweep: counted from 1. steps: N. fronts: int64 ``(samples,)``, accepted nodes of each sample, N when done.
        stats: so far. clean: computes, when it is called within the callback, the clean estimate of every sample,
            ``(samples, *shape)``: the data prediction at each front before this sweep moved it, or the sample itself
            where it is finished.
    """

    sweep: int
    steps: int
    fronts: Tensor
    stats: Stats
    clean: Callable[[], Tensor]


class _Run:
    """Buffers and counters of one solve. Position p of a buffer is node ``lo - history + p`` of its sample."""

    def __init__(self, problem: Problem, windows: list[Window], width: int, keep: bool) -> None:
        self.problem = problem
        x0, count = problem.x0, len(problem.x0)
        self.history, self.width = problem.rule.order_in_time - 1, width
        self.windows = windows
        self.lo = torch.tensor([w.lo for w in windows], device=x0.device)
        self.hi = torch.tensor([w.hi for w in windows], device=x0.device)
        shape = tuple(x0.shape[1:])
        # Initial guess "constant": every unknown state starts as the last known one.
        self.x = x0[:, None].expand(count, self.history + width + 1, *shape).clone()
        self.m = x0.new_zeros(count, self.history + width, *problem.output_shape)
        self.known = torch.zeros(count, self.history + width, dtype=torch.bool, device=x0.device)
        self.z = torch.zeros_like(self.x[:, : width if problem.rule.stochastic else 0])
        self.drawn = torch.zeros(count, dtype=torch.int64)  # first step whose noise is not in z yet
        self.trajectory = x0[:, None].expand(count, problem.steps + 1, *shape).clone() if keep else None
        self.fill_noise()

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.x, self.m, self.z, self.known))

    def fill_noise(self) -> None:
        """Draw what the windows need and do not have: each (seed, step) once in a solve."""
        if not self.problem.rule.stochastic:
            return
        shape = tuple(self.x.shape[2:])
        lo = self.lo.tolist()
        for i, first in enumerate(lo):
            for step in range(max(int(self.drawn[i]), first), min(first + self.width, self.problem.steps)):
                value = draw(self.problem.seeds[i], step + 1, shape)
                self.z[i, step - first] = value.to(device=self.z.device, dtype=self.z.dtype)
            self.drawn[i] = min(first + self.width, self.problem.steps)

    def slide(self, stride: Tensor, windows: list[Window]) -> None:
        """Move every buffer by its sample's stride; states that enter repeat the last one worked on ("constant")."""
        span = torch.arange(self.x.shape[1], device=self.x.device)
        rows = torch.arange(len(self.x), device=self.x.device)[:, None]
        last = (self.history + self.hi - self.lo)[:, None]  # position of x[hi], the last state worked on
        source = span + stride[:, None]
        self.x = self.x[rows, torch.minimum(source, last)]
        outputs = source[:, :-1]
        inside = outputs < last
        outputs = outputs.clamp(max=self.m.shape[1] - 1)
        self.m = self.m[rows, outputs]
        self.known = self.known[rows, outputs] & inside
        if self.problem.rule.stochastic:
            self.z = self.z[rows, (span[: self.width] + stride[:, None]).clamp(max=self.width - 1)]
        self.windows = windows
        self.lo = torch.tensor([w.lo for w in windows], device=self.x.device)
        self.hi = torch.tensor([w.hi for w in windows], device=self.x.device)
        self.fill_noise()


def check_pair(rule: StepRule, solver: ParallelSolver[Any, Any]) -> None:
    """Raise ValueError, with a remedy, where a solver needs a step table and the sampler has none."""
    if solver.needs_table and not isinstance(rule, StepTable):
        raise ValueError(
            f"{type(solver).__name__} needs the coefficients of an affine sampler, which {type(rule).__name__} is not: "
            "use a solver that does not, such as paradigms or paraflow, or an affine stepper."
        )


def solve(
    problem: Problem,
    solver: ParallelSolver[Any, Any],
    window: WindowPolicy[Any],
    *,
    max_sweeps: int | None = None,
    nonfinite: str = "stop",
    max_rows: int | None = None,
    callback: Callable[[SweepInfo], None] | None = None,
    trajectory: bool = False,
) -> Solution:
    """Sample a batch in parallel over the steps of each sample.

    Every sample slides its own window; the rows of all of them are evaluated together. Each sweep makes at least the
    next state of every unfinished sample exact, so with the ``exact`` stride N sweeps always suffice.

    Args:
        problem, solver, window: what to solve and how.
        max_sweeps: stop after so many; by default N, and 2N for the ``printed`` stride, which never bind.
        nonfinite: when the network gives NaN or infinity, ``stop`` that sample, or go on ``sequential`` from its last
            exact state (which stops if the values were not a guess's fault).
        max_rows: evaluate at most so many network rows in one call.
        callback: called after each sweep. trajectory: keep all N + 1 states of every sample, O(N) memory.

    Raises:
        ValueError: settings out of range; the message names the remedy.
    """
    if nonfinite not in ("stop", "sequential"):
        raise ValueError(f"nonfinite must be 'stop' or 'sequential', got {nonfinite!r}.")
    for name, value in (("max_rows", max_rows), ("max_sweeps", max_sweeps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    check_pair(problem.rule, solver)
    if problem.nominal and solver.config.norm != "absolute" and solver.config.tolerance > 0:
        raise ValueError(
            f"The noise levels of this scheduler are not known, so the norm {solver.config.norm!r} means nothing: use "
            "norm 'absolute'."
        )
    started = time.perf_counter()
    steps, count, device = problem.steps, len(problem.x0), problem.x0.device
    settings = solver.config
    width = min(window.limit(steps), solver.max_window or steps, steps)
    limits = [width] * count  # falls to 1 for a sample that goes on sequentially

    def cut(windows: list[Window]) -> list[Window]:
        return [Window(w.lo, min(w.hi, w.lo + limit)) for w, limit in zip(windows, limits, strict=True)]

    plan = [window.initial(steps) for _ in range(count)]  # what the policy asked for; `cut` is what is used
    run = _Run(problem, cut(plan), width, trajectory)
    scales = tolerance_scales(settings.norm, problem.nodes).to(device)
    tolerance = settings.tolerance**2
    detour = 1 if nonfinite == "sequential" else 0  # the sweep whose values were not finite is lost
    allowed = max_sweeps or (steps if settings.stride == "exact" else 2 * steps) + detour
    results: list[Result | None] = [None] * count
    active = torch.ones(count, dtype=torch.bool, device=device)
    stats = Stats(
        sample_iterations=torch.zeros(count, dtype=torch.int64),
        evaluations=torch.zeros(count, dtype=torch.int64),
        buffer_bytes=run.bytes,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    state = solver.init(problem)
    offsets = torch.arange(width, device=device)
    estimates = problem.x0

    def finish(i: int, result: Result) -> None:
        results[i] = result
        active[i] = False

    while bool(active.any()):
        h = run.history
        node = run.lo[:, None] + offsets
        valid = (node < run.hi[:, None]) & active[:, None]
        stale = valid & ~run.known[:, h:]
        with torch.no_grad():
            _evaluate(problem, run, node, stale, max_rows, stats)
            broken = (valid & ~run.m[:, h:].flatten(2).isfinite().all(2)).any(1)
            estimates = _estimates(problem, run, active & run.m[:, h].flatten(1).isfinite().all(1), estimates)
            n = node.clamp(max=steps - 1)
            x, after = run.x[:, h : h + width], run.x[:, h + 1 :]
            phi = problem.rule.apply(n, run.x[:, :-1], run.m, run.z if problem.rule.stochastic else None)
            # Padding may hold anything; zeros keep it from reaching a sum.
            spread = valid.view(*valid.shape, *(1,) * (x.ndim - 2))
            phi = torch.where(spread, phi, after)
            new, state = solver.sweep(state, Sweep(n=n, x=x, after=after, phi=phi, m=run.m[:, h:], valid=valid))
            new = torch.where(spread, new, after)
            change = (new - after).flatten(2).double().square().mean(2) / scales[n]
        change = torch.where(valid, change, torch.nan)
        broken = broken | (valid & ~change.isfinite()).any(1)
        lead = ((change <= tolerance) | ~valid).long().cumprod(1)
        leading = (lead * valid).sum(1)
        stride = torch.minimum(leading + (1 if settings.stride == "exact" else 0), run.hi - run.lo)
        stride = torch.where(active & ~broken, stride, 0)
        stats.fronts.append(run.lo.cpu())
        stats.residuals.append(change.cpu())
        moved = (new != after).flatten(2).any(2)
        keep = active & ~broken
        fresh = torch.cat([run.x[:, : h + 1], new], 1)
        run.x = torch.where(keep.view(-1, *(1,) * (run.x.ndim - 1)), fresh, run.x)
        # An output belongs to the state it was computed at: a state that moved must be evaluated again.
        run.known[:, h + 1 :] &= ~(moved[:, :-1] & keep[:, None])
        for i in broken.nonzero()[:, 0].tolist():
            if nonfinite == "sequential" and limits[i] > 1:
                limits[i] = 1
                run.x[i, h + 1 :] = run.x[i, h]
                run.m[i, h:] = 0
                run.known[i, h:] = False
            else:
                finish(i, Result.NONFINITE)
        strides = stride.tolist()
        if run.trajectory is not None:
            for i, length in enumerate(strides):
                first = int(run.lo[i])
                run.trajectory[i, first + 1 : first + 1 + length] = run.x[i, h + 1 : h + 1 + length]
        # Accepting ends the evaluation of a state: what lies behind the front keeps the output it was accepted with.
        plan = [window.advance(w, s, steps) if s else w for w, s in zip(plan, strides, strict=True)]
        run.slide(stride, cut(plan))
        stats.strides.append(stride.cpu())
        for i, w in enumerate(run.windows):
            if results[i] is None and w.lo == steps:
                finish(i, Result.CONVERGED if limits[i] == width else Result.FELL_BACK)
            elif results[i] is None and stats.sweeps >= allowed:
                finish(i, Result.MAX_SWEEPS)
        if callback is not None:
            stats.seconds = time.perf_counter() - started
            clean = partial(_current, run, results, estimates)
            callback(SweepInfo(stats.sweeps, steps, run.lo.cpu(), stats, clean))
    stats.seconds = time.perf_counter() - started
    if device.type == "cuda":
        stats.peak_bytes = torch.cuda.max_memory_allocated(device)
    ends = tuple(result for result in results if result is not None)
    return Solution(_current(run, results, estimates), ends, stats, run.trajectory)


def _evaluate(problem: Problem, run: _Run, node: Tensor, wanted: Tensor, max_rows: int | None, stats: Stats) -> None:
    """Evaluate the network at the wanted nodes of all samples, in one call, or in chunks of ``max_rows`` rows."""
    sample, column = wanted.nonzero(as_tuple=True)
    if not len(sample):  # with the printed stride a sweep may only find out that a state has settled
        return
    stats.evaluations += wanted.sum(1).cpu()
    stats.sample_iterations += wanted.any(1).cpu()
    stats.iterations += 1
    position = column + run.history
    x, nodes = run.x[sample, position], node[sample, column]
    guided = problem.network_rows(sample) > len(sample)
    chunk = len(sample) if max_rows is None else max(1, max_rows // (2 if guided else 1))
    started = time.perf_counter()
    for at in range(0, len(sample), chunk):
        part = slice(at, at + chunk)
        out = problem.output(x[part], nodes[part], sample[part])
        stats.calls += 1
        stats.rows += problem.network_rows(sample[part])
        run.m[sample[part], position[part]] = out.to(run.m.dtype)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)  # else the network's time would be booked on whoever waits for it
    stats.model_seconds += time.perf_counter() - started
    run.known[sample, position] = True


def _estimates(problem: Problem, run: _Run, which: Tensor, old: Tensor) -> Tensor:
    """The data prediction at each front, for the samples marked; the others keep theirs."""
    if not bool(which.any()):
        return old
    new = old.clone()
    h = run.history
    new[which] = problem.clean(run.x[which, h], run.m[which, h], run.lo[which])
    return new


def _current(run: _Run, results: list[Result | None], estimates: Tensor) -> Tensor:
    """The best samples so far: the last state where it is reached, the state at the front after a fault, else the
    data prediction."""
    out = estimates.clone()
    for i, result in enumerate(results):
        if run.windows[i].lo == run.problem.steps or result is Result.NONFINITE:
            out[i] = run.x[i, run.history]
    return out
