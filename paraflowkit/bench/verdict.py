"""What a bench says, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from paraflowkit.bench.folder import BenchFolder
from paraflowkit.bench.jobs import short
from paraflowkit.bench.tables import Line, Table, tables


def verdicts(folder: BenchFolder) -> list[str]:
    """A sentence a place of the first table: is it faster, and is the image the same?"""
    found = tables(folder)
    return [sentence for table in found[:1] for sentence in _of(table)]


def _of(table: Table) -> Iterator[str]:
    for plain in (line for line in table.lines if line.sequential):
        others = [line for line in table.lines if _beside(line, plain) and not line.sequential and not line.note]
        solvers = [line for line in others if not line.method.startswith("fewer")]
        if not solvers:
            continue
        where = ", ".join(f"{name} {short(value)}" for name, value in plain.at.items())
        best = min(solvers, key=lambda line: line.figures["iterations"])
        calls = plain.figures["iterations"] / best.figures["iterations"]
        work = best.figures["evaluations"] / plain.figures["evaluations"]
        text = (
            f"{f'{where}: ' if where else ''}fewest iterations: {best.method} with {best.figures['iterations']:.3g} in "
            f"place of {plain.figures['iterations']:.3g} ({calls:.1f} times fewer sequential calls), "
            f"{work:.1f} times the evaluations, an error of {best.figures['error']:.1e}."
        )
        timed = [line for line in others if "speedup" in line.figures]
        if timed:
            fast = max(timed, key=lambda line: line.figures["speedup"])
            text += (
                f" Fastest here by the clock: {fast.method}, {fast.figures['speedup']:.2f} times as fast as sequential."
                if fast.figures["speedup"] > 1
                else " By the clock, nothing here was faster than the sequential sampler."
            )
        yield text[0].upper() + text[1:]


def _beside(line: Line, plain: Line) -> bool:
    return all(line.at.get(name, value) == value for name, value in plain.at.items())
