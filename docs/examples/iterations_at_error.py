"""Iterations and evaluations of ParaFlow at a wanted error, on the shipped flow network, beside fewer Euler steps.

The tolerance is swept and the loosest one whose mean relative RMSE to the N-step sequential samples meets the wanted
error is reported; then the fewest sequential steps that meet it (the honest baseline), for each stepper named.

    python docs/examples/iterations_at_error.py --steps 50 --guidance 3 --window 8 --error 1e-2 --baseline euler
"""

from __future__ import annotations

import argparse
import platform
from typing import Any

import torch

from paraflowkit import registry
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import DigitsFlow
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaFlowConfig, SequentialConfig
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.solvers.sequential import Sequential
from paraflowkit.spacing import make_grid
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--error", type=float, default=1e-2)
    parser.add_argument("--stride", choices=["exact", "printed"], default="exact")
    parser.add_argument("--baseline", nargs="*", default=["euler"], help="steppers to take fewer steps with")
    a = parser.parse_args(arguments)
    model = DigitsFlow(DigitsConfig())

    def problem(steps: int, stepper: str = "euler") -> Problem:
        return make_problem(
            model,
            registry.get("stepper", stepper)(registry.config_class("stepper", stepper)()),
            make_grid(model.noise, steps),
            list(range(1000, 1000 + a.samples)),
            classes=[i % 10 for i in range(a.samples)],
            guidance=a.guidance,
        )

    def plain(steps: int, stepper: str = "euler") -> Solution:
        return solve(problem(steps, stepper), Sequential(SequentialConfig()), Sliding(SlidingConfig(size=1)))

    reference = plain(a.steps).x
    best: dict[str, Any] = {}
    for tolerance in (1e-3 * 1.25**k for k in range(24)):
        solver = ParaFlow(ParaFlowConfig(tolerance=tolerance, stride=a.stride))
        found = solve(problem(a.steps), solver, Sliding(SlidingConfig(size=a.window)))
        errors = relative_rmse(found.x, reference, model.data_std)
        if float(errors.mean()) > a.error:
            break
        best = {
            "tolerance": tolerance,
            "iterations": float(found.stats.sample_iterations.double().mean()),
            "evaluations": float(found.stats.evaluations.double().mean()),
            "rmse": float(errors.mean()),
            "worst": float(errors.max()),
        }
    print(f"{platform.machine()} CPU, torch {torch.__version__}, float32, {a.samples} samples")
    print(
        f"N = {a.steps}, guidance {a.guidance:g}, window {a.window}, {a.stride} stride, mean RMSE at most {a.error:g}"
    )
    if not best:
        print("ParaFlow: no tolerance of the sweep met it.")
        return best
    print(
        f"ParaFlow: {best['iterations']:.1f} iterations / {best['evaluations']:.1f} evaluations at tolerance "
        f"{best['tolerance']:.4f} (relative RMSE {best['rmse']:.2e}, worst {best['worst']:.2e})"
    )
    for name in a.baseline:
        for steps in range(2, 2 * a.steps + 1):
            error = float(relative_rmse(plain(steps, name).x, reference, model.data_std).mean())
            if error <= a.error:
                print(f"Sequential {name}: {steps} steps (relative RMSE {error:.2e})")
                break
        else:
            print(f"Sequential {name}: more than {2 * a.steps} steps")
    return best


if __name__ == "__main__":
    main()
