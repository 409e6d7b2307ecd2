"""How the time of a network call grows with its rows on a device, and what a sweep takes outside the network.

Networks of published sizes with random weights, one sample, on the present GPU in bfloat16 (on a CPU in float32):

    python docs/examples/device_curves.py --compile --out docs/data/device_curves.jsonl --tables

This measures calls and sweeps, of each network as it is and compiled, and writes tables and a plot beside the file.
Rows that the file holds are not measured again, so that a run that was ended is gone on with by the same command; with
``--networks`` and no name only the tables are written. Each figure is the median of repetitions in turn with those of
the other rows of its network; the device is waited for before and after each. Where the memory is too small for so many
rows that is recorded, and larger calls are not tried.

The sweeps are those of ParaFlow at tolerance 0, so that each evaluates a whole window. What is outside the network is
what the run reports: marching, measuring, sliding, and what is set up once, over the number of sweeps.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from device_networks import ARCHITECTURES, Loaded, clear, exhausted, many_shapes
from device_tables import write

from paraflowkit import registry
from paraflowkit.errors import ParaflowkitError
from paraflowkit.solve import solve

Row = dict[str, Any]
LEAST = 3  # repetitions, however long they take
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PUBLISHED = ["sd2", "sd3-medium", "sd3-medium-64", "flux", "flux-64"]


@dataclass
class Task:
    """Something to be measured: the row to be filled, how it is run once, and the seconds that were found."""

    row: Row
    run: Callable[[], Row]
    found: list[Row] = field(default_factory=list)

    def filled(self) -> Row:
        """The row with medians."""
        medians = {k: median(one[k] for one in self.found) for k in self.found[0]}
        return {**self.row, **medians, "repeat": len(self.found)}


class Bench:
    """Measures networks on a device.

    Attributes:
        known: rows of the file, and those that are measured. failed: what could not be measured for another reason than
            memory, in sentences.
    """

    def __init__(self, a: argparse.Namespace, known: list[Row]) -> None:
        self.a, self.known = a, known
        self.device = torch.device(a.device)
        self.machine = machine(self.device)
        self.failed: list[str] = []

    def run(self, name: str) -> None:
        """Measure what is not known of a network."""
        wanted = list(self.open(name))
        if not wanted:
            return
        try:
            made = Loaded(name, self.device, DTYPES[self.a.dtype], self.a.steps)
        except RuntimeError as error:
            if not exhausted(error):
                raise
            for stub in wanted:
                if not self._hopeless(stub):
                    self._record({**stub, "exhausted": True})
            return
        if self.a.compile:
            made.compile(self.a.backend)
        for what in ("call", "solve"):
            self._measure([self._task(made, stub) for stub in wanted if stub["what"] == what])

    def _record(self, row: Row) -> None:
        self.known.append(row)
        if self.a.out:
            self.a.out.parent.mkdir(parents=True, exist_ok=True)
            with self.a.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(json.dumps({k: v for k, v in row.items() if k != "machine"}), flush=True)

    def _hopeless(self, stub: Row) -> bool:
        """Whether the memory was too small for something smaller."""
        small = [r for r in self.known if r.get("exhausted") and series(r) == series(stub)]
        return any(size(r) <= size(stub) for r in small)

    def open(self, name: str) -> Iterator[Row]:
        """Stubs of what a network's rows must say and the file does not, smaller ones first."""
        a = self.a
        seen = {key(row) for row in self.known}
        base = {"network": name, "dtype": a.dtype, "machine": self.machine}
        for mode in ["eager", *(["compiled"] if a.compile else [])]:
            calls = [{"what": "call", "mode": mode, "rows": rows} for rows in sorted(a.rows)]
            solves = [
                {"what": "solve", "mode": mode, "window": window, "steps": a.steps, "max_sweeps": a.sweeps}
                for window in sorted(a.windows)
            ]
            for stub in [*calls, *solves]:
                if key({**base, **stub}) not in seen and not self._hopeless({**base, **stub}):
                    yield {**base, **stub}

    def _task(self, made: Loaded, stub: Row) -> Task:
        a, problem, mode = self.a, made.problem, stub["mode"]
        row = {**stub, "parameters": made.parameters, "shape": list(problem.x0.shape[1:])}
        if mode == "compiled":
            row["backend"] = a.backend
        if stub["what"] == "call":
            rows = stub["rows"]
            x, node = problem.x0.repeat(rows, *(1,) * (problem.x0.ndim - 1)), torch.full((rows,), a.steps // 2)
            cond = None if problem.cond is None else problem.cond[:1].repeat(rows, *(1,) * (problem.cond.ndim - 1))
            node = node.to(self.device)

            def call() -> Row:
                made.use(mode)
                return {"seconds": self._seconds(lambda: problem.evaluate(x, node, cond))}

            return Task(row, call)
        row |= {"solver": "paraflow", "stepper": made.a.stepper, "guidance": made.a.guidance}
        solver = component("solver", "paraflow", tolerance=0.0)
        window = component("window", "sliding", size=stub["window"])

        def sweeps() -> Row:
            made.use(mode)
            self._wait()
            solution = solve(problem, solver, window, max_sweeps=a.sweeps)
            stats = solution.stats
            if stats.sweeps != a.sweeps or stats.calls != a.sweeps:
                how = solution.results[0].value
                raise ParaflowkitError(f"the solve ended after {stats.sweeps} of {a.sweeps} sweeps. {how}")
            return {
                "rows": stats.rows / stats.calls,
                "seconds": stats.seconds / stats.sweeps,
                "network_seconds": stats.model_seconds / stats.sweeps,
                "rest_seconds": stats.rest_seconds / stats.sweeps,
                "rest_share": stats.rest_share,
            }

        return Task(row, sweeps)

    def _measure(self, tasks: list[Task]) -> None:
        """Run tasks in turn, after two runs that warm up; smaller ones come before larger ones."""
        fit: list[Task] = []
        for task in tasks:
            if self._hopeless(task.row):
                continue
            began = time.perf_counter()
            if self._once(task) is None:
                continue
            task.row["first_seconds"] = time.perf_counter() - began
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            if self._once(task) is None:
                continue
            task.row["peak_bytes"] = 0
            if self.device.type == "cuda":
                task.row["peak_bytes"] = torch.cuda.max_memory_allocated(self.device)
            fit.append(task)
        began = time.perf_counter()
        for repetition in range(self.a.repeat):
            if repetition >= LEAST and time.perf_counter() - began > self.a.seconds:
                break
            for task in list(fit):
                found = self._once(task)
                if found is None:
                    fit.remove(task)
                else:
                    task.found.append(found)
        for task in fit:
            self._record(task.filled())

    def _once(self, task: Task) -> Row | None:
        """What one run found; None where it failed, which is recorded."""
        try:
            with torch.no_grad():
                return task.run()
        except Exception as error:  # a network that a compiler refuses should not cost the others
            memory = exhausted(error)
            first = next(iter(str(error).splitlines()), "")
            failure = f"{task.row['network']}, {task.row['mode']}, {label(task.row)}: {type(error).__name__}: {first}"
        # Outside the handler, whose traceback would keep the failed call's tensors alive.
        clear(self.device)
        if memory:
            self._record({**task.row, "exhausted": True})
        else:
            self.failed.append(failure)
        return None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _seconds(self, call: Callable[[], Any]) -> float:
        self._wait()
        began = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - began


def component(kind: str, name: str, **settings: Any) -> Any:
    return registry.get(kind, name)(registry.config_class(kind, name).model_validate(settings))


def size(row: Row) -> int:
    """Rows of a call or steps of a window: where the memory is too small, larger ones are not tried."""
    return row["rows"] if row["what"] == "call" else row["window"]


def label(row: Row) -> str:
    return f"{size(row)} rows" if row["what"] == "call" else f"window {size(row)}"


def series(row: Row) -> tuple[Any, ...]:
    """What the rows of one curve have in common."""
    return tuple(row.get(k) for k in ("what", "network", "dtype", "mode", "machine"))


def key(row: Row) -> tuple[Any, ...]:
    """What makes a row the same measurement as another."""
    if row["what"] == "call":
        return (*series(row), row["rows"])
    return (*series(row), row["window"], row["steps"], row["max_sweeps"])


def machine(device: torch.device) -> str:
    """Device and torch, for the tables."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    cpu, info = platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{names[0]} ({cpu})" if names else cpu
    threads = torch.get_num_threads()
    return f"{cpu}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"


def read(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments, checked."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description="Seconds of network calls and of sweeps on a device.")
    parser.add_argument("--networks", nargs="*", choices=list(ARCHITECTURES), default=PUBLISHED if gpu else ["digits"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the networks; bfloat16 on cuda, float32 on cpu")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--windows", nargs="*", type=int, default=[8, 16])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--sweeps", type=int, default=6, help="of a solve")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help=f"{LEAST} repetitions are enough once these passed")
    parser.add_argument("--compile", action="store_true", help="measure compiled networks too")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, help="JSON Lines file that rows are appended to")
    parser.add_argument("--tables", action="store_true", help="write tables and a plot beside --out")
    a = parser.parse_args(arguments)
    if a.tables and (a.out is None or not (a.networks or a.out.is_file())):
        parser.error("--tables needs --out FILE, and one that is there where --networks names none")
    if a.device == "cuda" and not gpu:
        parser.error("torch sees no CUDA device here: use --device cpu")
    if a.compile and a.backend not in torch.compiler.list_backends(None):
        names = ", ".join(torch.compiler.list_backends(None))
        parser.error(f"torch.compile has no backend {a.backend!r}: choose from {names}")
    if min([a.repeat, a.sweeps, *a.rows, *a.windows]) < 1:
        parser.error("numbers of rows, steps of a window, sweeps and repetitions must be at least 1")
    if a.windows and a.steps < max(a.windows) + a.sweeps - 1:
        least = max(a.windows) + a.sweeps - 1
        parser.error(f"the last of {a.sweeps} sweeps would not have a whole window: use --steps {least} or more")
    a.dtype = a.dtype or ("bfloat16" if a.device == "cuda" else "float32")
    return a


def main(arguments: list[str] | None = None) -> list[Row]:
    a = read(arguments)
    known: list[Row] = []
    if a.out and a.out.is_file():
        known = [json.loads(line) for line in a.out.read_text().splitlines() if line]
    bench = Bench(a, known)
    if a.networks:
        print(f"{bench.machine}, {a.dtype}", flush=True)
    for name in a.networks:
        with many_shapes() if a.compile else nullcontext():
            bench.run(name)
        clear(bench.device)
    if a.tables:
        print("\n" + write(known, a.out))
    if bench.failed:
        print("Not measured:", *dict.fromkeys(bench.failed), sep="\n  ", file=sys.stderr)
        raise SystemExit(1)
    return known


if __name__ == "__main__":
    main()
