"""The files of a bench that people look at."""

from __future__ import annotations

from pathlib import Path

from paraflowkit.bench.curves import curves_png
from paraflowkit.bench.folder import BenchFolder, Row
from paraflowkit.bench.jobs import short
from paraflowkit.bench.tables import cell, csv_text, footnote, markdown, tables
from paraflowkit.bench.verdict import verdicts
from paraflowkit.fabric.folder import write
from paraflowkit.report.html import Page


def write_reports(folder: BenchFolder) -> Path:
    """Write ``table.md``, ``table.csv``, ``curves.png`` and ``report.html``; returns the last."""
    write(folder.path / "table.md", markdown(folder))
    write(folder.path / "table.csv", csv_text(folder))
    curves = curves_png(folder)
    if curves is not None:
        write(folder.path / "curves.png", curves)
    page = folder.path / "report.html"
    write(page, _html(folder, curves))
    return page


def _html(folder: BenchFolder, curves: bytes | None) -> str:
    plan = folder.plan
    page = Page(plan["title"])
    if plan["about"]:
        page.paragraph(plan["about"])
    for sentence in verdicts(folder):
        page.verdict(sentence)
    for table in tables(folder):
        page.heading(table.title)
        columns = table.columns()
        lines = [
            [
                *(short(line.at[name]) if name in line.at else "" for name in table.axes),
                f"{line.method} ({line.note})" if line.note else line.method,
                *(cell(line, name, show) for name, _, show in columns),
            ]
            for line in table.lines
        ]
        page.table([*table.axes, "method", *(head for _, head, _ in columns)], lines)
        if table.constants():
            page.paragraph(table.constants())
    page.paragraph(footnote(folder))
    if curves is not None:
        page.heading("Error against cost")
        page.paragraph("Lower and further left is better; each point is a solve of all samples.")
        page.picture(curves, "Final error against iterations and evaluations")
    _pictures(page, folder)
    return page.to_html()


def _pictures(page: Page, folder: BenchFolder) -> None:
    """Samples of the rows of the first table."""
    rows = [folder.rows[key] for key in folder.plan["rows"] if key in folder.rows]
    first = max(folder.plan["errors"], default=None) if folder.plan["view"] == "error" else None
    rows = [row for row in rows if row["wanted"] == first or row["sequential"]]
    shown = [(row, path) for row in rows if (path := folder.path / "samples" / f"{row['key']}.png").is_file()]
    if shown:
        page.heading("The same samples by every method")
    for row, path in shown:
        page.picture(path.read_bytes(), _caption(row))


def _caption(row: Row) -> str:
    where = "".join(f", {name} {short(value)}" for name, value in row["at"].items())
    wanted = "" if row["wanted"] is None else f", wanted error {row['wanted']:g}"
    error = "" if row["sequential"] else f"error {row['error']:.1e}, "
    return f"{row['method']}{where}{wanted}: {error}{row['iterations']:.4g} iterations"
