"""How the error that was asked for compares with the error that was made, sample by sample.

    python docs/examples/stopping.py > docs/data/stopping.md

Solves fresh samples of the shipped networks with ``error: 3e-2`` … ``1e-3``, over networks, guidance scales, steps and
windows, and prints the shares of true to asked error: the relative RMSE of the final sample to the sequential one.
"""

from __future__ import annotations

import argparse

import torch
from iterations_at_error import ROWS, Cell, component, machine, make, network, sequential

from paraflowkit.solution import relative_rmse
from paraflowkit.solve import solve

FLOW = ("digits-flow", "euler")
CELLS = [
    Cell(*FLOW, 50, 3.0, 8),
    Cell(*FLOW, 50, 3.0, 16),
    Cell(*FLOW, 50, 7.5, 16),
    Cell(*FLOW, 50, 1.0, 16),
    Cell(*FLOW, 25, 3.0, 8),
    Cell(*FLOW, 100, 3.0, 8),
    Cell("digits-vp", "ddim", 50, 3.0, 16),
    Cell("digits-vp", "ddim", 50, 3.0, 8),
]


def shares(cell: Cell, solver: str, error: float, samples: int, seed: int) -> tuple[torch.Tensor, float, float]:
    """True over asked errors of all samples, and mean iterations and evaluations."""
    problem = make(**cell.equation, samples=samples, seed=seed)
    reference = sequential(**cell.equation, samples=samples, seed=seed).x
    pair = component("solver", solver, error=error), component("window", "sliding", size=cell.window)
    found = solve(problem, *pair, max_rows=ROWS)
    stats = found.stats
    cost = (float(each.double().mean()) for each in (stats.sample_iterations, stats.evaluations))
    return relative_rmse(found.x, reference, network(cell.model).data_std) / error, *cost


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Asked and made errors of the quasi-Newton solvers.")
    parser.add_argument("--solvers", nargs="+", default=["lattice", "secant"])
    parser.add_argument("--errors", nargs="+", type=float, default=[3e-2, 1e-2, 3e-3, 1e-3])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seed", type=int, default=7000, help="of the first sample of a setting")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many settings, from the first on")
    a = parser.parse_args(arguments)
    lines: list[str] = []
    for solver in a.solvers:
        every: list[torch.Tensor] = []
        for error in a.errors:
            made, iterations, evaluations = [], 0.0, 0.0
            for cell in CELLS[: a.cells]:
                share, sweeps, nodes = shares(cell, solver, error, a.samples, a.seed)
                made.append(share)
                iterations, evaluations = iterations + sweeps, evaluations + nodes
            every += made
            count = len(made)
            cost = f"{iterations / count:.1f}", f"{evaluations / count:.0f}"
            lines.append(row(solver, f"{error:g}", torch.cat(made), *cost))
        lines.append(row(solver, "all", torch.cat(every), "", ""))
    print(
        "| solver | asked | below | median | 95 % | largest | Iters | NFE |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    print("\n".join(lines))
    settings = "; ".join(
        f"{c.model}, {c.stepper}, N = {c.steps}, guidance {c.guidance:g}, window {c.window}" for c in CELLS[: a.cells]
    )
    print(
        f"\nBelow: share of samples nearer to the sequential one than was asked. Median, 95 % and largest: true over "
        f"asked error. {a.samples} samples, seeds from {a.seed} on, of each of: {settings}. {machine()}."
    )


def row(solver: str, asked: str, share: torch.Tensor, iterations: str, evaluations: str) -> str:
    median, high = torch.quantile(share, torch.tensor([0.5, 0.95], dtype=share.dtype)).tolist()
    below = float((share <= 1).double().mean())
    return (
        f"| {solver} | {asked} | {100 * below:.1f} % | {median:.2f} | {high:.2f} | {float(share.max()):.2f} "
        f"| {iterations} | {evaluations} |"
    )


if __name__ == "__main__":
    main()
