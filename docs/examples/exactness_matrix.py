"""The exactness matrix: every solver with every stepper, at tolerance 0, against sequential sampling.

    python docs/examples/exactness_matrix.py
    python docs/examples/exactness_matrix.py --write docs/exactness.md
    python docs/examples/exactness_matrix.py --solvers paraflow parataa,memory=1 --steppers ddim,eta=0.7 --processes vp

A solver or stepper is named with settings as ``name,key=value``. Installed plugins' solvers are taken up by default.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paraflowkit import registry
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import EDM, VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.solve import check_pair, solve
from paraflowkit.spacing import make_grid

STEPS = 10
STEPPERS = [
    "euler",
    "euler-ancestral",
    "ddim",
    "ddim,eta=0.7",
    "clipped-ddim,clip=1.0",
    "clipped-ddim,threshold=0.9,threshold_max=2.0,eta=0.5",
    "ddpm",
    "ddpm,variance=fixed_large",
    "dpm-solver,order=1",
    "dpm-solver,order=2",
    "dpm-solver,order=3",
    "dpm-solver,algorithm=sde-dpmsolver++",
    "dpm-solver-singlestep,order=2",
    "dpm-solver-singlestep,order=3",
    "dpm-solver-singlestep,algorithm=sde-dpmsolver++",
    "unipc,order=1",
    "unipc,order=2",
    "unipc,order=3",
    "lms",
    "heun",
    "flow-heun",
    "edm",
    "edm,s_churn=4.0",
    "flow-sde",
    "flow-sde,diffusion=ratio",
]
#: The default degree of ParaSolver-Turbo is longer than the window of 3: the second entry rolls states on there too.
SOLVERS = [
    "paradigms",
    "paraflow",
    "parataa",
    "parataa,memory=1",
    "parasolver",
    "parasolver,subintervals=4",
    "parasolver,subintervals=4,inner=parallel",
    "parasolver-turbo",
    "parasolver-turbo,degree=2,accept=evaluated",
    "secant",
    "lattice",
]
#: Process, its parameter in the model's settings, and a spacing of the grid.
PROCESSES: dict[str, tuple[NoiseSchedule, str, dict[str, Any]]] = {
    "flow": (FlowMatching(), "flow", {"shift": 3.0}),
    "vp": (VP(), "vp", {"spacing": "leading", "steps_offset": 1}),
    "ve": (VE(), "ve", {"shape": "karras"}),
    "edm": (EDM(), "ve", {"shape": "exponential"}),
    "zero-snr": (VP(schedule="scaled_linear", zero_terminal_snr=True), "vp", {"spacing": "trailing"}),
}


@dataclass
class Found:
    """What was found of one solver and stepper.

    Attributes:
        difference: the largest of any trajectory to the sequential one, over the largest state.
        sweeps: the most of them over the steps. solves: how many were compared. processes: on which.
        refused: why the pair is refused, or None.
    """

    difference: float = 0.0
    sweeps: float = 0.0
    solves: int = 0
    processes: list[str] = field(default_factory=list[str])
    refused: str | None = None


def component(kind: str, spec: str, **more: Any) -> Any:
    """The component ``name,key=value,…``."""
    name, *settings = spec.split(",")
    given: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        given[key] = json.loads(value) if value[:1].isdigit() else value
    return registry.get(kind, name)(registry.config_class(kind, name).model_validate({**given, **more}))


def plugins() -> list[str]:
    """Solvers of other distributions."""
    return [entry.name for entry in registry.entries("solver") if entry.distribution != "paraflowkit"]


def problems(stepper: str, process: str) -> list[Problem]:
    """Guidance 1 and 3, batches of 1 and 3, in float64; none where the stepper does not exist on the process."""
    noise, kind, spacing = PROCESSES[process]
    config = GaussianMixtureConfig.model_validate({"process": kind, "dimension": 5, "prediction": "data"})
    model, made = GaussianMixture(config, noise=noise), component("stepper", stepper)
    grid = make_grid(noise, STEPS, **spacing)
    try:
        made.rule(made.nodes(grid, noise))
    except ValueError:
        return []
    return [
        make_problem(
            model,
            made,
            grid,
            list(range(100, 100 + batch)),
            classes=[i % 4 for i in range(batch)],
            guidance=guidance,
            dtype=torch.float64,
        )
        for guidance in (1.0, 3.0)
        for batch in (1, 3)
    ]


def measure(steppers: list[str], solvers: list[str], processes: list[str]) -> dict[tuple[str, str], Found]:
    """What was found, by (stepper, solver)."""
    out = {(stepper, solver): Found() for stepper in steppers for solver in solvers}
    made = {name: component("solver", name, tolerance=0.0) for name in solvers}
    one = component("window", "sliding", size=1)
    for stepper in steppers:
        for process in processes:
            for p in problems(stepper, process):
                reference = solve(p, component("solver", "sequential"), one, trajectory=True).trajectory
                assert reference is not None
                for name, solver in made.items():
                    found = out[stepper, name]
                    try:
                        check_pair(p.rule, solver)
                        solver.init(p)
                    except ValueError as error:
                        found.refused = str(error)
                        continue
                    for size in (p.steps,) if solver.whole else (3, p.steps):
                        compare(found, p, solver, size, reference)
                    if process not in found.processes:
                        found.processes.append(process)
    return out


def compare(found: Found, p: Problem, solver: Any, size: int, reference: torch.Tensor) -> None:
    """Add one solve to what was found."""
    solution = solve(p, solver, component("window", "sliding", size=size), trajectory=True, max_sweeps=2 * p.steps)
    assert solution.trajectory is not None
    difference = float((solution.trajectory - reference).abs().max() / reference.abs().max())
    # A comparison with NaN is never larger: what is not finite, or has not ended, must not pass for exact.
    found.difference = max(found.difference, difference if solution.ok and difference == difference else float("inf"))
    found.sweeps = max(found.sweeps, solution.stats.sweeps / p.steps)
    found.solves += 1


def text(found: dict[tuple[str, str], Found], command: str) -> str:
    """The page."""
    steppers, solvers = (list(dict.fromkeys(pair[i] for pair in found)) for i in (0, 1))
    kept = [f for f in found.values() if f.refused is None]
    refusals = sorted({f.refused for f in found.values() if f.refused})
    used = [name for name in PROCESSES if any(name in f.processes for f in kept)]
    head = ["stepper", "processes", *(f"`{name}`" for name in solvers)]

    def lines(show: Any) -> list[str]:
        rows = [head, ["---"] * len(head)]
        for stepper in steppers:
            own = [found[stepper, name] for name in solvers]
            where = ", ".join(name for name in PROCESSES if any(name in f.processes for f in own))
            rows.append([f"`{stepper}`", where, *("refused" if f.refused else show(f) for f in own)])
        return ["| " + " | ".join(row) + " |" for row in rows]

    return "\n".join(
        [
            "# Exactness",
            "",
            "At tolerance 0 every parallel solver gives the trajectory of the sequential sampler, in at most N sweeps.",
            "This page is written by",
            "",
            f"    {command}",
            "",
            f"It solves class-conditional Gaussian mixtures in five dimensions in float64, {STEPS} steps (Heun and its",
            "relatives make two nodes of each), with every solver and stepper, on every process on which the stepper",
            f"exists ({', '.join(used)}), with guidance 1 and 3, batches of 1 and 3 and windows of 3 and N",
            f"(solvers that lay out the whole trajectory have one): {sum(f.solves for f in kept)} solves. Each is",
            "compared with the sequential one over the whole trajectory; the tables hold the worst of all of a pair.",
            "",
            f"Largest relative difference of all: {max((f.difference for f in kept), default=0.0):.1e}. Most sweeps",
            f"over N: {max((f.sweeps for f in kept), default=0.0):.2f}.",
            "",
            *(f"Refused: {sentence}" for sentence in refusals),
            *([""] if refusals else []),
            "## Largest difference to the sequential trajectory, over the largest state",
            "",
            *lines(lambda f: f"{f.difference:.0e}" if f.difference else "0"),
            "",
            "## Most sweeps, over N",
            "",
            *lines(lambda f: f"{f.sweeps:.2f}"),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> dict[tuple[str, str], Found]:
    parser = argparse.ArgumentParser(description="Every solver with every stepper at tolerance 0.")
    parser.add_argument("--steppers", nargs="+", default=STEPPERS)
    parser.add_argument("--solvers", nargs="+", default=SOLVERS + plugins(), help="by default all, plugins included")
    parser.add_argument("--processes", nargs="+", choices=list(PROCESSES), default=list(PROCESSES))
    parser.add_argument("--write", type=Path, help="Markdown file; printed by default")
    a = parser.parse_args(arguments)
    try:
        found = measure(a.steppers, a.solvers, a.processes)
    except (ParaflowkitError, ValueError) as error:
        parser.error(str(error))
    page = text(found, "python docs/examples/exactness_matrix.py --write docs/exactness.md")
    if a.write:
        a.write.write_text(page, encoding="utf-8")
    else:
        print(page)
    return found


if __name__ == "__main__":
    main()
