"""Time outside the network, for every installed solver: one guided sample of the shipped flow network, 50 Euler steps.

The run of each solver is repeated in turn with the others', and the median share is printed.

    python docs/examples/framework_time.py --window 8
"""

from __future__ import annotations

import argparse
import platform
from statistics import median

import torch

from paraflowkit import registry
from paraflowkit.core.problem import make_problem
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import DigitsFlow
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    a = parser.parse_args(arguments)
    model = DigitsFlow(DigitsConfig())
    euler = registry.get("stepper", "euler")(registry.config_class("stepper", "euler")())
    problem = make_problem(model, euler, make_grid(model.noise, a.steps), [1000], classes=[0], guidance=3.0)

    def run(name: str) -> tuple[float, float, float]:
        # ParaSolver-Turbo evaluates `degree` nodes of a window three times as long, as in its paper.
        turbo = name == "parasolver-turbo"
        settings = {"degree": a.window} if turbo else {}
        solver = registry.get("solver", name)(registry.config_class("solver", name).model_validate(settings))
        size = {"size": a.window * (3 if turbo else 1)}
        window = registry.get("window", "sliding")(registry.config_class("window", "sliding").model_validate(size))
        stats = solve(problem, solver, window).stats
        return stats.rest_share, 1e3 * stats.rest_seconds / stats.sweeps, 1e3 * stats.model_seconds / stats.sweeps

    names = registry.names("solver")
    rounds = [{name: run(name) for name in names} for _ in range(a.repeat + 1)][1:]
    print(f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    print("| solver | outside the network | ms a sweep | network, ms a sweep |")
    print("|---|---|---|---|")
    shares: dict[str, float] = {}
    for name in names:
        share, rest, inside = (median(one[name][k] for one in rounds) for k in range(3))
        shares[name] = share
        print(f"| {name} | {100 * share:.1f} % | {rest:.2f} | {inside:.1f} |")
    return shares


if __name__ == "__main__":
    main()
