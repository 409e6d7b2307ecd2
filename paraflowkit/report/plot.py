"""The convergence plot of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from paraflowkit.solution import Stats


def _lanes(stats: Sequence[Stats]) -> list[tuple[list[int], list[float]]]:
    """Per sample: accepted nodes after each of its sweeps, and the root of the largest change that was accepted."""
    lanes: list[tuple[list[int], list[float]]] = []
    for one in stats:
        for i in range(len(one.evaluations)):
            fronts, changes = [0], list[float]()
            for lo, stride, residual in zip(one.fronts, one.strides, one.residuals, strict=True):
                if int(stride[i]) == 0 and fronts[-1] > 0 and int(lo[i]) == fronts[-1] and residual[i].isnan().all():
                    break  # finished earlier than the rest of its batch
                fronts.append(int(lo[i]) + int(stride[i]))
                changes.append(float(residual[i].nan_to_num(nan=0.0).max().sqrt()))
            lanes.append((fronts, changes))
    return lanes


def convergence_figure(stats: Sequence[Stats], steps: int, tolerance: float, title: str) -> Figure:
    """Accepted steps against sweeps, and the largest change of a state in the window of each sweep.

    Args:
        stats: one a batch. steps: N. tolerance: of the solver, drawn as a line (0 is not drawn).
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for fronts, changes in _lanes(stats):
        left.plot(range(len(fronts)), fronts, color="tab:blue", alpha=0.35, linewidth=1)
        right.plot(range(1, len(changes) + 1), changes, color="tab:blue", alpha=0.35, linewidth=1)
    left.plot([0, steps], [0, steps], color="black", linestyle="--", linewidth=1, label="sequential")
    left.plot([], [], color="tab:blue", label="parallel, a line a sample")
    left.set(xlabel="sweep (one batched network call)", ylabel="accepted steps", xlim=(0, steps), ylim=(0, steps))
    left.legend(loc="lower right")
    right.set(xlabel="sweep", ylabel="largest RMS change in the window", yscale="log")
    if tolerance > 0:
        right.axhline(tolerance, color="black", linestyle="--", linewidth=1, label=f"tolerance {tolerance:g}")
        right.legend(loc="upper right")
    figure.suptitle(title)
    return figure


def save_convergence(stats: Sequence[Stats], steps: int, tolerance: float, title: str, path: Path) -> None:
    """Draw :func:`convergence_figure` into a PNG file."""
    with torch.no_grad():
        convergence_figure(stats, steps, tolerance, title).savefig(path, dpi=110)
