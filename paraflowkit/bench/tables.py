"""Rows of a bench as tables: in the papers' form, and at equal errors."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paraflowkit.bench.config import HOW
from paraflowkit.bench.folder import BenchFolder, Row
from paraflowkit.bench.jobs import short

#: Name, heading, how it is written.
Column = tuple[str, str, Callable[[float], str]]
#: Of a row, what is shown.
COLUMNS: tuple[Column, ...] = (
    ("setting", "tolerance", lambda v: f"{v:.2g}"),
    ("iterations", "Iters", lambda v: f"{v:.4g}"),
    ("evaluations", "NFE", lambda v: f"{v:.4g}"),
    ("error", "error", lambda v: f"{v:.1e}"),
    ("worst_error", "worst", lambda v: f"{v:.1e}"),
    ("clip_score", "CLIP", lambda v: f"{v:.2f}"),
    ("fid", "FID", lambda v: f"{v:.3g}"),
    ("kid", "KID", lambda v: f"{v:.2g}"),
    ("precision", "precision", lambda v: f"{v:.2f}"),
    ("recall", "recall", lambda v: f"{v:.2f}"),
    ("psnr", "PSNR", lambda v: f"{v:.1f}"),
    ("ssim", "SSIM", lambda v: f"{v:.3f}"),
    ("identical", "identical", lambda v: f"{v:.0f}"),
    ("seconds", "Time (s)", lambda v: f"{v:.3g}"),
    ("speedup", "Speedup", lambda v: f"{v:.2f}×"),
    ("batch_per_device", "rows a device", lambda v: f"{v:g}"),
    ("utilisation", "utilisation (%)", lambda v: f"{v:g}"),
)
#: Images below which KID is not shown: it is unbiased for images drawn at random, and requests that balance the
#: classes, as most do, are not; with few images that is all that one sees.
KID_LEAST = 500
#: Figures that every table has.
_KEPT = ("setting", "iterations", "evaluations", "error", "worst_error", "fid", "clip_score", "seconds", "speedup")
_SIMILARITY = ("psnr", "ssim", "identical")
#: What a row has that is no figure of quality or cost.
_OTHER = {
    *("key", "kind", "method", "at", "wanted", "machine", "curve", "met", "missing", "samples", "failed", "steps"),
    *("tolerance", "refused", "rmse", "sequential", "reference"),
    *("images", "references", "kid_deviation", "kid_subset"),
}


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        method: its label. at: values of the axes that concern it. figures: by the names of :data:`COLUMNS` and of
            further scores. paper: the paper's figures. note: in place of figures, or beside them.
        kind: of the row, or ``paper``. reference: of the sequential samples; lines of another are of other samples.
    """

    method: str
    at: dict[str, Any]
    figures: dict[str, float]
    paper: dict[str, float]
    note: str = ""
    kind: str = "paper"
    reference: str = ""

    @property
    def sequential(self) -> bool:
        """Whether it is what others are compared with."""
        return self.kind == "sequential"


@dataclass(frozen=True)
class Table:
    """Lines that share how methods were set.

    Attributes:
        axes: their names. wanted: the equal error, or None where settings are given.
    """

    axes: tuple[str, ...]
    wanted: float | None
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """For people."""
        return "With the given settings" if self.wanted is None else f"At an equal error of {self.wanted:g}"

    def columns(self) -> list[Column]:
        """Those that some line has a figure in; further scores come last, and what is the same in all lines nowhere."""
        return [column for column in self._all() if not self._is_constant(column)]

    def constants(self) -> str:
        """What is the same in all lines, in a sentence, or nothing."""
        same = [
            f"{head} {write(next(line.figures[name] for line in self.lines if name in line.figures))}"
            for name, head, write in filter(self._is_constant, self._all())
        ]
        return f"The same in all rows: {', '.join(same)}." if same else ""

    def _all(self) -> list[Column]:
        named = [c for c in COLUMNS if any(c[0] in line.figures or c[0] in line.paper for line in self.lines)]
        known = {c[0] for c in COLUMNS}
        more = {name: None for line in self.lines for name in line.figures if name not in known}
        return [*named, *((name, name.replace("_", " "), lambda v: f"{v:.4g}") for name in more)]

    def _is_constant(self, column: Column) -> bool:
        """Whether a figure of quality says nothing; those that every table has are kept."""
        name, _, write = column
        if name in _KEPT or len(self.lines) < 3 or any(name in line.paper for line in self.lines):
            return False
        # Similarity is to the sequential samples, which have none to themselves.
        lines = [line for line in self.lines if line.figures and not (line.sequential and name in _SIMILARITY)]
        return len({write(line.figures[name]) if name in line.figures else "" for line in lines}) == 1


