"""What parallel sampling brings on G devices: a model of the time, with iterations and evaluations that were measured.

    python docs/examples/does_it_help.py > docs/data/does_it_help.md

For one sample, ``time / t₁ = iterations · (a + (1 - a) · ceil(rows / G))``: t₁ is the time of a call of one row, a the
share of it that does not grow with the rows, and rows those of an average call; guidance doubles them. Exchange between
devices and time outside the network are left out. Iterations and evaluations are those of
docs/data/iterations_at_error.jsonl and docs/data/held_out.jsonl, at an equal error of 1e-2.
"""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

ROWS = [Path(__file__).parents[1] / "data" / f"{name}.jsonl" for name in ("iterations_at_error", "held_out")]
DEVICES = (1, 2, 4, 8, 16)
ERROR = 1e-2
#: Shares of the time of a call of one row that do not grow with the rows.
BUSY, IDLE = 0.0, 0.8


def seconds(iterations: float, evaluations: float, guided: bool, devices: int, share: float) -> float:
    """Seconds over those of a call of one row."""
    rows = evaluations / iterations * (2 if guided else 1)
    return iterations * (share + (1 - share) * ceil(rows / devices))


def best(rows: list[dict[str, Any]], steps: int, guided: bool, devices: int, share: float) -> tuple[float, str]:
    """The largest speedup over N sequential steps, and by what."""
    plain = seconds(steps, steps, guided, devices, share)

    def speedup(row: dict[str, Any]) -> float:
        return plain / seconds(row["iterations"], row["evaluations"], guided, devices, share)

    row = max(rows, key=speedup)
    window = "" if row["window"] is None else f", {row['window']}"
    return speedup(row), row["solver"].split(",")[0].removeprefix("fewer steps: ") + window


def table(rows: list[dict[str, Any]], share: float) -> str:
    """A line for each number of steps and guidance, a column for each number of devices."""
    heads = [f"{g} device{'s' if g > 1 else ''}" for g in DEVICES]
    lines = [
        f"| steps | guidance | {' | '.join(heads)} |",
        f"|---:|---:|{'---|' * len(DEVICES)}",
    ]
    cases = sorted({(row["steps"], row["guidance"]) for row in rows})
    for steps, guidance in cases:
        own = [row for row in rows if (row["steps"], row["guidance"]) == (steps, guidance)]
        parallel = [row for row in own if not row["solver"].startswith("fewer")]
        fewer = [row for row in own if row["solver"].startswith("fewer")]
        cells: list[str] = []
        for devices in DEVICES:
            ours, name = best(parallel, steps, guidance != 1, devices, share)
            theirs = best(fewer, steps, guidance != 1, devices, share)[0] if fewer else 1.0
            won = f"**{ours:.1f}×** ({name})" if ours > max(theirs, 1.0) else f"{ours:.1f}×"
            cells.append(f"{won}, fewer steps {theirs:.1f}×")
        lines.append(f"| {steps} | {guidance:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def text() -> str:
    """Both tables."""
    found = [json.loads(line) for path in ROWS for line in path.read_text().splitlines()]
    rows = [
        row
        for row in found
        if row["error"] == ERROR
        and row["met"]
        and row["model"] == "digits-flow"
        and row["solver"] != "chords"
        and "precondition" not in row["solver"]  # what needs no setting of its own
    ]
    windows = {(row["steps"], row["guidance"]) for row in rows if row["window"] == 16}
    rows = [row for row in rows if (row["steps"], row["guidance"]) in windows]
    cases = (("Each device is busy with one row", BUSY), ("Each device has room left", IDLE))
    return "\n".join(f"**{title}** (a = {share:g})\n\n{table(rows, share)}\n" for title, share in cases)


if __name__ == "__main__":
    print(text(), end="")
