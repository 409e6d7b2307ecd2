"""Iterations from the trajectory of another sample: of another guidance scale, class or seed.

    python docs/examples/warm_starts.py > docs/data/warm_starts.md

Solves samples of the shipped flow network, 50 Euler steps, guidance 3, from the solver's own guesses and from the
sequential trajectories of samples that differ from them in one thing, and prints iterations, evaluations and the final
error of each.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from iterations_at_error import ROWS, component, machine, measured, network

from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.solution import Solution
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid

SOLVERS = (("secant", 16), ("secant", 50), ("lattice", 8))
#: What the other sample has in place of guidance 3, its class and its seed.
OTHERS: dict[str, dict[str, Any]] = {
    "guidance 2.8": {"guidance": 2.8},
    "guidance 2.5": {"guidance": 2.5},
    "guidance 1.5": {"guidance": 1.5},
    "another class": {"shift": 3},
    "another seed": {"seed": 2000},
}


def make(samples: int, guidance: float = 3.0, shift: int = 0, seed: int = 1000) -> Problem:
    net = network("digits-flow")
    classes = [(i + shift) % 10 for i in range(samples)]
    grid, seeds = make_grid(net.noise, 50), list(range(seed, seed + samples))
    return make_problem(net, component("stepper", "euler"), grid, seeds, classes=classes, guidance=guidance)


def sequential(problem: Problem) -> Solution:
    pair = component("solver", "sequential"), component("window", "sliding", size=1)
    return solve(problem, *pair, max_rows=ROWS, trajectory=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Iterations of warm starts.")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--errors", type=float, nargs="+", default=[1e-2, 1e-3], help="asked for")
    a = parser.parse_args(arguments)
    problem, std = make(a.samples), network("digits-flow").data_std
    reference = sequential(problem).x
    starts: dict[str, torch.Tensor | None] = {"the solver's own": None}
    starts |= {name: sequential(make(a.samples, **other)).trajectory for name, other in OTHERS.items()}
    print(f"| solver | window | start | {' | '.join(f'error: {error:g}' for error in a.errors)} |")
    print(f"|---|---:|---|{'---:|' * len(a.errors)}")
    for name, size in SOLVERS:
        window = component("window", "sliding", size=size)
        for start, warm in starts.items():
            cells = []
            for error in a.errors:
                found = solve(problem, component("solver", name, error=error), window, max_rows=ROWS, warm=warm)
                point = measured(found, reference, std, "mean")
                cells.append(f"{point.iterations:.1f} / {point.evaluations:.0f} ({point.error:.1e})")
            print(f"| {name} | {size} | {start} | {' | '.join(cells)} |", flush=True)
    print(f"\nIterations / evaluations (mean error reached), {a.samples} samples, seeds from 1000. {machine()}.")


if __name__ == "__main__":
    main()
