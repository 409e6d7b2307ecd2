"""Put measured benches into the documentation.

    paraflowkit bench --config configs/bench/paraflow_t1.yaml --output runs/bench/paraflow_t1
    python docs/examples/bench_tables.py runs/bench/paraflow_t1 …

copies the figures of each bench into ``docs/data/bench`` and renews the tables in the pages of the documentation and in
README.md, between ``<!-- bench: NAME -->`` and ``<!-- end -->``. Without folders the tables are made again from the
figures that are there; ``--check`` only tells whether they are as they should be. ``--no-clock`` leaves out seconds and
speedups, which mean nothing where the machine did other work meanwhile.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from paraflowkit.bench.config import load
from paraflowkit.bench.folder import BenchFolder
from paraflowkit.bench.jobs import jobs
from paraflowkit.bench.tables import footnote, markdown_tables
from paraflowkit.errors import ParaflowkitError

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs" / "data" / "bench"
REGION = re.compile(r"(<!-- bench: (?P<name>\w+)(?: (?P<table>\d+))? -->\n).*?(\n<!-- end -->)", re.DOTALL)


def take(folder: Path, clock: bool = True) -> str:
    """Copy a bench's figures; returns its name."""
    found = BenchFolder.open(folder)
    if not clock:
        found.plan["clocked"] = []
    wanted = [*found.plan["rows"], *found.plan["clocked"]]
    missing = [key for key in found.plan["rows"] if key not in found.rows]
    if missing:
        raise ParaflowkitError(f"{folder}: {len(missing)} rows are not measured: go on with --resume.")
    target = DATA / found.plan["name"]
    target.mkdir(parents=True, exist_ok=True)
    (target / "bench.json").write_text(json.dumps(found.plan, indent=1) + "\n")
    lines = [json.dumps(found.rows[key]) for key in wanted if key in found.rows]
    (target / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return found.plan["name"]


def text(name: str, table: str | None) -> str:
    """What stands in the region of a bench: all its tables, or the one with this number, counted from 1."""
    folder = BenchFolder.open(DATA / name)
    made = markdown_tables(folder)
    shown = made if table is None else [made[int(table) - 1].split("\n\n", 1)[1]]
    return "\n" + "\n\n".join([*shown, footnote(folder)]) + "\n"


def renewed(page: str) -> str:
    """A page with its regions made again; those of benches that nobody has measured stay."""

    def region(found: re.Match[str]) -> str:
        if not (DATA / found["name"] / "bench.json").exists():
            return found[0]
        return found[1] + text(found["name"], found["table"]) + found[4]

    return REGION.sub(region, page)


def pages() -> Iterator[Path]:
    """Files with regions."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        if "<!-- bench: " in path.read_text():
            yield path


def stale() -> Iterator[str]:
    """What is not as it should be, a sentence each."""
    for path in pages():
        if renewed(path.read_text()) != path.read_text():
            yield f"{path.relative_to(ROOT)}: a table differs from docs/data/bench: run docs/examples/bench_tables.py"
    for folder in sorted(path for path in DATA.glob("*") if path.is_dir()):
        wanted = [job.key for job in jobs(load(ROOT / "configs" / "bench" / f"{folder.name}.yaml"))]
        if BenchFolder.open(folder).plan["rows"] != wanted:
            yield f"docs/data/bench/{folder.name}: was measured with other settings than its bench file has now"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put measured benches into the documentation.")
    parser.add_argument("folders", nargs="*", type=Path, help="of benches, as paraflowkit bench wrote them")
    parser.add_argument("--no-clock", action="store_true", help="leave out seconds and speedups")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where something is stale")
    a = parser.parse_args(arguments)
    try:
        for folder in a.folders:
            print(f"taken: {take(folder, not a.no_clock)}")
        if not a.check:
            for path in pages():
                path.write_text(renewed(path.read_text()))
        found = list(stale())
    except ParaflowkitError as error:
        parser.error(str(error))
    for sentence in found:
        print(sentence, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
