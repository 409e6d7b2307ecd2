"""Iterations and evaluations of parareal at a wanted error, on a shipped digits network.

The loosest tolerance of the sweep is reported whose mean relative RMSE to the sequential samples meets the wanted one.

    python plugins/paraflowkit-parareal/examples/iterations_at_error.py --model digits-flow --blocks 5 7 10
"""

from __future__ import annotations

import argparse

import torch
from paraflowkit import registry
from paraflowkit.core.problem import make_problem
from paraflowkit.solution import relative_rmse
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import SequentialConfig
from paraflowkit.solvers.sequential import Sequential
from paraflowkit.spacing import make_grid
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding

from paraflowkit_parareal.config import PararealConfig
from paraflowkit_parareal.solver import Parareal


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["digits-flow", "digits-vp"], default="digits-flow")
    parser.add_argument("--stepper", default="ddim")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--error", type=float, default=1e-2)
    parser.add_argument("--blocks", type=int, nargs="+", default=[7])
    parser.add_argument("--loosest", type=float, default=0.2, help="first tolerance tried; each next is 1.5 times less")
    a = parser.parse_args()
    model = registry.get("model", a.model)(registry.config_class("model", a.model)())
    problem = make_problem(
        model,
        registry.get("stepper", a.stepper)(registry.config_class("stepper", a.stepper)()),
        make_grid(model.noise, a.steps),
        list(range(1000, 1000 + a.samples)),
        classes=[i % 10 for i in range(a.samples)],
        guidance=a.guidance,
    )
    window = Sliding(SlidingConfig(size=1))
    reference = solve(problem, Sequential(SequentialConfig()), window).x
    print(f"torch {torch.__version__}, {a.model}, {a.stepper}, N = {problem.steps}, guidance {a.guidance:g}")
    for blocks in a.blocks:
        tolerance = a.loosest
        while True:
            found = solve(problem, Parareal(PararealConfig(blocks=blocks, tolerance=tolerance)), window)
            error = relative_rmse(found.x, reference, model.data_std)
            if float(error.mean()) <= a.error:
                break
            tolerance /= 1.5
        print(
            f"{blocks} blocks, tolerance {tolerance:.4f}: "
            f"{found.stats.sample_iterations.double().mean():.1f} iterations, "
            f"{found.stats.evaluations.double().mean():.1f} evaluations, relative RMSE {error.mean():.1e}, "
            f"worst {error.max():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