def tables(folder: BenchFolder) -> list[Table]:
    """All tables of a bench: of equal errors first where that is its view."""
    marks: dict[str, str] = folder.plan.get("references", {})
    rows = [{**folder.rows[key], "reference": marks.get(key, "")} for key in folder.plan["rows"] if key in folder.rows]
    seconds = _seconds(folder)
    paper: list[Row] = (folder.plan.get("paper") or {}).get("rows", [])
    plain = [row for row in rows if is_sequential(row)]

    def table(own: Sequence[Row], wanted: float | None, theirs: Sequence[Row]) -> list[Table]:
        lines = [_line(row, seconds, theirs) for row in sorted(own, key=lambda row: _order(folder, row))]
        for one in theirs:  # such as on more devices than there are here
            if _figures(one) and not any(_of(theirs, row) is one for row in own):
                lines.append(Line(one["method"], one["at"], {}, _figures(one), "not run here"))
        axes = tuple(name for name in folder.plan["axes"] if any(name in line.at for line in lines))
        return [Table(axes, wanted, tuple(lines))] if lines else []

    given = table([row for row in rows if row["kind"] == "given"], None, paper)
    equal: list[Table] = []
    for wanted in sorted(folder.plan["errors"], reverse=True):
        own = [row for row in rows if row["wanted"] == wanted]
        equal += table([*plain, *own], wanted, []) if own else []
    return [*equal, *given] if folder.plan["view"] == "error" else [*given, *equal]


def is_sequential(row: Row) -> bool:
    """Whether a row is of the sampler that others are compared with."""
    return row["kind"] == "given" and bool(row.get("sequential"))


def _order(folder: BenchFolder, row: Row) -> list[int]:
    """Place by place; how an equation is solved comes after which one."""
    axes: dict[str, list[Any]] = folder.plan["axes"]
    return [axes[name].index(row["at"][name]) for name in axes if name.split(".")[0] not in HOW and name in row["at"]]


def _seconds(folder: BenchFolder) -> dict[str, tuple[float, float | None]]:
    """Of each row, its seconds and those of the sequential sampler beside it."""
    found: dict[str, tuple[float, float | None]] = {}
    for key in folder.plan["clocked"]:
        row = folder.rows.get(key, {"seconds": {}})
        found |= {name: (each, row.get("sequential")) for name, each in row["seconds"].items()}
    return found


def _of(paper: Sequence[Row], row: Row) -> Row | None:
    """The paper's row for one of ours: the one that says the most of where it stands."""
    fitting = [
        one
        for one in paper
        if one["method"] == row["method"] and all(row["at"].get(k, v) == v for k, v in one["at"].items())
    ]
    return max(fitting, key=lambda one: len(one["at"].keys() & row["at"].keys()), default=None)


def _figures(paper: Row) -> dict[str, float]:
    """A paper's figures of one method."""
    return {k: v for k, v in paper.items() if k not in ("method", "at") and v is not None}


