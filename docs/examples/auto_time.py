"""Seconds of the solver ``auto`` over those of sequential sampling, on shipped networks and on one that is too cheap.

Each solve of ``auto`` is between two sequential ones, and its seconds are over their mean. The first one also times the
network's calls, and later ones use what earlier ones have found. ``noise`` is the largest ratio of two sequential
solves with one of ``auto`` between them.

    python docs/examples/auto_time.py > docs/data/auto_time.md
    python docs/examples/auto_time.py --batches 1 --repeat 3
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from paraflowkit import registry
from paraflowkit.bench.machine import cpu
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid

#: Network, stepper, steps, guidance.
SETTINGS = [
    ("digits-flow", "euler", 50, 3.0),
    ("digits-flow", "euler", 100, 3.0),
    ("digits-vp", "ddim", 50, 3.0),
    ("digits-vp", "ddpm", 200, 3.0),
    ("gaussian-mixture", "euler", 50, 1.0),  # a call takes less than the work around it
]


def made(kind: str, name: str, **settings: Any) -> Any:
    return registry.get(kind, name)(registry.config_class(kind, name).model_validate(settings))


def timed(run: Callable[[], Solution]) -> tuple[float, Solution]:
    began = time.perf_counter()
    found = run()
    return time.perf_counter() - began, found


def row(problem: Problem, repeat: int) -> list[str]:
    """Columns of the table: milliseconds of a sequential solve, ratios, iterations, largest error, noise."""
    window = made("window", "sliding")

    def run(name: str) -> tuple[float, Solution]:
        solver = made("solver", name)
        return timed(lambda: solve(problem, solver, window))

    _, exact = run("sequential")
    plain = [run("sequential")[0]]  # the first has warmed up
    ratios: list[float] = []
    noise: list[float] = []
    for _ in range(repeat + 2):
        seconds, found = run("auto")
        plain.append(run("sequential")[0])
        ratios.append(2 * seconds / (plain[-2] + plain[-1]))
        noise.append(max(plain[-2:]) / min(plain[-2:]))
    error = float(relative_rmse(found.x, exact.x, problem.data_std).max())
    iterations = float(found.stats.sample_iterations.double().mean())
    first, second, *later = ratios
    figures = [f"{each:.2f}" for each in (first, second, median(later), max(later))]
    return [f"{1e3 * median(plain):.0f}", *figures, f"{iterations:.1f}", f"{error:.1e}", f"{max(noise):.2f}"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Seconds of the solver auto over those of sequential sampling.")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 10])
    parser.add_argument("--repeat", type=int, default=7)
    a = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    print(
        f"{cpu()}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}, float32. Sequential = 1.\n"
    )
    columns = "samples | sequential, ms | first | second | median | worst | iterations | largest error | noise"
    print(f"| network, sampler, N | {columns} |\n|---|" + "---:|" * 9)
    for name, stepper, steps, guidance in SETTINGS:
        model = made("model", name)
        for batch in a.batches:
            seeds = list(range(1000, 1000 + batch))
            problem = make_problem(
                model,
                made("stepper", stepper),
                make_grid(model.noise, steps),
                seeds,
                classes=[i % 10 for i in range(batch)] if guidance != 1 else None,
                guidance=guidance,
            )
            print(f"| {name}, {stepper}, {steps} | {batch} | {' | '.join(row(problem, a.repeat))} |", flush=True)


if __name__ == "__main__":
    main()
