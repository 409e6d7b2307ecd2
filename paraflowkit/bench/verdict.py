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
        others = [line for line in table.lines if _beside(line, plain)]
        solvers = [line for line in others if line.kind != "fewer" and not line.note]
        fewer = [line for line in others if line.kind == "fewer" and not line.note]
        place = ", ".join(f"{name} {short(value)}" for name, value in plain.at.items())
        where = f"{plain.method}{f', {place}' if place else ''}: "
        if not solvers:
            if any(line.kind != "fewer" for line in others):
                yield f"{where}no solver meets the error."
            continue
        best = min(solvers, key=lambda line: line.figures["iterations"])
        calls = plain.figures["iterations"] / best.figures["iterations"]
        work = best.figures["evaluations"] / plain.figures["evaluations"]
        text = (
            f"{where}fewest iterations by {best.method}: {best.figures['iterations']:.3g} in place of "
            f"{plain.figures['iterations']:.3g} ({calls:.1f} times fewer sequential calls), {work:.1f} times the "
            f"evaluations, an error of {best.figures['error']:.1e}."
        )
        if fewer:
            least = min(fewer, key=lambda line: line.figures["iterations"])
            text += f" Without a solver, {least.method.removeprefix('fewer steps: ')} sequential steps come as near."
        timed = [line for line in others if "speedup" in line.figures and not line.note]
        if timed:
            fast = max(timed, key=lambda line: line.figures["speedup"])
            text += (
                f" Fastest here by the clock: {fast.method}, {fast.figures['speedup']:.2f} times as fast."
                if fast.figures["speedup"] > 1
                else " By the clock, nothing here was faster than it."
            )
        yield text


def _beside(line: Line, plain: Line) -> bool:
    """Whether a line is compared with this sequential one."""
    here = all(line.at.get(name, value) == value for name, value in plain.at.items())
    return here and line.reference == plain.reference and not line.sequential
