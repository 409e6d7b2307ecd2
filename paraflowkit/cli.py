"""The command line. Nothing that needs torch is imported before the command's input has been checked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from paraflowkit.errors import ParaflowkitError
from paraflowkit.scaffold import Kind

if TYPE_CHECKING:
    from paraflowkit.config import RunConfig
    from paraflowkit.fabric.outputs import Summary
    from paraflowkit.fabric.predict import Prediction

app = typer.Typer(
    help="Parallel-in-time sampling of diffusion and flow-matching models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

plugin_app = typer.Typer(no_args_is_help=True)
app.add_typer(plugin_app, name="plugin", help="Write a plugin of your own.")


def _fail(error: ParaflowkitError) -> NoReturn:
    typer.echo(str(error), err=True)
    raise typer.Exit(2)


@app.command()
def predict(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings over the file's, as section.key=value.", show_default=False)
    ] = None,
    config: Annotated[Path, typer.Option("--config", "-c", help="The run, a YAML file.")] = ...,  # pyright: ignore[reportArgumentType]
    compare: Annotated[
        bool | None, typer.Option("--compare/--no-compare", help="Also run the sequential sampler and report ratios.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder: what it finished is kept.")
    ] = False,
    save_trajectory: Annotated[
        bool | None, typer.Option("--save-trajectory", help="Also write all states, to start a later run from.")
    ] = None,
    warm_start: Annotated[
        Path | None, typer.Option("--warm-start", help="Start from this trajectory.safetensors of an earlier run.")
    ] = None,
) -> None:
    """Make the requested samples in parallel."""
    from paraflowkit.config import load

    changes = list(overrides or [])
    if compare is not None:
        changes.append(f"run.compare={str(compare).lower()}")
    if output is not None:
        changes.append(f"output.folder={json.dumps(str(output), ensure_ascii=False)}")
    if save_trajectory:
        changes.append("output.trajectory=true")
    if warm_start is not None:
        changes.append(f"run.warm_start={json.dumps(str(warm_start), ensure_ascii=False)}")
    from paraflowkit.fabric.launch import FAILED, first_process, launch, launched, mesh_sizes, report

    try:
        run = load(config, changes)
        if run.fabric.devices > 1 and not launched():
            mesh_sizes(run.fabric.devices, run.mesh.data, run.mesh.time)
            flag = ["--resume"] if resume else []
            if not launch(run.fabric.devices, ["predict", "--config", str(config), *flag, "--", *changes]):
                raise typer.Exit(1)
            return
        made = _predict_with_progress(run, resume)
    except ParaflowkitError as error:
        if report(str(error)):  # to the process that started this one, which says it once for all
            raise typer.Exit(2) from error
        _fail(error)
    except typer.Exit:
        raise
    except Exception as error:
        report(f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt:
        if launched():
            raise typer.Exit(130) from None
        typer.echo("Stopped. What was finished is kept: the same command with --resume makes the rest.", err=True)
        raise typer.Exit(130) from None
    if first_process():
        _print_summary(made)
    if made.summary.failed:
        if FAILED not in os.environ:
            raise typer.Exit(1)
        Path(os.environ[FAILED]).touch()  # to the agent, an exit status would be the fall of a process


def _predict_with_progress(run: RunConfig, resume: bool) -> Prediction:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from paraflowkit.fabric.launch import first_process
    from paraflowkit.requests import read_requests

    read_requests(run)  # a bad request file is found out before torch is loaded
    console = Console(stderr=True, quiet=not first_process())
    with console.status("Loading torch, diffusers and the network …"):
        from paraflowkit.fabric.predict import predict as run_predict
        from paraflowkit.solve import SweepInfo

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps, sweep {task.fields[sweep]}, {task.fields[nfe]} NFE"),
        TimeElapsedColumn(),
        console=console,
    )
    task = progress.add_task("sampling", total=1, sweep=0, nfe=0)

    def told(batch: int, batches: int, info: SweepInfo) -> None:
        progress.start()  # only now: what does not fit together was found out before, and is a sentence by itself
        progress.update(
            task,
            description=f"batch {batch + 1}/{batches}",
            total=info.steps,
            completed=info.fronts.double().mean().item(),
            sweep=info.sweep,
            nfe=int(info.stats.evaluations.sum()),
        )

    try:
        return run_predict(run, on_sweep=told, resume=resume)
    finally:
        if progress.live.is_started:
            progress.stop()


def _print_summary(made: Prediction) -> None:
    from rich.console import Console
    from rich.table import Table

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
    for message in sorted({row["message"] for row in made.rows if row["result"] != "converged"}):
        many = sum(row["message"] == message for row in made.rows)
        console.print(f"{many} of {s.samples} samples: {message}")
    if made.folder is not None:
        console.print(f"Written to {made.folder}")


def _figures(s: Summary) -> list[tuple[str, float, str]]:
    return [
        ("sequential network calls", s.iterations, "iterations"),
        ("network evaluations (guided pairs count once)", s.evaluations, "evaluations"),
        ("seconds, its share of the batch", s.seconds / s.samples, "seconds"),
    ]


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

    tested = json.loads((Path(__file__).parent / "pipelines" / "tested.json").read_text())
    found = [t for t in tested["pipelines"] if name is None or name.lower() in t["class"].lower()]
    if not found:
        _fail(
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
        _fail(error)


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
        _fail(error)


def main() -> None:
    """Entry point of the ``paraflowkit`` command."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        sys.exit(130)
