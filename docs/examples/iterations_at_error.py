"""Iterations and evaluations of every solver at an equal final error, beside fewer sequential steps.

For each cell (network, stepper, steps, guidance, window) and solver the loosest tolerance is searched whose mean
relative RMSE to the sequential samples is at most the wanted error, by secants and bisection of its logarithm. The
search ends when the bracket is within a factor of 1.3, or when the error is between 0.9 and 1 times the wanted one.

    python docs/examples/iterations_at_error.py --cells lead
    python docs/examples/iterations_at_error.py --cells steps --out rows.jsonl
    python docs/examples/iterations_table.py rows.jsonl

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
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from paraflowkit import registry
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.errors import ParaflowkitError
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid

Row = dict[str, Any]
#: Network rows of one call: larger calls leave the cache of a CPU core. It changes no count.
ROWS = 64
REMEMBERED = 600_000  # network rows, of about 5 kB each with their keys
LEAST, MOST = 1e-7, 1e4  # tolerances
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


class Remembered(VelocityModel):
    """A network that evaluates no row twice.

    Solves at two tolerances, and of two solvers, share many states. What a solver reports is what it asked for, so that
    remembering changes no count, only the hours that the table takes.
    """

    def __init__(self, inner: VelocityModel, compiled: bool) -> None:
        super().__init__()
        self.noise, self.prediction, self.shape = inner.noise, inner.prediction, inner.shape
        self.data_std = inner.data_std
        self.inner = inner.to(memory_format=torch.channels_last)
        self.compiled = torch.compile(inner.forward, dynamic=False) if compiled else inner.forward
        self.known: dict[bytes, torch.Tensor] = {}
        self.asked = 0

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> torch.Tensor | None:
        return self.inner.condition(classes, prompts)

    def null_condition(self, cond: torch.Tensor) -> torch.Tensor:
        return self.inner.null_condition(cond)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        assert cond is not None
        keys = [
            b"".join((row.tobytes(), time.tobytes(), c.tobytes()))
            for row, time, c in zip(x.numpy(), t.numpy(), cond.numpy(), strict=True)
        ]
        self.asked += len(keys)
        new = list({k: i for i, k in enumerate(keys) if k not in self.known}.values())
        if len(self.known) + len(new) > REMEMBERED:
            self.known.clear()
            new = list({k: i for i, k in enumerate(keys)}.values())
        for start in range(0, len(new), ROWS):
            part = new[start : start + ROWS]
            call = self.compiled if len(part) == ROWS else self.inner
            # A row as a tensor of its own: a view would keep the whole chunk.
            rows = call(x[part], t[part], cond[part])
            self.known.update((keys[i], row.clone()) for i, row in zip(part, rows, strict=True))
        return torch.stack([self.known[k] for k in keys])


OPTIONS = {"compile": False}


@cache
def network(name: str) -> Any:
    return Remembered(component("model", name), OPTIONS["compile"])


def make(model: str, stepper: str, steps: int, guidance: float, samples: int) -> Problem:
    net = network(model)
    return make_problem(
        net,
        component("stepper", stepper),
        make_grid(net.noise, steps),
        list(range(1000, 1000 + samples)),
        classes=[i % 10 for i in range(samples)],
        guidance=guidance,
    )


@cache
def sequential(model: str, stepper: str, steps: int, guidance: float, samples: int) -> Solution:
    p = make(model, stepper, steps, guidance, samples)
    return solve(p, component("solver", "sequential"), component("window", "sliding,size=1"))


def measured(found: Solution, reference: torch.Tensor, std: float) -> Row:
    errors = relative_rmse(found.x, reference, std)
    return {
        "iterations": float(found.stats.sample_iterations.double().mean()),
        "evaluations": float(found.stats.evaluations.double().mean()),
        "mean": float(errors.mean()),
        "worst": float(errors.max()),
    }


def loosest(run: Callable[[float], Row], tried: dict[float, Row], wanted: float, start: float) -> Row:
    """The row of the loosest tolerance that meets the wanted mean error.

    Args:
        run: measures at a tolerance. tried: what was measured before, which is added to. start: tolerance to try first.
    """
    fresh = True
    while True:
        good = [t for t in tried if tried[t]["mean"] <= wanted]
        low = max(good, default=0.0)
        high = min((t for t in tried if t > low and t not in good), default=math.inf)
        if low >= MOST or (low and (high <= 1.3 * low or tried[low]["mean"] >= 0.9 * wanted)):
            return {"met": True, **tried[low], "tolerance": low}
        if not low and high <= LEAST:
            try:
                exact = run(0.0)
            except ValueError:  # settings that fix the accuracy whatever the tolerance, such as CHORDS' finisher
                return {"met": False, **tried[high], "tolerance": high}
            return {"met": exact["mean"] <= wanted, **exact, "tolerance": 0.0}
        if fresh and low < start < high:
            tolerance = start
        elif low and math.isfinite(high):
            share = between(low, tried[low]["mean"], high, tried[high]["mean"], wanted)
            share = 0.5 if high <= 1.69 * low else min(max(share, 0.15), 0.85)
            tolerance = low * (high / low) ** share
        elif low:
            ratio = 0.95 * wanted / max(tried[low]["mean"], 1e-12)
            tolerance = low * flat(tried, low, min(max(ratio, 1.3), 30.0))
        else:
            ratio = 0.9 * wanted / tried[high]["mean"] if math.isfinite(tried[high]["mean"]) else 0.0
            tolerance = high / flat(tried, high, 1 / min(max(ratio, 1 / 30), 1 / 1.3))
        fresh = False
        tolerance = min(max(tolerance, LEAST), MOST)
        tried[tolerance] = run(tolerance)


def flat(tried: dict[float, Row], end: float, factor: float) -> float:
    """The factor to go on by, a large one where other tolerances have given the same samples."""
    same = [max(t, end) / min(t, end) for t in tried if tried[t]["mean"] == tried[end]["mean"]]
    return max(factor, MOST / LEAST if max(same) > 10 else 30.0 if max(same) > 1 else 1.0)


def between(low: float, error_low: float, high: float, error_high: float, wanted: float) -> float:
    """Where between two tolerances, in their logarithm, a straight line of the errors' meets the wanted one."""
    if not 0 < error_low < error_high < math.inf:
        return 0.5
    return math.log(0.95 * wanted / error_low) / math.log(error_high / error_low)


