"""What commands print when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from paraflowkit.fabric.outputs import Summary
    from paraflowkit.fabric.predict import Prediction
    from paraflowkit.fabric.tune import Tuning


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
    table = Table(title=f"a batch of {tuning.batch}, wanted error {tuning.wanted:g}")
    table.add_column("solver")
    for name in ("window", "tolerance", "error", "worst", "iterations", "NFE", "seconds by rows", "seconds"):
        table.add_column(name, justify="right")
    for trial in (tuning.sequential, *tuning.trials):
        table.add_row(
            trial.solver.name,
            str(trial.size),
            f"{trial.tolerance:.3g}",
            f"{trial.error:.1e}",
            f"{trial.worst:.1e}",
            f"{trial.iterations:.1f}",
            f"{trial.evaluations:.1f}",
            f"{trial.predicted(curve):.3g}",
            f"{trial.seconds:.3g}",
        )
    console.print(table)
    for name, reason in tuning.left_out.items():
        console.print(f"Left out: {name}: {reason}", markup=False)
    console.print(tuning.verdict())
    for devices, speedup, trial in tuning.promised():
        console.print(
            f"On {devices} times these devices, their exchange left out: {speedup:.2f} times as fast as sequential "
            f"sampling there, with {trial.solver.name}, window {trial.size}."
        )
