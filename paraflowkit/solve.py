"""The only sampling loop: it marches, evaluates, measures, slides, counts and calls back, for every solver."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from paraflowkit.buffers import Buffers
from paraflowkit.composition import Whole, advanced, check_pair, check_warm, checked, refuse_levels
from paraflowkit.core.march import spread
from paraflowkit.core.opening import noisy_nodes
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Spent, Sweep
from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.norms import tolerance_scales
from paraflowkit.solution import Result, Solution, Stats

__all__ = ["SweepInfo", "check_pair", "solve"]


@dataclass(frozen=True)
class SweepInfo:
    """What a callback is told after each sweep.

    Attributes:
        sweep: counted from 1. steps: N. fronts: int64 ``(samples,)``, accepted nodes of each sample, N when done.
        stats: so far. ends: int64 ``(samples,)``, where each window ended in this sweep.
        clean: computes, when it is called within the callback, the clean estimate of every sample,
            ``(samples, *shape)``: the data prediction at each front before this sweep moved it, or the sample itself
            where it is finished.
    """

    sweep: int
    steps: int
    fronts: Tensor
    stats: Stats
    ends: Tensor
    clean: Callable[[], Tensor]


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
    warm: Tensor | None = None,
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
        warm: ``(samples, N + 1, *shape)``, or ``(1, …)`` for all, the trajectory of an earlier solve on the same nodes,
            perhaps with other prompts, seeds or guidance. It takes the place of the solver's guesses.

    Raises:
        ValueError: settings out of range; the message names the remedy.
    """
    if nonfinite not in ("stop", "sequential"):
        raise ValueError(f"nonfinite must be 'stop' or 'sequential', got {nonfinite!r}.")
    for name, value in (("max_rows", max_rows), ("max_sweeps", max_sweeps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    check_pair(problem.rule, solver)
    settings = solver.config
    if problem.nominal:
        refuse_levels(solver)
    rolls = settings.guess == "clean_estimate" and warm is None
    started = time.perf_counter()
    aside = 0.0  # seconds in callbacks
    steps, count, device = problem.steps, len(problem.x0), problem.x0.device
    state = solver.init(problem)
    window = Whole() if solver.whole else solver.window(state, window.fit(problem, max_rows))
    most = min(window.limit(steps), solver.max_window or steps, steps)  # nodes that are evaluated in a sweep
    state = solver.opened(state, most)
    stretch = solver.stretch(state)
    width = widest = min(stretch * most, steps)
    limits = [most] * count  # falls to 1 for a sample that goes on sequentially
    fell_back: set[int] = set()  # because of values that were not finite

    # Steps of the first sweep where there is no estimate to guess the states after them with.
    noisy = noisy_nodes(problem) if rolls and not settings.precondition else steps

    def asked(window: Window, limit: int) -> int:
        """The nodes to be evaluated at once, as far as they may be: one before the window opens."""
        if window.lo == 0 and noisy < steps:  # the nearer half says most, and all are evaluated again
            limit = (limit + 1) // 2
        return min(window.hi - window.lo, 1 if window.lo < settings.precondition else limit)

    def cut(windows: list[Window]) -> list[Window]:
        """The steps of those nodes, as far as states can be guessed; a sample that goes on sequentially has one."""
        sizes = [asked(w, limit) for w, limit in zip(windows, limits, strict=True)]
        lengths = [size if size == 1 else stretch * size for size in sizes]
        ends = [min(w.lo + length, noisy if w.lo == 0 else steps) for w, length in zip(windows, lengths, strict=True)]
        return [Window(w.lo, end) for w, end in zip(windows, ends, strict=True)]

    plan = [advanced(window, None, 0, steps) for _ in range(count)]
    run = Buffers(problem, cut(plan), width, check_warm(warm, problem), trajectory)
    if not settings.precondition:
        run.guess([0] * count, settings.guess, torch.zeros_like(problem.x0) if rolls else None)
    scales = tolerance_scales(settings.norm, problem.nodes).to(device)
    tolerance = settings.tolerance**2
    twice = 1 if settings.stride == "exact" else 2  # sweeps for a step, at worst
    detour = twice if nonfinite == "sequential" else 0  # what led to values that were not finite is lost
    allowed = max_sweeps or twice * steps + detour
    results: list[Result | None] = [None] * count
    active = torch.ones(count, dtype=torch.bool, device=device)
    stats = Stats(
        sample_iterations=torch.zeros(count, dtype=torch.int64),
        evaluations=torch.zeros(count, dtype=torch.int64),
        buffer_bytes=run.bytes,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    offsets = torch.arange(width, device=device)
    estimates = _estimator(problem, run, active)

    def finish(i: int, result: Result) -> None:
        results[i] = result
        active[i] = False

    with torch.no_grad():
        while None in results:
            h = run.history
            apart = stats.sweeps < settings.precondition  # steps are still taken one by one
            node = run.lo[:, None] + offsets
            valid = (node < run.hi[:, None]) & active[:, None]
            n = node.clamp(max=steps - 1)
            wanted = solver.select(state, n, valid) & valid
            wanted[:, 0] = valid[:, 0]
            if stretch > 1:
                sizes = torch.tensor([asked(w, k) for w, k in zip(plan, limits, strict=True)], device=device)
                wanted &= wanted.long().cumsum(1) <= sizes[:, None]
            _evaluate(problem, run, node, problem.agree(wanted & ~run.known[:, h:]), max_rows, stats)
            evaluated = valid & run.known[:, h:]
            broken = (evaluated & ~_largest(run.m[:, h:]).isfinite()).any(1)
            after = run.x[:, h + 1 :]
            phi = problem.rule.apply(n, run.x[:, :-1], run.m, run.noise)
            # What was not evaluated may hold anything; its old state keeps it from reaching a sum.
            phi = torch.where(spread(evaluated, phi), phi, after)
            spent = Spent(stats.model_seconds, aside, stats.calls, stats.rows)
            sweep = Sweep(problem, n, valid, evaluated, phi, run.x, run.m, run.noise, h, spent)
            found, state = solver.sweep(state, sweep)
            update = checked(found, solver, after)
            new = torch.where(spread(valid, phi), update.states, after)
            difference = new - after
            change = _largest(difference)
            residual = difference.flatten(2).double().square().mean(2) if update.residual is None else update.residual
            residual = torch.where(valid, residual / scales[n], torch.nan)
            broken = broken | (valid & ~change.isfinite()).any(1)
            leading = ((residual <= tolerance) & valid).long().cumprod(1).sum(1)
            made = evaluated.long().cumprod(1).sum(1)
            limit = made if update.limit is None else update.limit
            ahead = 1 if settings.stride == "exact" or apart else 0
            least = torch.full_like(limit, ahead)
            if update.least is not None and not apart:  # a front may wait for as long as N sweeps suffice
                least = torch.where(run.lo > stats.sweeps, torch.minimum(update.least, least), least)
            stride = torch.minimum(torch.maximum(torch.minimum(leading + ahead, limit), least), run.hi - run.lo)
            decided = problem.agree(torch.stack([torch.where(active & ~broken, stride, 0), broken.long()]))
            stride, broken = decided[0], decided[1].bool()
            stats.fronts.append(run.lo.cpu())
            shown = torch.where(evaluated, residual, torch.nan) if update.residual is None else residual
            stats.residuals.append(pad(shown.cpu(), (0, widest - width), value=torch.nan))
            keep = active & ~broken
            estimates = _estimator(problem, run, keep)
            opening = "constant" if apart else settings.entering
            if stats.sweeps == settings.precondition:
                opening = settings.guess
            if width == 1:  # the state that enters is the one that the next sweep makes exact
                opening = "constant"
            data = run.estimates(evaluated) if opening == "clean_estimate" and warm is None else None
            run.x = torch.where(spread(keep, run.x), torch.cat([run.x[:, : h + 1], new], 1), run.x)
            # An output belongs to the state it was computed at: a state that moved must be evaluated again.
            run.known[:, h + 1 :] &= ~((change != 0)[:, :-1] & keep[:, None])
            for i in [i for i, fault in enumerate(broken.tolist()) if fault]:
                if nonfinite == "sequential" and limits[i] > 1:
                    limits[i] = 1
                    fell_back.add(i)
                    run.x[i, h + 1 :] = run.x[i, h]
                    run.m[i, h:] = 0
                    run.known[i, h:] = run.seen[i, h:] = False
                else:
                    finish(i, Result.NONFINITE)
            unseen = stride > made
            if h and bool(unseen.any()):  # accepted unseen: later steps look back at them all the same
                if update.outputs is None:
                    run.hold(run.estimates(evaluated) if data is None else data, unseen[:, None])
                else:
                    run.fill(update.outputs, (offsets < stride[:, None]) & unseen[:, None])
            strides = stride.tolist()
            if run.trajectory is not None:
                for i, length in enumerate(strides):
                    first = run.windows[i].lo
                    run.trajectory[i, first + 1 : first + 1 + length] = run.x[i, h + 1 : h + 1 + length]
            # Accepting ends the evaluation of a state: behind the front, outputs stay what they were accepted with.
            if apart:  # the policy has not begun
                plan = [Window(w.lo + s, min(w.hi + s, steps)) for w, s in zip(plan, strides, strict=True)]
            else:
                plan = [advanced(window, w, s, steps) if s else w for w, s in zip(plan, strides, strict=True)]
            ends = run.hi
            if update.alone and width > 1:
                limits = [1] * count
            run.slide(strides, cut(plan), opening, data)
            if update.alone and width > 1:
                run.narrow(1)
                width, stretch, offsets = 1, 1, offsets[:1]
            stats.strides.append(stride.cpu())
            for i, w in enumerate(run.windows):
                if results[i] is None and w.lo == steps:
                    finish(i, Result.FELL_BACK if i in fell_back else Result.CONVERGED)
                elif results[i] is None and stats.sweeps >= allowed:
                    finish(i, Result.MAX_SWEEPS)
            if callback is not None:
                told = time.perf_counter()
                stats.seconds = told - started - aside
                callback(
                    SweepInfo(
                        stats.sweeps, steps, run.lo.cpu(), stats, ends.cpu(), partial(_current, run, results, estimates)
                    )
                )
                aside += time.perf_counter() - told
        samples = _current(run, results, estimates)
    stats.seconds = time.perf_counter() - started - aside
    if device.type == "cuda":
        stats.peak_bytes = torch.cuda.max_memory_allocated(device)
    ends = tuple(result for result in results if result is not None)
    return Solution(samples, ends, stats, run.trajectory)


def _evaluate(problem: Problem, run: Buffers, node: Tensor, wanted: Tensor, max_rows: int | None, stats: Stats) -> None:
    """Evaluate the network at the wanted nodes of all samples, in one call, or in chunks of ``max_rows`` rows."""
    sample, column = wanted.nonzero(as_tuple=True)
    if not len(sample):  # with the printed stride a sweep may only find out that a state has settled
        return
    stats.evaluations += wanted.sum(1).cpu()
    stats.sample_iterations += wanted.any(1).cpu()
    stats.iterations += 1
    position = column + run.history
    x, nodes = run.x[sample, position], node[sample, column]
    rows = problem.network_rows(sample)
    stats.rows += rows
    chunk = len(sample) if max_rows is None else max(1, max_rows // (2 if rows > len(sample) else 1))
    started = time.perf_counter()
    for at in range(0, len(sample), chunk):
        part = slice(at, at + chunk)
        out = problem.output(x[part], nodes[part], sample[part])
        stats.calls += 1
        run.m[sample[part], position[part]] = out.to(run.m.dtype)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)  # else the network's time would be booked on whoever waits for it
    stats.model_seconds += time.perf_counter() - started
    run.known[sample, position] = run.seen[sample, position] = True


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value of each state of ``(samples, width, *shape)``, NaN where it holds one."""
    return values.flatten(2).abs().amax(2)


def _estimator(problem: Problem, run: Buffers, usable: Tensor) -> Callable[[], Tensor]:
    """Computes, when it is called, the data prediction at each front of this sweep; the state itself where the output
    is not ``usable``. Costs nothing unless somebody looks."""
    h, buffers = run.history, (run.x, run.m, run.lo)

    def compute() -> Tensor:
        x, m, node = buffers[0][:, h], buffers[1][:, h], buffers[2].clamp(max=problem.steps - 1)
        return torch.where(spread(usable, x), problem.clean(x, m, node), x)

    return compute


def _current(run: Buffers, results: list[Result | None], estimates: Callable[[], Tensor]) -> Tensor:
    """The best samples so far: the last state where it is reached, the state at the front after a fault, else the
    data prediction."""
    done = [run.windows[i].lo == run.problem.steps or result is Result.NONFINITE for i, result in enumerate(results)]
    front = run.x[:, run.history]
    if all(done):
        return front.clone()
    return torch.where(spread(torch.tensor(done, device=front.device), front), front, estimates())