def nearest(rows: list[Row], cell: Cell, solver: str, error: float) -> float | None:
    """The tolerance that this solver needed in the most similar cell."""

    def distance(row: Row) -> float:
        other = (row["model"] != cell.model) * 10.0 + (row["stepper"] != cell.stepper) * 5.0
        pairs = (("steps", cell.steps), ("guidance", cell.guidance), ("window", cell.window))
        return other + sum(abs(math.log((row[key] or value) / value)) for key, value in pairs)

    same = [r for r in rows if r["solver"] == solver and r["error"] == error and r.get("tolerance")]
    return min(same, key=distance)["tolerance"] if same else None


def compare(cell: Cell, spec: str, errors: list[float], samples: int, known: list[Row]) -> Iterator[Row]:
    """The rows of one solver in one cell, for errors from loose to tight."""
    settings: dict[str, Any] = {}
    size = cell.window
    if spec.split(",")[0] == "parasolver-turbo" and "degree" not in spec:
        settings, size = {"degree": cell.window}, min(3 * cell.window, cell.steps)
    probe = component("solver", spec, **settings)
    window = component("window", "sliding", size=size)
    p, model = make(**cell.equation, samples=samples), network(cell.model)
    reference = sequential(**cell.equation, samples=samples).x
    base = {**cell.equation, "window": None if probe.whole else cell.window, "solver": spec, "samples": samples}

    def run(tolerance: float) -> Row:
        solver = component("solver", spec, **settings, tolerance=tolerance)
        return measured(solve(p, solver, window), reference, model.data_std)

    tried: dict[float, Row] = {}
    shift = 1.0  # of this cell's tolerances to its neighbour's
    for error in errors:
        near = nearest(known, cell, spec, error)
        start = near * shift if near else error / errors[0] * probe.config.tolerance
        try:
            row = loosest(run, tried, error, start)
        except ValueError as refused:
            yield {**base, "error": error, "met": False, "refused": str(refused)}
            continue
        if near and row["tolerance"]:
            shift = row["tolerance"] / near
        yield {**base, "error": error, **row, "solves": len(tried)}


