"""What commands print when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from paraflowkit.fabric.outputs import Summary
    from paraflowkit.fabric.predict import Prediction
    from paraflowkit.fabric.tuning import Tuning


def print_summary(made: Prediction) -> None:
    """Print what a predict run cost, beside the sequential sampler where there is one."""
    s = made.summary
    console = Console()
    table = Table(title=f"{s.samples} samples on {s.machine['device']}, {s.machine['threads']} threads")
    table.add_column("mean of a sample")
    table.add_column("parallel", justify="right")
    if s.sequential is not None:
        table.add_column("sequential", justify="right")
        table.add_column("parallel / sequential", justify="right")
    for name, ours, key in _figures(s):
        cells = [name, f"{ours:.2f}"]
        if s.sequential is not None:
            theirs = s.sequential[key] / (s.samples if key == "seconds" else 1)
            cells += [f"{theirs:.2f}", f"{ours / theirs:.2f}"]
        table.add_row(*cells)
    console.print(table)
    if s.rmse is not None:
        psnr = "" if s.psnr is None else f", PSNR at least {s.psnr:.1f} dB"
        console.print(
            f"Difference to the sequential samples: relative RMSE {s.rmse:.2e} (worst {s.worst_rmse:.2e}){psnr}."
        )
    if s.verdict():
        console.print(s.verdict())
    if s.rest_share is not None:
        console.print(f"Time outside the network: {100 * s.rest_share:.1f} % of the parallel solve.")
    if s.compile_seconds:
        console.print(f"Compiling the network took {s.compile_seconds:.1f} s, which no other figure contains.")
    if s.gather_seconds:
        each, share = 1e3 * s.gather_seconds / s.sweeps, 100 * s.gather_seconds / s.steady_seconds
        console.print(f"Waiting for the outputs of other processes: {each:.1f} ms a sweep, {share:.1f} % of the solve.")
    for message in sorted({row["message"] for row in made.rows if row["result"] != "converged"}):
        many = sum(row["message"] == message for row in made.rows)
        console.print(f"{many} of {s.samples} samples: {message}")
    if made.folder is not None:
        console.print(f"Written to {made.folder}")


def _figures(s: Summary) -> list[tuple[str, float, str]]:
    return [
        ("sequential network calls", s.iterations, "iterations"),
        ("network evaluations (guided pairs count once)", s.evaluations, "evaluations"),
        ("seconds, its share of the batch", s.steady_seconds / s.samples, "seconds"),
    ]


def print_tuning(tuning: Tuning) -> None:
    """Print what network calls cost, what each solver makes of it, and which is the fastest."""
    console = Console()
    curve = tuning.curve
    calls = Table(title="a call of the network")
    for name in ("rows", "ms", "times one of the fewest"):
        calls.add_column(name, justify="right")
    for rows, seconds in zip(curve.rows, curve.seconds, strict=True):
        calls.add_row(str(rows), f"{1e3 * seconds:.1f}", f"{seconds / curve.seconds[0]:.1f}")
    console.print(calls)
    if curve.cut:
        console.print(curve.cut)
    trials = (tuning.sequential, *tuning.trials)
    degrees = any(trial.degree is not None for trial in trials)
    table = Table(
        title=f"a batch of {tuning.batch}, wanted error {tuning.wanted:g}",
        caption="in brackets: evaluated steps of the window" if degrees else None,
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("solver", overflow="fold")
    # Narrow enough for a terminal of 80 columns, with the longest name of a solver that there is.
    for name in ("window", "tolerance", "error", "iterations", "NFE", "seconds\nby rows", "seconds"):
        table.add_column(name, justify="right", overflow="fold")
    for trial in trials:
        table.add_row(
            Text(trial.solver.name),
            str(trial.size) if trial.degree is None else f"{trial.size} ({trial.degree})",
            f"{trial.tolerance:.3g}",
            f"{trial.error:.1e}",
            f"{trial.iterations:.1f}",
            f"{trial.evaluations:.1f}",
            f"{trial.predicted(curve):.3g}",
            f"{trial.seconds:.3g}",
        )
    console.print(table)
    if tuning.left_out:
        reasons = Table(title="left out")
        reasons.add_column("solver", overflow="fold")
        reasons.add_column("why", overflow="fold")
        for name, reason in tuning.left_out.items():
            reasons.add_row(Text(name), Text(reason))
        console.print(reasons)
    console.print(tuning.verdict(), highlight=False)
    for devices, speedup, trial in tuning.promised():
        console.print(
            f"On {devices} times these devices, their exchange left out: {speedup:.2f} times as fast as sequential "
            f"sampling there, by {trial.name}."
        )
