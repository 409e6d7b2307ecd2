"""The command ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from paraflowkit.cli.runs import launch_processes, said


def bench(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings over the file's, as run.section.key=value.", show_default=False),
    ] = None,
    config: Annotated[Path, typer.Option("--config", "-c", help="The bench, a YAML file.")] = ...,  # pyright: ignore[reportArgumentType]
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results; by default runs/bench/NAME.")
    ] = None,
    models: Annotated[
        Literal["shipped", "paper"], typer.Option(help="The file's own networks, or those of the paper.")
    ] = "shipped",
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that are in the folder already.")] = False,
) -> None:
    """Compare methods over a grid of runs: tables, curves and a report."""
    from paraflowkit.bench.config import load
    from paraflowkit.fabric.launch import first_process

    changes = list(overrides or [])
    with said("Stopped. What is finished is kept: --resume makes the rest, with the folder above as --output."):
        found = load(config, changes, models)
        folder = output or Path("runs/bench") / found.name
        words = ["--config", str(config), "--models", models, "--output", str(folder)]
        if launch_processes(
            found.spots[0].config, ["bench", *words, *(["--resume"] if resume else []), "--", *changes]
        ):
            return
        from rich.console import Console

        console = Console(stderr=True, quiet=not first_process(), soft_wrap=True, highlight=False)
        with console.status("Loading torch, diffusers and the network …"):
            from paraflowkit.bench.command import run
        made = run(found, folder, resume, console.print)
    if first_process():
        typer.echo(f"Written to {made.path}: report.html, table.md, table.csv, curves.png, rows.jsonl")
