"""Trade-off curves: the final error against iterations, evaluations and seconds."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from paraflowkit.bench.config import HOW
from paraflowkit.bench.folder import BenchFolder, Row
from paraflowkit.bench.jobs import short

#: Places of the grid that are drawn at most, a row of panels each.
PLACES = 4
_LEAST = 1e-5  # what is more exact than that, as all N sequential steps, would flatten the rest
_MARKS = "os^Dv<>Ph*Xd"


def curves_png(folder: BenchFolder) -> bytes | None:
    """The curves as a PNG file, or None where no row has an error."""
    rows = [folder.rows[key] for key in folder.plan["rows"] if key in folder.rows]
    drawn: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("error") and "refused" not in row:
            place = {k: v for k, v in row["at"].items() if k.split(".")[0] not in HOW}
            drawn.setdefault(", ".join(f"{k} {short(v)}" for k, v in place.items()), []).append(row)
    places = list(drawn.items())[:PLACES]
    if not places:
        return None
    figure = Figure(figsize=(11, 4.2 * len(places) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(len(places), 2, squeeze=False)
    for (title, own), (left, right) in zip(places, panels, strict=True):
        _panel(left, own, "iterations", "iterations (sequential network calls)", title)
        _panel(right, own, "evaluations", "evaluations (NFE)", title)
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png")
    return out.getvalue()


def _panel(axes: Axes, rows: list[Row], cost: str, label: str, title: str) -> None:
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        points: set[tuple[float, float]] = set()
        for row in rows:
            if row["method"] == method:
                tried = [*row.get("curve", []), row]
                points |= {(p[cost], p["error"]) for p in tried if p["error"] is not None}
        fewer = method.startswith("fewer")
        line = sorted((x, y) for x, y in points if _LEAST < y < 3)
        axes.plot(
            [x for x, _ in line],
            [y for _, y in line],
            marker=_MARKS[number % len(_MARKS)],
            markersize=4,
            linewidth=1,
            linestyle=":" if fewer else "-",
            color="grey" if fewer else f"C{number % 10}",
            label=method,
        )
    axes.set(xlabel=label, ylabel="error (relative RMSE to sequential)", yscale="log", title=title)
    axes.grid(visible=True, alpha=0.3)
