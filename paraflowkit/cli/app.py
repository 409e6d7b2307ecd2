"""The commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from paraflowkit.cli.bench import bench
from paraflowkit.cli.reports import compare, report
from paraflowkit.cli.runs import fail, predict, tune
from paraflowkit.errors import ParaflowkitError
from paraflowkit.scaffold import Kind

app = typer.Typer(
    help="Parallel-in-time sampling of diffusion and flow-matching models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

plugin_app = typer.Typer(no_args_is_help=True)
app.add_typer(plugin_app, name="plugin", help="Write a plugin of your own.")


app.command()(predict)
app.command()(tune)
app.command()(bench)
app.command()(report)
app.command()(compare)


@app.command()
def schema() -> None:
    """Print the JSON schema of run files, over all installed plugins."""
    from paraflowkit.schema import schema as make_schema

    typer.echo(json.dumps(make_schema(), indent=2))


@app.command()
def plugins(
    check: Annotated[bool, typer.Option("--check", help="Import every plugin and report its status.")] = False,
) -> None:
    """List the installed models, steppers, solvers and windows."""
    from rich.console import Console
    from rich.table import Table

    from paraflowkit import registry

    table = Table()
    for title in ("kind", "name", "distribution", "version", *(["status"] if check else [])):
        table.add_column(title, overflow="fold")
    bad = 0
    if check:
        for status in registry.check():
            entry = status.entry
            ok = status.status == "ok"
            bad += not ok
            table.add_row(entry.kind, entry.name, entry.distribution, entry.version, status.status)
    else:
        for kind in registry.KINDS:
            for entry in registry.entries(kind):
                table.add_row(entry.kind, entry.name, entry.distribution, entry.version)
    Console().print(table)
    if bad:
        raise typer.Exit(1)


@app.command()
def pipelines(
    name: Annotated[str | None, typer.Argument(help="Only classes whose names hold this.", show_default=False)] = None,
) -> None:
    """List the pipelines of diffusers that were tested with paraflowkit.enable."""
    from rich.console import Console
    from rich.table import Table

    tested = json.loads((Path(__file__).parents[1] / "pipelines" / "tested.json").read_text())
    found = [t for t in tested["pipelines"] if name is None or name.lower() in t["class"].lower()]
    if not found:
        fail(
            ParaflowkitError(
                f"No tested pipeline's name holds {name!r}. Others may work too: paraflowkit.check(pipe, …) tells."
            )
        )
    table = Table()
    for title in ("pipeline", "family", "configurations", "parallel"):
        table.add_column(title, overflow="fold", no_wrap=title == "pipeline")
    for each in found:
        refused = "; ".join(reason.removeprefix(each["class"]).lstrip(": ") for reason in each["refused"])
        state = ("yes" if not refused else f"but for {refused}") if each["parallel"] else f"no: {refused}"
        table.add_row(each["class"], each["family"], str(each["configurations"]), state)
    console = Console()
    console.print(table)
    console.print(f"Tested with diffusers {tested['diffusers']}, tiny networks of random weights, on the CPU.")


@plugin_app.command("new", no_args_is_help=True)
def plugin_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in run files, such as my-solver.")],
    kind: Annotated[Kind, typer.Option(metavar="KIND", help="One of solver, stepper, model and window.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives paraflowkit-NAME.")] = Path("."),
) -> None:
    """Write an installable package: a working component, its settings, its conformance test and a README."""
    from paraflowkit.scaffold.package import write

    try:
        typer.echo(write(name, kind, output).next_steps())
    except ParaflowkitError as error:
        fail(error)


@app.command("train-digits")
def train_digits(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the three networks.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each generator.")] = 5000,
    classifier_steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the classifier.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of weights, batches, times and noise.")] = 0,
    accelerator: Annotated[str, typer.Option(help="Of Lightning Fabric.")] = "cpu",
) -> None:
    """Train the shipped digit networks and their judge again, and write their model cards."""
    try:
        from paraflowkit.fabric.train import train_all

        train_all(output, steps=steps, classifier_steps=classifier_steps, seed=seed, accelerator=accelerator)
    except ParaflowkitError as error:
        fail(error)


def main() -> None:
    """Entry point of the ``paraflowkit`` command."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        sys.exit(130)
