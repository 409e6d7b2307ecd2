"""The report of a predict run: what it cost, what it made, and how the solver went about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paraflowkit.report.film import film_png, strip_png
from paraflowkit.report.heatmap import heatmap_png
from paraflowkit.report.html import Cell, Page, Picture
from paraflowkit.report.labels import label
from paraflowkit.report.saved import SavedRun, picture, shrunk
from paraflowkit.report.sweeps import Sweeps

#: Samples in the table, and the largest pictures within the page.
_ROWS, _THUMB, _GRID = 50, 192, 1600


def report_files(folder: Path, summary: dict[str, Any] | None = None) -> dict[str, bytes]:
    """The files of a run's report by their names: ``report.html`` and, of a run that recorded its sweeps, pictures.

    Args:
        folder: of the run. summary: of a run that is about to write it, as in ``summary.json``.

    Raises:
        ParaflowkitError: the folder holds no finished run, or one whose files are damaged.
    """
    run = SavedRun.read(folder, summary)
    sweeps = Sweeps.read(folder)
    files: dict[str, bytes] = {}
    if sweeps is not None:
        files["heatmap.png"] = heatmap_png(sweeps)
        strip, film = strip_png(sweeps), film_png(sweeps)
        if strip is not None and film is not None:
            files |= {"film.png": strip, "film-animated.png": film}
    return {**files, "report.html": _page(run, files).to_html().encode()}


def _page(run: SavedRun, files: dict[str, bytes]) -> Page:
    s, names = run.summary, {kind: str(run.setting(f"{kind}.name")) for kind in ("model", "stepper", "solver")}
    page = Page(f"Run {run.name}")
    page.paragraph(
        f"{s['samples']} samples of {names['model']}, {run.setting('grid.steps')} steps of {names['stepper']}, solved "
        f"by {names['solver']}."
    )
    page.verdict(_verdict(run))
    _cost(page, s)
    grid = picture(run.path / "grid.png")
    if grid is not None:
        page.heading("Samples").picture(shrunk(grid, _GRID), alt="all samples in rows")
    _solving(page, run, files)
    page.heading("Each sample")
    _samples(page, run)
    page.heading("Settings and machine")
    page.paragraph("The folder's `config.yaml` makes the same run again: `paraflowkit predict --config config.yaml`.")
    page.table(["of the machine", ""], [[name, str(value)] for name, value in s.get("machine", {}).items()])
    return page.folded("config.yaml", run.config)


def _verdict(run: SavedRun) -> str:
    s = run.summary
    told = s.get("verdict") or (
        f"A sample took {s['iterations']:.1f} network calls one after the other and {s['evaluations']:.1f} "
        "evaluations. How fast that is, and how near to the sequential sampler, is told by a run with `--compare`."
    )
    if s.get("rmse") is not None:
        told += (
            f" The samples differ from the sequential ones by a relative RMSE of {s['rmse']:.1e}, "
            f"{s['worst_rmse']:.1e} at worst."
        )
    for message in sorted({row["message"] for row in run.rows if row["result"] != "converged"}):
        many = sum(row["message"] == message for row in run.rows)
        told += f" {many} of {len(run.rows)} samples: {message}"
    return told


def _cost(page: Page, s: dict[str, Any]) -> None:
    """Mean cost of a sample, beside the sequential sampler's where that was run."""
    share = s.get("steady_seconds", s["seconds"] - s.get("compile_seconds", 0.0)) / s["samples"]
    plain: dict[str, float] | None = s.get("sequential")
    rows: list[list[Cell]] = []
    for name, key, ours in (
        ("network calls one after the other", "iterations", s["iterations"]),
        ("network evaluations (guided pairs count once)", "evaluations", s["evaluations"]),
        ("seconds, its share of the batch", "seconds", share),
    ):
        cells: list[Cell] = [name, f"{ours:.2f}"]
        if plain is not None:
            theirs = plain[key] / (s["samples"] if key == "seconds" else 1)
            cells += [f"{theirs:.2f}", f"{ours / theirs:.2f}" if theirs else None]
        rows.append(cells)
    columns = ["mean of a sample", "parallel"]
    page.table(columns if plain is None else [*columns, "sequential", "parallel / sequential"], rows)


def _samples(page: Page, run: SavedRun) -> None:
    compared = any("rmse" in row for row in run.rows)
    columns = ["sample", "request", "result", "calls", "evaluations"]
    columns += ["relative RMSE", "PSNR, dB"] if compared else []
    rows: list[list[Cell]] = []
    pictures = False
    for row in run.rows[:_ROWS]:
        name = row.get("image")
        image = None if name is None else picture(run.path / Path(str(name)).name)
        pictures |= image is not None
        shown = None if image is None else Picture(shrunk(image, _THUMB), label(row), 48, min(image.size) < _THUMB)
        cells: list[Cell] = [shown, row["index"], label(row), row["result"], row["iterations"], row["evaluations"]]
        if compared:
            psnr = row.get("psnr")
            cells += [f"{row['rmse']:.1e}", "∞" if psnr is None and shown is not None else psnr and f"{psnr:.1f}"]
        rows.append(cells)
    if not pictures:
        rows = [cells[1:] for cells in rows]
    more = f"The first {_ROWS} of {len(run.rows)}; `results.jsonl` has all." if len(run.rows) > _ROWS else ""
    page.table(["", *columns] if pictures else columns, rows, more)
    if compared:
        worst = max(run.rows, key=lambda row: row["rmse"])
        page.paragraph(f"Farthest from its sequential sample is sample {worst['index']}, {label(worst)}.")


def _solving(page: Page, run: SavedRun, files: dict[str, bytes]) -> None:
    """What was recorded of the sweeps, and the convergence plot."""
    plot = run.path / "convergence.png"
    plotted = picture(plot) is not None
    if not plotted and not files:
        return
    page.heading("How the solver went about it")
    if "film.png" in files:
        page.picture(files["film-animated.png"], "The first samples as they would be after each sweep.")
        page.picture(
            files["film.png"],
            "The same in a row: the network's guess of the finished image at the window's front, sweep by sweep. The "
            "bars are the way from noise to image: dark what is accepted, light the window.",
        )
    if "heatmap.png" in files:
        page.picture(
            files["heatmap.png"],
            "The first sample. A column is a sweep: one call of the network for all steps in the red window. The "
            "colour tells how much each state still changed. From below, the states that changed by less than the "
            "tolerance are accepted, and the one after them, which follows from final states (white box); the window "
            "moves up by as many. The sequential sampler would be at the dotted line.",
        )
    if plotted:
        page.picture(
            plot.read_bytes(),
            "All samples. Left: accepted steps against sweeps; the steeper, the fewer calls. Right: the largest change "
            "of a state in each sweep, of the whole window and of what was accepted.",
        )
    if not files:
        page.paragraph(
            "A run with `output.report=true` also keeps what each sweep did to its first four samples, and it is shown "
            "here."
        )
