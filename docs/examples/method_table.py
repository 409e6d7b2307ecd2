"""The measured table of the page on the quasi-Newton solvers, from rows of ``iterations_at_error.py``.

    python docs/examples/method_table.py docs/data/held_out.jsonl > docs/data/quasi_newton.md

A table for each setting of its preset ``method`` and each error: every solver that was measured there, the fewest
iterations first, and the fewest sequential steps of the best stepper. There is one more where the median of the errors
was measured in place of their mean, and where several solvers were measured on another number of samples.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from iterations_at_error import Cell, cells

Row = dict[str, Any]
OURS = ("lattice", "secant", "auto")


def of_cell(rows: list[Row], cell: Cell, error: float, by: str = "mean", samples: int | None = None) -> list[Row]:
    """What was measured in a cell and met the error, on so many samples or for each solver on the most."""
    found: dict[str, Row] = {}
    for row in rows:
        same = all(row[key] == value for key, value in cell.equation.items()) and row["error"] == error and by in row
        same = same and samples in (row["samples"], None)
        # What lays out the whole trajectory, and sequential sampling, has no window.
        if same and row["window"] in (cell.window, None) and row.get("met"):
            old = found.get(row["solver"])
            if old is None or row["samples"] >= old["samples"]:
                found[row["solver"]] = row
    fewer = [row for name, row in found.items() if name.startswith("fewer")]
    best = min(fewer, key=lambda row: row["evaluations"], default=None)
    parallel = [row for name, row in found.items() if not name.startswith("fewer")]
    return [*sorted(parallel, key=lambda row: row["iterations"]), *([best] if best else [])]


def own(row: Row) -> bool:
    """Whether the solver is one of ours, whatever its settings."""
    return row["solver"].split(",")[0] in OURS


def verdict(rows: list[Row]) -> str:
    """Whether one of ours needs the fewest iterations, in a sentence."""
    parallel = [row for row in rows if not row["solver"].startswith("fewer")]
    ours = [row for row in parallel if own(row)]
    others = [row for row in parallel if not own(row)]
    if not ours or not others:
        return "Not all of them were measured here."
    mine, best = (min(group, key=lambda row: row["iterations"]) for group in (ours, others))
    figures = [f"{row['solver']} {row['iterations']:.1f} / {row['evaluations']:.0f}" for row in (mine, best)]
    word = "Ahead" if mine["iterations"] < best["iterations"] else "Not ahead"
    return f"{word} of the best published solver: {figures[0]}, {figures[1]}."


def table(cell: Cell, error: float, by: str, here: list[Row]) -> str:
    """Of the rows of a setting and an error."""
    lines = [
        f"**{cell.model}, {cell.stepper}, N = {cell.steps}, guidance {cell.guidance:g}, window {cell.window}, "
        f"{'median ' if by == 'median' else ''}error {error:g}, {here[0]['samples']} samples.** {verdict(here)}\n",
        f"| solver | Iters | NFE | {by} error | worst |\n|---|---:|---:|---:|---:|",
    ]
    for row in here:
        name = f"**{row['solver']}**" if own(row) else row["solver"]
        lines.append(
            f"| {name} | {row['iterations']:.2f} | {row['evaluations']:.1f} | {row[by]:.1e} | {row['worst']:.1e} |"
        )
    return "\n".join(lines) + "\n"


def growth(rows: list[Row]) -> str:
    """How iterations of the lattice grow with N."""
    counts, lines = [], []
    for cell in cells("growth"):
        found = [row for row in of_cell(rows, cell, 1e-2) if row["solver"] == "lattice"]
        counts += [cell.steps] * len(found)
        lines += [f"{row['iterations']:.1f} / {row['evaluations']:.0f}" for row in found]
    if not lines:
        return ""
    head = f"| N | {' | '.join(map(str, counts))} |\n|---|{'---:|' * len(counts)}\n"
    return (
        "**How iterations grow with N.** digits-flow, euler, guidance 3, window 8, error 0.01: iterations / "
        f"evaluations of `lattice`, 16 samples (N = 50 and 100: 32).\n\n{head}| lattice | {' | '.join(lines)} |\n"
    )


def main(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    for cell in cells("method"):
        for error, by in ((1e-2, "mean"), (1e-2, "median"), (1e-3, "mean"), (1e-3, "median")):
            for samples in sorted({row["samples"] for row in rows}):
                here = of_cell(rows, cell, error, by, samples)
                if any(map(own, here)) and not all(map(own, here)):
                    print(table(cell, error, by, here))
    print(growth(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
