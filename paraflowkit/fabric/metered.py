"""A solve as a run wants it, with what its evaluator tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from paraflowkit.config import RunConfig
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver
from paraflowkit.core.window import WindowPolicy
from paraflowkit.fabric.evaluator import Evaluator
from paraflowkit.solution import Solution, Stats
from paraflowkit.solve import SweepInfo, solve


def metered_solve(
    config: RunConfig,
    pair: tuple[ParallelSolver[Any, Any], WindowPolicy[Any]],
    problem: Problem,
    max_sweeps: int | None,
    callback: Callable[[SweepInfo], None] | None = None,
    trajectory: bool = False,
    warm: torch.Tensor | None = None,
) -> Solution:
    """Solve as the run wants it; its figures tell how long the evaluator waited for others, and compiled."""
    evaluator = problem.evaluate
    assert isinstance(evaluator, Evaluator)
    names = ("gather_seconds", "compile_seconds")
    before = {name: getattr(evaluator, name) for name in names}

    def read(stats: Stats) -> None:
        for name in names:
            setattr(stats, name, getattr(evaluator, name) - before[name])

    def told(info: SweepInfo) -> None:
        read(info.stats)
        if callback is not None:
            now = {name: getattr(evaluator, name) for name in names}
            callback(info)
            for name in names:  # what a callback has the network do is not the solve's
                before[name] += getattr(evaluator, name) - now[name]

    solution = solve(
        problem,
        pair[0],
        pair[1],
        max_sweeps=max_sweeps,
        nonfinite=config.run.nonfinite,
        max_rows=config.run.max_rows,
        callback=told,
        trajectory=trajectory,
        warm=warm,
    )
    read(solution.stats)
    return solution