def fewer(cell: Cell, spec: str, errors: list[float], samples: int) -> Iterator[Row]:
    """The rows of one stepper with fewer sequential steps."""
    model, reference = network(cell.model), sequential(**cell.equation, samples=samples).x
    two = 2 if spec == "flow-heun" else 1
    tried: dict[int, Row] = {}

    def run(steps: int) -> Row:
        if steps not in tried:
            tried[steps] = measured(
                sequential(cell.model, spec, steps, cell.guidance, samples), reference, model.data_std
            )
        return tried[steps]

    ladder = sorted({max(1, cell.steps * j // 8 // two) for j in range(1, 9)})
    for error in errors:
        best = next((k for k in ladder if run(k)["mean"] <= error), None)
        top = min(ladder, key=lambda k: run(k)["mean"]) if best is None else ladder[-1]
        if best is None and top < ladder[-1] and run(top)["mean"] <= 2 * error:
            # The error has a minimum: a better stepper passes near the reference on its way to the exact solution.
            around = range(max((k for k in ladder if k < top), default=0) + 1, min(k for k in ladder if k > top))
            best = next((k for k in around if run(k)["mean"] <= error), None)
        met = best is not None
        if best is None:
            best = min(tried, key=lambda k: tried[k]["mean"])
        elif best in ladder:
            below = max((k for k in ladder if k < best), default=0)
            while best - below > 1:
                middle = (below + best) // 2
                below, best = (below, middle) if run(middle)["mean"] <= error else (middle, best)
        base = {**cell.equation, "window": None, "solver": f"fewer steps: {spec}", "samples": samples}
        yield {**base, "error": error, "met": met, **tried[best], "taken": best}


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("model", "stepper", "steps", "guidance", "window", "solver", "error", "samples"))


def machine() -> str:
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{names[0]} ({cpu})" if names else cpu
    threads = torch.get_num_threads()
    return f"{cpu}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}, float32"


def main(arguments: list[str] | None = None) -> list[Row]:
    installed = [name for name in registry.names("solver") if name != "sequential"]
    parser = argparse.ArgumentParser(description="Iterations of every solver at an equal final error.")
    parser.add_argument("--cells", choices=["smoke", "lead", "steps", "windows", "vp", "all"], default="lead")
    parser.add_argument("--solvers", nargs="*", default=installed, help="name,key=value,…; by default all installed")
    parser.add_argument("--errors", nargs="+", type=float, default=[1e-2, 1e-3], help="mean relative RMSE")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--out", type=Path, help="JSON Lines file that rows are appended to")
    parser.add_argument("--no-baseline", action="store_true", help="leave out fewer sequential steps")
    parser.add_argument("--compile", action="store_true", help="compile the networks: half the time of a long table")
    a = parser.parse_args(arguments)
    OPTIONS["compile"] = a.compile
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
            base = {**cell.equation, "solver": solver, "samples": a.samples}
            open_ = [
                e for e in errors if not {key({**base, "window": w, "error": e}) for w in (None, cell.window)} & seen
            ]
            if not open_:
                continue
            if solver in rivals:
                found = fewer(cell, solver.removeprefix("fewer steps: "), open_, a.samples)
            else:
                found = compare(cell, solver, open_, a.samples, known)
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
