"""Iterations and evaluations of every solver at an equal final error, beside fewer sequential steps.

For each cell (network, stepper, steps, guidance, window) and solver the loosest tolerance is searched whose mean
relative RMSE to the sequential samples is at most the wanted error, by secants and bisection of its logarithm. The
search ends when the bracket is within a factor of 1.3, or when the error is between 0.9 and 1 times the wanted one.
``--by median`` takes the median of the samples in place of the mean, which a single sample may decide.

    python docs/examples/iterations_at_error.py --cells lead
    python docs/examples/iterations_at_error.py --cells steps --out rows.jsonl
    python docs/examples/iterations_table.py rows.jsonl

``--cells method`` are those of the page on the quasi-Newton solvers, which were built on samples of the seeds from 1000
on: ``--seed 5000`` has others. ``--cells growth`` asks how iterations grow with the number of steps, and
``--cells noise`` is that of the preset ``method`` with a sampler that adds noise.

With ``--out`` every row is appended to a file as soon as it is measured, and rows that the file holds are not measured
again. A solver is named with settings as ``parataa,order=4``; by default all that are installed are compared. A window
of w means w evaluated steps: ParaSolver-Turbo takes w as its degree and 3 w as its window, as its paper does. Solvers
that lay out the whole trajectory themselves have no window and appear once for all windows.

Fewer steps: the least number of sequential steps, of the steppers that integrate the same equation, whose samples meet
the error, at no more than N evaluations. The number is searched upwards in eighths of N and then bisected; where none
of these meets the error but the best of them comes within a factor of two, all numbers around it are tried. DDPM has
no such row: another number of its steps draws other noise, so that its sample is another one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from paraflowkit import registry
from paraflowkit.bench.machine import cpu
from paraflowkit.bench.remembered import Remembered
from paraflowkit.bench.search import Found, Point, fewest, loosest
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.errors import ParaflowkitError
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid

Row = dict[str, Any]
#: Network rows of one call: larger calls leave the cache of a CPU core. It changes no count.
ROWS = 64
PRESETS = ("smoke", "lead", "steps", "windows", "vp", "method", "noise", "growth", "all")
FEWER = {
    "euler": ["euler", "flow-heun", "dpm-solver,order=2", "unipc,order=2"],
    "ddim": ["ddim", "dpm-solver,order=2", "dpm-solver,order=3", "unipc,order=2"],
}


@dataclass(frozen=True)
class Cell:
    """What is compared: one equation and a window."""

    model: str
    stepper: str
    steps: int
    guidance: float
    window: int

    @property
    def equation(self) -> Row:
        """The cell without its window."""
        return {"model": self.model, "stepper": self.stepper, "steps": self.steps, "guidance": self.guidance}


def cells(preset: str) -> list[Cell]:
    """The cells of a preset, the most wanted first."""
    pairs = [(n, g) for g in (3.0, 1.0, 7.5) for n in (50, 25, 100)]
    flow, vp = ("digits-flow", "euler"), "digits-vp"
    known = {
        "smoke": [Cell(*flow, 10, 3.0, 4)],
        "lead": [Cell(*flow, 50, 3.0, 8)],
        "steps": [Cell(*flow, n, g, 8) for n, g in pairs],
        "vp": [Cell(vp, s, n, 3.0, w) for s, n in (("ddim", 50), ("ddpm", 200), ("ddpm", 1000)) for w in (8, 16)],
        "windows": [Cell(*flow, n, g, w) for n, g in pairs for w in (16, n)],
    }
    known["noise"] = [Cell(vp, "ddpm", 200, 3.0, 32)]
    known["method"] = [
        *known["lead"],
        Cell(*flow, 100, 3.0, 8),
        Cell(*flow, 50, 7.5, 16),
        Cell(vp, "ddim", 50, 3.0, 16),
        *(Cell(*flow, 50, 3.0, w) for w in (16, 50)),
        *known["noise"],
    ]
    known["growth"] = [Cell(*flow, n, 3.0, 8) for n in (25, 50, 100, 200, 400, 1000)]
    known["all"] = known["steps"] + known["vp"] + known["windows"]
    return known[preset]


def component(kind: str, spec: str, **more: Any) -> Any:
    """The component ``name,key=value,…``."""
    name, *settings = spec.split(",")
    given: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        given[key] = json.loads(value) if value[:1].isdigit() else value
    return registry.get(kind, name)(registry.config_class(kind, name).model_validate({**given, **more}))


@cache
def network(name: str) -> Any:
    return Remembered(component("model", name).to(memory_format=torch.channels_last))


def make(model: str, stepper: str, steps: int, guidance: float, samples: int, seed: int = 1000) -> Problem:
    net = network(model)
    return make_problem(
        net,
        component("stepper", stepper),
        make_grid(net.noise, steps),
        list(range(seed, seed + samples)),
        classes=[i % 10 for i in range(samples)],
        guidance=guidance,
    )


@cache
def sequential(model: str, stepper: str, steps: int, guidance: float, samples: int, seed: int = 1000) -> Solution:
    p = make(model, stepper, steps, guidance, samples, seed)
    return solve(p, component("solver", "sequential"), component("window", "sliding,size=1"), max_rows=ROWS)


def measured(found: Solution, reference: torch.Tensor, std: float, by: str) -> Point:
    errors = relative_rmse(found.x, reference, std)
    cost = (float(each.double().mean()) for each in (found.stats.sample_iterations, found.stats.evaluations))
    return Point(*cost, float(errors.quantile(0.5) if by == "median" else errors.mean()), float(errors.max()))


def figures(found: Found, by: str) -> Row:
    point = found.point
    cost = {"iterations": point.iterations, "evaluations": point.evaluations}
    return {"met": found.met, **cost, by: point.error, "worst": point.worst_error}


def nearest(rows: list[Row], cell: Cell, solver: str, error: float) -> float | None:
    """The tolerance that this solver needed in the most similar cell."""

    def distance(row: Row) -> float:
        other = (row["model"] != cell.model) * 10.0 + (row["stepper"] != cell.stepper) * 5.0
        pairs = (("steps", cell.steps), ("guidance", cell.guidance), ("window", cell.window))
        return other + sum(abs(math.log((row[key] or value) / value)) for key, value in pairs)

    same = [r for r in rows if r["solver"] == solver and r["error"] == error and r.get("tolerance")]
    return min(same, key=distance)["tolerance"] if same else None


def compare(
    cell: Cell, spec: str, errors: list[float], samples: int, known: list[Row], seed: int = 1000, by: str = "mean"
) -> Iterator[Row]:
    """The rows of one solver in one cell, for errors from loose to tight."""
    settings: dict[str, Any] = {}
    size = cell.window
    if spec.split(",")[0] == "parasolver-turbo" and "degree" not in spec:
        settings, size = {"degree": cell.window}, min(3 * cell.window, cell.steps)
    probe = component("solver", spec, **settings)
    window = component("window", "sliding", size=size)
    which = {**cell.equation, "samples": samples, "seed": seed}
    p, model = make(**which), network(cell.model)
    reference = sequential(**which).x
    base = {**which, "window": None if probe.whole else cell.window, "solver": spec, "by": by}

    def run(tolerance: float) -> Point:
        solver = component("solver", spec, **settings, tolerance=tolerance)
        return measured(solve(p, solver, window, max_rows=ROWS), reference, model.data_std, by)

    tried: dict[float, Point] = {}
    shift = 1.0  # of this cell's tolerances to its neighbour's
    for error in errors:
        near = nearest(known, cell, spec, error)
        start = near * shift if near else error / errors[0] * probe.config.tolerance
        try:
            found = loosest(run, tried, error, start)
        except ValueError as refused:
            yield {**base, "error": error, "met": False, "refused": str(refused)}
            continue
        if near and found.setting:
            shift = found.setting / near
        yield {**base, "error": error, **figures(found, by), "tolerance": found.setting, "solves": len(tried)}


def fewer(
    cell: Cell, spec: str, errors: list[float], samples: int, seed: int = 1000, by: str = "mean"
) -> Iterator[Row]:
    """The rows of one stepper with fewer sequential steps."""
    which = {**cell.equation, "samples": samples, "seed": seed}
    model, reference = network(cell.model), sequential(**which).x
    tried: dict[int, Point] = {}

    def run(steps: int) -> Point:
        made = sequential(**{**which, "stepper": spec, "steps": steps})
        return measured(made, reference, model.data_std, by)

    for error in errors:
        found = fewest(run, tried, error, cell.steps // (2 if spec == "flow-heun" else 1))
        base = {**which, "window": None, "solver": f"fewer steps: {spec}", "by": by}
        yield {**base, "error": error, **figures(found, by), "taken": int(found.setting)}


def key(row: Row) -> tuple[Any, ...]:
    names = ("model", "stepper", "steps", "guidance", "window", "solver", "error", "samples")
    return (*(row[k] for k in names), row.get("seed", 1000), statistic(row))


def statistic(row: Row) -> str:
    """Which one of the errors meets the wanted one."""
    return str(row.get("by", "mean"))


def machine() -> str:
    threads = torch.get_num_threads()
    return f"{cpu()}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}, float32"


def main(arguments: list[str] | None = None) -> list[Row]:
    installed = [name for name in registry.names("solver") if name not in ("sequential", "auto")]
    parser = argparse.ArgumentParser(description="Iterations of every solver at an equal final error.")
    parser.add_argument("--cells", choices=PRESETS, default="lead")
    parser.add_argument("--solvers", nargs="*", default=installed, help="name,key=value,…; by default all installed")
    parser.add_argument("--errors", nargs="+", type=float, default=[1e-2, 1e-3], help="mean relative RMSE")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--by", choices=("mean", "median"), default="mean", help="of the samples' errors")
    parser.add_argument("--seed", type=int, default=1000, help="of the first sample; they count up")
    parser.add_argument("--out", type=Path, help="JSON Lines file that rows are appended to")
    parser.add_argument("--no-baseline", action="store_true", help="leave out fewer sequential steps")
    a = parser.parse_args(arguments)
    errors = sorted(a.errors, reverse=True)
    known: list[Row] = []
    if a.out and a.out.is_file():
        known = [json.loads(line) for line in a.out.read_text().splitlines() if line]
    try:
        for solver in a.solvers:
            component("solver", solver)
    except (ParaflowkitError, ValueError) as error:
        parser.error(str(error))
    here, seen = machine(), {key(row) for row in known}
    print(here)
    for cell in cells(a.cells):
        rivals = [] if a.no_baseline else [f"fewer steps: {s}" for s in FEWER.get(cell.stepper, [])]
        for solver in [*rivals, *a.solvers]:
            base = {**cell.equation, "solver": solver, "samples": a.samples, "seed": a.seed, "by": a.by}
            open_ = [
                e for e in errors if not {key({**base, "window": w, "error": e}) for w in (None, cell.window)} & seen
            ]
            if not open_:
                continue
            if solver in rivals:
                found = fewer(cell, solver.removeprefix("fewer steps: "), open_, a.samples, a.seed, a.by)
            else:
                found = compare(cell, solver, open_, a.samples, known, a.seed, a.by)
            for row in found:
                row["machine"] = here
                known.append(row)
                seen.add(key(row))
                if a.out:
                    a.out.parent.mkdir(parents=True, exist_ok=True)
                    with a.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                print({k: v for k, v in row.items() if k != "machine"}, flush=True)
    return known


if __name__ == "__main__":
    main()
