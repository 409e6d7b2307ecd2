"""Sweeps and errors of the samples of CHORDS' cores, in the order in which they finish, on a shipped digits network.

python plugins/paraflowkit-chords/examples/iterations_at_error.py --model digits-vp --starts 0 2 4 8 16 24 32 40
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

from paraflowkit_chords.config import ChordsConfig
from paraflowkit_chords.solver import Chords
from paraflowkit_chords.starts import automatic_starts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["digits-flow", "digits-vp"], default="digits-flow")
    parser.add_argument("--stepper", default="ddim")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--finishers", type=int, default=2)
    parser.add_argument("--tolerances", type=float, nargs="*", default=[])
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--cores", type=int, default=8)
    given.add_argument("--starts", type=int, nargs="+")
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
    starts = a.starts or automatic_starts(problem.steps, a.cores)
    print(f"torch {torch.__version__}, {a.model}, {a.stepper}, N = {problem.steps}, guidance {a.guidance:g}, {starts}")
    runs = {f"finisher {k}": ChordsConfig(starts=starts, finisher=k) for k in range(1, a.finishers + 1)}
    runs |= {f"tolerance {t:g}": ChordsConfig(starts=starts, tolerance=t) for t in a.tolerances}
    for name, config in runs.items():
        found = solve(problem, Chords(config), window)
        error = relative_rmse(found.x, reference, model.data_std)
        print(
            f"{name}: {found.stats.sample_iterations.double().mean():.1f} iterations, "
            f"{found.stats.evaluations.double().mean():.1f} evaluations, relative RMSE {error.mean():.1e}, "
            f"worst {error.max():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
