"""The convergence plot of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from paraflowkit.solution import Stats


def _lanes(stats: Sequence[Stats]) -> list[tuple[list[int], list[float], list[float]]]:
    """Per sample and sweep: accepted nodes, and the root of the largest change in the window and of those accepted.

    The last state that is accepted is one step from settled ones, so its own change does not matter and is left out; a
    sweep that accepts no other has NaN.
    """
    lanes: list[tuple[list[int], list[float], list[float]]] = []
    for one in stats:
        for i in range(len(one.evaluations)):
            fronts, changes, accepted = [0], list[float](), list[float]()
            for lo, stride, residual in zip(one.fronts, one.strides, one.residuals, strict=True):
                if int(stride[i]) == 0 and fronts[-1] > 0 and int(lo[i]) == fronts[-1] and residual[i].isnan().all():
                    break  # finished earlier than the rest of its batch
                fronts.append(int(lo[i]) + int(stride[i]))
                known, settled = residual[i].nan_to_num(nan=0.0), residual[i, : max(0, int(stride[i]) - 1)]
                changes.append(float(known.max().sqrt()))
                accepted.append(float(settled.nan_to_num(nan=0.0).max().sqrt()) if len(settled) else float("nan"))
            lanes.append((fronts, changes, accepted))
    return lanes


def convergence_figure(stats: Sequence[Stats], steps: int, tolerance: float, title: str) -> Figure:
    """Accepted steps against sweeps, and the largest changes of states in each sweep: in the window, and accepted.

    Args:
        stats: one a batch. steps: N. tolerance: of the solver, drawn as a line (0 is not drawn).
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for fronts, changes, accepted in _lanes(stats):
        left.plot(range(len(fronts)), fronts, color="tab:blue", alpha=0.35, linewidth=1)
        sweeps = range(1, len(changes) + 1)
        right.plot(sweeps, changes, color="tab:blue", alpha=0.2, linewidth=1)
        right.plot(sweeps, accepted, color="tab:orange", alpha=0.6, linestyle="", marker=".", markersize=5)
    left.plot([0, steps], [0, steps], color="black", linestyle="--", linewidth=1, label="sequential")
    left.plot([], [], color="tab:blue", label="parallel, a line a sample")
    left.set(xlabel="sweep (one batched network call)", ylabel="accepted steps", xlim=(0, steps), ylim=(0, steps))
    left.legend(loc="lower right")
    right.set(xlabel="sweep", ylabel="largest RMS change, in units of the norm", yscale="log")
    right.plot([], [], color="tab:blue", label="of all evaluated steps of the window")
    right.plot([], [], color="tab:orange", linestyle="", marker=".", label="of those accepted")
    if tolerance > 0:
        right.axhline(tolerance, color="black", linestyle="--", linewidth=1, label=f"tolerance {tolerance:g}")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize="small", frameon=False)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(title)
    return figure


def convergence_png(stats: Sequence[Stats], steps: int, tolerance: float, title: str) -> bytes:
    """:func:`convergence_figure` as the contents of a PNG file."""
    buffer = io.BytesIO()
    with torch.no_grad():
        convergence_figure(stats, steps, tolerance, title).savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()
