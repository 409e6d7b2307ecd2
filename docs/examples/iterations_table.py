"""The Markdown tables of the rows that iterations_at_error.py has measured.

python docs/examples/iterations_table.py docs/data/iterations_at_error.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ANY = 1e4  # the largest tolerance that is tried


def table(rows: list[Row]) -> str:
    """Markdown: a table for each equation."""
    out: list[str] = []
    errors = sorted({r["error"] for r in rows}, reverse=True)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["stepper"], row["steps"], row["guidance"], row["samples"]), []).append(row)
    for (model, stepper, steps, guidance, samples), group in sorted(groups.items()):
        out += [
            f"## {model}, {stepper}, N = {steps}, guidance {guidance:g} ({samples} samples)\n",
            "| solver | window | " + " | ".join(f"error {e:g}: iterations / evaluations, tolerance" for e in errors)
            + " | " + " | ".join(f"mean (worst) at {e:g}" for e in errors) + " |",
            "|---|---|" + "---|" * 2 * len(errors),
        ]  # fmt: skip
        lines = sorted({(r["window"] or steps + 1, r["solver"]) for r in group if not r["solver"].startswith("fewer")})
        for window, solver in lines:
            own = {r["error"]: r for r in group if (r["window"] or steps + 1, r["solver"]) == (window, solver)}
            size = "none" if window > steps else f"{window}"
            if solver.split(",")[0] == "parasolver-turbo" and "degree" not in solver:
                size = f"{window} evaluated of {min(3 * window, steps)}"
            out.append(f"| {solver} | {size} | " + " | ".join(columns(own, errors)) + " |")
        rivals = [r for r in group if r["solver"].startswith("fewer")]
        best = {e: least([r for r in rivals if r["error"] == e]) for e in errors}
        if any(best.values()):
            out.append("| fewer sequential steps | | " + " | ".join(columns(best, errors)) + " |")
        elif stepper == "ddpm":
            out.append("| fewer sequential steps | | " + "a different sample | " * 2 * len(errors))
        out.append("")
    return "\n".join(out)


def least(rows: list[Row]) -> Row | None:
    return min(rows, key=lambda r: (not r["met"], r["evaluations"] if r["met"] else r["mean"]), default=None)


def columns(own: dict[float, Row | None], errors: list[float]) -> list[str]:
    cost, accuracy = [], []
    for error in errors:
        row = own.get(error)
        if row is None or "refused" in row:
            cost.append("refused" if row else "")
            accuracy.append("")
            continue
        if "taken" in row:
            how = f"{row['taken']} steps of {row['solver'].removeprefix('fewer steps: ')}"
            failed = f"not met by N evaluations, nearest {how}"
        else:
            how = "any" if row["tolerance"] >= ANY else f"{row['tolerance']:.2g}"
            failed = "not met at any tolerance" if row["tolerance"] else "not met at tolerance 0 (rounding)"
        numbers = f"**{row['iterations']:.1f}** / {row['evaluations']:.1f}, {how}" if row["met"] else failed
        cost.append(numbers)
        accuracy.append(f"{row['mean']:.1e} ({row['worst']:.1e})")
    return cost + accuracy


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or not Path(given[0]).is_file():
        raise SystemExit("usage: iterations_table.py FILE, a file written by iterations_at_error.py --out FILE")
    rows = [json.loads(line) for line in Path(given[0]).read_text().splitlines() if line]
    print("Measured on " + "; ".join(sorted({row["machine"] for row in rows})) + ".\n")
    print(table(rows))


if __name__ == "__main__":
    main()
