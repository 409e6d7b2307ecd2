"""The residual heat map: how much each step of the sampler changed in each sweep, and what was accepted when."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from paraflowkit.report.drawing import cut
from paraflowkit.report.sweeps import Sweeps

_DONE, _OPEN, _EDGE, _BOX = "#dfe5ea", "#b9c2cb", "#d1495b", "#ffffff"
#: Sweeps up to which each accepted stride gets a box of its own; more are a blur of boxes.
_BOXES = 60


def heatmap_figure(sweeps: Sweeps, sample: int = 0) -> Figure:
    """Sweeps to the right, steps upwards, colour for the RMS change of the state that a step made; logarithmic.

    Over it the window of each sweep, and a box around the steps that it accepted.
    """
    count, steps = max(1, sweeps.count(sample)), sweeps.steps
    lo, hi, stride = (array[:count, sample] for array in (sweeps.fronts, sweeps.ends, sweeps.strides))
    change, tolerance = sweeps.residuals[sample, :, :count], float(sweeps.facts["tolerance"])
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = np.arange(count + 1) + 0.5
    axes.stairs(lo, edges, fill=True, color=_DONE)
    axes.stairs(hi, edges, baseline=lo, fill=True, color=_OPEN)
    norm = _norm(change, tolerance)
    shown = np.clip(change, norm.vmin, norm.vmax)  # a state that did not change at all has no logarithm
    mesh = axes.pcolormesh(edges, np.arange(steps + 1), shown, cmap="viridis", norm=norm, rasterized=True)
    if count <= _BOXES:
        for i in range(count):
            axes.add_patch(Rectangle((i + 0.56, lo[i]), 0.88, stride[i], fill=False, edgecolor=_BOX, linewidth=1.6))
    for path in (lo, hi):
        axes.stairs(path, edges, baseline=None, color=_EDGE, linewidth=1.5)
    axes.plot([0.5, count + 0.5], [0, count], color="black", linestyle=":", linewidth=1.2)
    axes.set(xlim=(0.5, count + 0.5), ylim=(0, steps), xlabel="sweep: one batched call of the network")
    axes.set_ylabel(f"step of the sampler: 0 is noise, {steps} the image")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _say_where(axes, lo, hi, count, steps)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("change of the state in this sweep (RMS, in units of the norm)")
    if tolerance > 0:
        bar.ax.axhline(tolerance, color=_EDGE, linewidth=2)
        bar.ax.annotate(
            "tolerance", (0.5, tolerance), xytext=(0, 3), textcoords="offset points", ha="center", fontsize="x-small",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    handles: list[Any] = [
        Patch(facecolor="none", edgecolor=_EDGE, linewidth=1.5, label="window: steps that are worked on"),
        Patch(facecolor="#31688e", edgecolor=_BOX, linewidth=1.6, label="accepted in this sweep"),
        *axes.plot([], [], color="black", linestyle=":", label="sequential: one step a call"),
    ]
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small"
    )
    title = f"{sweeps.facts['solver']}: {steps} steps in {count} sweeps\n{cut(sweeps.labels[sample], 700)}"
    figure.suptitle(title, fontsize=11, parse_math=False)  # a prompt may hold dollars
    return figure


def heatmap_png(sweeps: Sweeps, sample: int = 0) -> bytes:
    """:func:`heatmap_figure` as the contents of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a prompt, which is shown as boxes then
        heatmap_figure(sweeps, sample).savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def _norm(change: NDArray[np.float32], tolerance: float) -> LogNorm:
    """Colours from the largest change down to well below the tolerance, or to the least change where it is 0."""
    known = change[np.isfinite(change) & (change > 0)].astype(np.float64)
    highest = max(known.max(initial=0.0), tolerance, 1e-12)
    least = tolerance / 10 if tolerance > 0 else known.min(initial=highest)
    return LogNorm(max(least, 1e-8 * highest), highest * 1.0001)


def _say_where(axes: Axes, lo: NDArray[np.int64], hi: NDArray[np.int64], count: int, steps: int) -> None:
    """Names of the two areas beside the window, where there is room for them."""
    right, left = min(count - 1, int(0.75 * count)), int(0.2 * count)
    for at, low, high, words in (
        (right, 0, int(lo[right]), "accepted:\nfinal"),
        (left, int(hi[left]), steps, "not reached\nyet"),
    ):
        if high - low > 0.2 * steps:
            axes.text(at + 1, (low + high) / 2, words, ha="center", va="center", color="#4a5560", fontsize=10)