def _line(row: Row, seconds: dict[str, tuple[float, float | None]], paper: Sequence[Row]) -> Line:
    figures = {k: float(v) for k, v in row.items() if k not in _OTHER and isinstance(v, (int, float))}
    sequential = is_sequential(row)
    if row.get("images", 0) < KID_LEAST:
        figures.pop("kid", None)
    if sequential:
        figures = {k: v for k, v in figures.items() if k not in ("error", "worst_error")}
    elif row.get("tolerance") is not None:
        figures["setting"] = row["tolerance"]
    if row["key"] in seconds:
        own, plain = seconds[row["key"]]
        figures["seconds"] = own
        if plain is not None:
            figures["speedup"] = plain / own
    found = _of(paper, row)
    theirs = {} if found is None else _figures(found)
    note = f"refused: {row['refused']}" if "refused" in row else ""
    if row.get("met") is False:
        note = "does not meet the error"
    if row.get("failed"):
        note = f"{row['failed']} samples failed"
    method = row["method"]
    if row["kind"] == "fewer" and "steps" in row:
        method = f"{method}, {row['steps']}"
    kind = "sequential" if sequential else row["kind"]
    return Line(method, row["at"], figures, theirs, note, kind, row.get("reference", ""))


def markdown(folder: BenchFolder) -> str:
    """The whole bench as a Markdown file."""
    parts = [f"# {folder.plan['title']}", folder.plan["about"], *markdown_tables(folder), footnote(folder)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_tables(folder: BenchFolder) -> list[str]:
    """All tables as Markdown, each with its title in bold; a paper's figures stand in brackets."""
    made: list[str] = []
    for table in tables(folder):
        columns = table.columns()
        heads = [*table.axes, "method", *(head for _, head, _ in columns)]
        lines = [f"| {' | '.join(heads)} |", f"|{'---|' * (len(table.axes) + 1)}{'---:|' * len(columns)}"]
        for line in table.lines:
            cells = [cell(line, name, write) for name, _, write in columns]
            where = [short(line.at[name]) if name in line.at else "" for name in table.axes]
            method = f"{line.method} ({line.note})" if line.note else line.method
            lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in [*where, method, *cells])} |")
        same = f"\n\n{table.constants()}" if table.constants() else ""
        made.append(f"**{table.title}**\n\n" + "\n".join(lines) + same)
    return made


def cell(line: Line, name: str, write: Callable[[float], str]) -> str:
    """A figure, and the paper's in brackets."""
    ours = write(line.figures[name]) if name in line.figures else ""
    return f"{ours} [{write(line.paper[name])}]".strip() if name in line.paper else ours


def footnote(folder: BenchFolder) -> str:
    """Machine, samples, source of a paper's figures."""
    rows = [row for key in folder.plan["rows"] if "samples" in (row := folder.rows.get(key, {}))]
    machine = folder.plan["machine"]
    said = [
        f"{max((row['samples'] for row in rows), default=0)} samples a row. Error: mean relative RMSE of the samples "
        "to the sequential ones, over the data's standard deviation; worst: the largest of a sample."
    ]
    timing = folder.plan["timing"]
    if _seconds(folder):
        said.append(
            f"Time: median of {timing['repetitions']} solves of {timing['samples']} sample(s), all methods in turn."
        )
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    said.append(
        f"{machine['device']}, {machine['processes']} process(es) of {machine['threads']} thread(s), "
        f"{machine['precision']}; {versions}."
    )
    paper = folder.plan.get("paper")
    if paper:
        said.append(f"In brackets: {paper['source']}.")
    missing = {text: None for row in rows for text in row.get("missing", ())}
    return " ".join([*said, *missing])


def csv_text(folder: BenchFolder) -> str:
    """All lines of all tables as CSV, figures unrounded."""
    out = io.StringIO()
    found = tables(folder)
    names = list(dict.fromkeys(name for table in found for name, _, _ in table.columns()))
    axes = list(folder.plan["axes"])
    writer = csv.writer(out)
    writer.writerow([*axes, "wanted", "method", *names, *(f"paper_{name}" for name in names), "note"])
    for table in found:
        for line in table.lines:
            ours = [line.figures.get(name, "") for name in names]
            theirs = [line.paper.get(name, "") for name in names]
            at = [short(line.at[name]) if name in line.at else "" for name in axes]
            wanted = "" if table.wanted is None else table.wanted
            writer.writerow([*at, wanted, line.method, *ours, *theirs, line.note])
    return out.getvalue()
