"""A warning when the first sweeps show that the sequential sampler would be faster."""

from __future__ import annotations

import logging
import time

from paraflowkit.core.problem import Problem
from paraflowkit.fabric.callbacks import Callback, Run
from paraflowkit.fabric.pieces import first_step
from paraflowkit.solve import SweepInfo

_log = logging.getLogger("paraflowkit")

#: Share of the steps after which the rate is judged.
_SHARE = 0.25
#: How many times slower than the sequential sampler, and how many seconds of the run, are worth a warning.
_SLOWER, _SECONDS = 1.1, 0.5


class Pace(Callback):
    """Compares the rate of a run's first sweeps with a timed call of one step's rows, and warns once.

    That call, with the first states of the first batch, is the only cost; it is not among the run's figures. The first
    sweep, which warms the network up, is left out of the rate.

    Args:
        problem: of the first batch.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._began: tuple[int, float, float, int, int] | None = None
        self._done = False

    def on_sweep_end(self, run: Run, batch: int, info: SweepInfo) -> None:
        if self._done:
            return
        front, stats = float(info.fronts.double().mean()), info.stats
        if self._began is None:
            self._began = (info.sweep, front, stats.seconds, stats.rows, stats.iterations)
            return
        first, start, seconds, rows, calls = self._began
        if front < start + _SHARE * info.steps and front < info.steps:
            return
        self._done = True
        if front == start or stats.iterations == calls:
            return
        began = time.perf_counter()
        first_step(self.problem, run.config.run.max_rows)
        step = time.perf_counter() - began
        ours = (stats.seconds - seconds) / (front - start) * info.steps
        theirs = step * info.steps
        lost = (ours - theirs) * run.batches
        if ours > _SLOWER * theirs and lost > _SECONDS and run.fabric.is_global_zero:
            sweeps = info.sweep - first
            _log.warning(
                "Parallel sampling is slower here, as far as the first %d sweeps tell: at their rate a batch takes "
                "%.2g s, and sequential sampling would take about %.2g s. A call for one step takes %.2g s, a sweep "
                "%.2g s with %.0f rows on average. 'paraflowkit tune' looks for faster settings.",
                info.sweep,
                ours,
                theirs,
                step,
                (stats.seconds - seconds) / sweeps,
                (stats.rows - rows) / (stats.iterations - calls),
            )
