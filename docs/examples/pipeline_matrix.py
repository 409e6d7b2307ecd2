"""The pipeline matrix: every pipeline of the test zoo, plainly and parallel in time.

    python docs/examples/pipeline_matrix.py --out docs/data/pipelines.jsonl
    python docs/examples/pipeline_matrix.py --only StableDiffusion3 Flux
    python docs/examples/pipeline_matrix.py --write docs/data/pipelines.jsonl

The first command makes the calls and appends a row each; what the file holds is not made again. The last one writes
the page's table and the list that ``paraflowkit pipelines`` shows from such a file. The pipelines are tiny and their
weights random, so their trajectories are rougher than those of trained networks: the counts of rounds at a tolerance
say little about real ones. Errors are the RMSE over the plain output's standard deviation.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2] / "tests"))

import zoo  # noqa: E402

from paraflowkit.pipelines import disable, enable  # noqa: E402

Row = dict[str, Any]
TOLERANCES = (0.0, 1e-3)
PAGE = HERE.parents[1] / "data" / "pipelines.md"
LIST = HERE.parents[2] / "paraflowkit" / "pipelines" / "tested.json"
#: Float32 rounding: networks give slightly other sums in a batch, and 6 steps with guidance carry that on.
ROUNDING = 1e-4


def result(pipe: Any, entry: zoo.Entry, prompts: int) -> torch.Tensor:
    torch.manual_seed(0)  # some pipelines draw from the global generator whatever they are given
    with torch.no_grad():
        return zoo.output(pipe(**entry.call(prompts), generator=torch.Generator().manual_seed(0)))


def measure(entry: zoo.Entry, prompts: int, window: int) -> list[Row]:
    pipe = entry.build()
    plain = result(pipe, entry, prompts)
    found: list[Row] = []
    for tolerance in TOLERANCES:
        with enable(pipe, "paraflow", window=window, tolerance=tolerance):
            made = result(pipe, entry, prompts)
            stats = pipe.paraflow_stats
        error = (made - plain).square().mean().sqrt() / plain.std(correction=0).clamp_min(1e-12)
        found.append(
            {
                "class": type(pipe).__name__,
                "entry": entry.name,
                "family": entry.family,
                "prompts": prompts,
                "tolerance": tolerance,
                "error": float(error),
                "rounds": stats.sequential,
                "calls": stats.plain_calls,
                "steps": stats.steps,
                "refused": stats.refused,
                "window": window,
            }
        )
    again = result(disable(pipe), entry, prompts)
    assert torch.equal(again, plain), f"{entry.name} is not itself again"
    return found


def good(row: Row) -> bool:
    return row["error"] <= max(ROUNDING, row["tolerance"])


def short(reason: str) -> str:
    """A reason without what a library said and how far outputs were off."""
    return reason.split(" (")[0].split(", ")[0]


def page(rows: list[Row]) -> str:
    """The tables, by family."""
    done = [r for r in rows if r["refused"] is None]
    entries = {r["entry"] for r in rows}
    classes = {r["class"] for r in rows}
    parallel = {r["class"] for r in done}
    exact = [r for r in done if r["tolerance"] == 0 and not good(r)]
    loose = sorted({(r["entry"], r["error"]) for r in done if r["tolerance"] and not good(r)})
    lines = [
        f"{len(entries)} configurations of {len(classes)} pipeline classes; {len(parallel)} of them ran in parallel.",
        f"At tolerance 0, {len(exact)} outputs differ from the plain ones by more than rounding ({ROUNDING:g}). At "
        f"tolerance 1e-3, {len(loose)} differ by more than 1e-3"
        + (": " + ", ".join(f"{name} ({error:.1e})" for name, error in loose) if loose else "")
        + ".",
    ]
    for family in sorted({r["family"] for r in rows}):
        mine = [r for r in rows if r["family"] == family]
        lines += [
            "",
            f"## {family}",
            "",
            "| pipeline | prompts | error at 0 | rounds / calls | error at 1e-3 | rounds / calls |",
            "|---|---|---|---|---|---|",
        ]
        for name in dict.fromkeys(r["entry"] for r in mine):
            for prompts in (1, 2):
                pair = [r for r in mine if r["entry"] == name and r["prompts"] == prompts]
                if len(pair) < len(TOLERANCES):
                    continue
                if pair[0]["refused"] is not None:
                    lines.append(f"| {name} | {prompts} | plain: {short(pair[0]['refused'])} | | | |")
                    continue
                cells = [f"{r['error']:.1e} | {r['rounds']} / {r['calls']}" for r in pair]
                lines.append(f"| {name} | {prompts} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def tested(rows: list[Row]) -> list[Row]:
    """What ``paraflowkit pipelines`` shows: each class and what it came to."""
    found: list[Row] = []
    for name in sorted({r["class"] for r in rows}):
        mine = [r for r in rows if r["class"] == name]
        refused = sorted({f"{r['entry']}: {short(r['refused'])}" for r in mine if r["refused"] is not None})
        found.append(
            {
                "class": name,
                "family": mine[0]["family"],
                "parallel": any(r["refused"] is None for r in mine),
                "configurations": len({r["entry"] for r in mine}),
                "refused": refused,
            }
        )
    return found


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description="Every pipeline of the test zoo, plainly and parallel in time.")
    parser.add_argument("--only", nargs="*", help="entries whose names hold one of these")
    parser.add_argument("--out", type=Path, help="JSON Lines file that rows are appended to")
    parser.add_argument("--write", type=Path, help="write the page's table and the package's list from this file")
    parser.add_argument("--window", type=int, default=4)
    a = parser.parse_args(arguments)
    if a.write:
        rows = [json.loads(line) for line in a.write.read_text().splitlines() if line]
        PAGE.write_text(page(rows))
        LIST.write_text(json.dumps({"diffusers": diffusers.__version__, "pipelines": tested(rows)}, indent=1) + "\n")
        return rows
    rows = [json.loads(line) for line in a.out.read_text().splitlines() if line] if a.out and a.out.is_file() else []
    seen = {(r["entry"], r["prompts"]) for r in rows}
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name, entry in zoo.load().items():
        if a.only and not any(word in name for word in a.only):
            continue
        for prompts in entry.prompts:
            if (name, prompts) in seen:
                continue
            for row in measure(entry, prompts, a.window):
                rows.append(row)
                mark = "" if good(row) else "  WRONG"
                print({k: v for k, v in row.items() if k != "family"}, mark, flush=True)
                if a.out:
                    with a.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    return rows


if __name__ == "__main__":
    main()
