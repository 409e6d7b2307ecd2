"""The commands ``predict`` and ``tune``, which run a file in one or several processes."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from paraflowkit.errors import ParaflowkitError

if TYPE_CHECKING:
    from paraflowkit.config import RunConfig
    from paraflowkit.fabric.predict import Prediction

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings over the file's, as section.key=value.", show_default=False)
]
Config = Annotated[Path, typer.Option("--config", "-c", help="The run, a YAML file.")]
_KEPT = "Stopped. What was finished is kept: the same command with --resume makes the rest."


def fail(error: ParaflowkitError) -> NoReturn:
    """End with the sentence of an error of the user's."""
    typer.echo(str(error), err=True)
    raise typer.Exit(2)


def predict(
    overrides: Overrides = None,
    config: Config = ...,  # pyright: ignore[reportArgumentType]
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
    from paraflowkit.fabric.launch import FAILED, first_process

    changes = list(overrides or [])
    if compare is not None:
        changes.append(f"run.compare={str(compare).lower()}")
    if output is not None:
        changes.append(f"output.folder={json.dumps(str(output), ensure_ascii=False)}")
    if save_trajectory:
        changes.append("output.trajectory=true")
    if warm_start is not None:
        changes.append(f"run.warm_start={json.dumps(str(warm_start), ensure_ascii=False)}")
    with said(_KEPT):
        run = load(config, changes)
        if launch_processes(
            run, ["predict", "--config", str(config), *(["--resume"] if resume else []), "--", *changes]
        ):
            return
        made = _predict_with_progress(run, resume)
    if first_process():
        from paraflowkit.cli.tables import print_summary

        print_summary(made)
    if made.summary.failed:
        if FAILED not in os.environ:
            raise typer.Exit(1)
        Path(os.environ[FAILED]).touch()  # to the agent, an exit status would be the fall of a process


def tune(
    overrides: Overrides = None,
    config: Config = ...,  # pyright: ignore[reportArgumentType]
    error: Annotated[
        float, typer.Option("--error", "-e", help="Wanted relative RMSE to the sequential samples, their mean.")
    ] = 1e-2,
    solver: Annotated[
        list[str] | None, typer.Option("--solver", "-s", help="Try this one only; may be given several times.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the run file with the fastest settings here.")
    ] = None,
) -> None:
    """Measure network calls on these devices and choose solver, window and tolerance."""
    from paraflowkit.config import dump, load
    from paraflowkit.fabric.launch import first_process
    from paraflowkit.fabric.tuning import check_wanted

    changes = list(overrides or [])
    with said("Stopped."):
        run = load(config, changes)
        check_wanted(error, solver or ())
        if output is not None and first_process():
            _probe(output)
        options = ["--error", str(error), *(word for name in solver or [] for word in ("--solver", name))]
        if output is not None:
            options += ["--output", str(output)]
        if launch_processes(run, ["tune", "--config", str(config), *options, "--", *changes]):
            return
        from rich.console import Console

        console = Console(stderr=True, quiet=not first_process())
        with console.status("Loading torch, diffusers and the network …") as status:
            from paraflowkit.fabric.tune import tune as run_tune

            found = run_tune(run, error=error, solvers=solver or (), on_trial=status.update)
        if first_process():
            from paraflowkit.cli.tables import print_tuning

            print_tuning(found)  # first: it took its time, and the file may not be written
            if output is not None:
                try:
                    output.write_text(dump(found.config))
                except OSError as failed:
                    raise _unwritable(output, failed) from failed
                typer.echo(f"Written to {output}")


def _probe(path: Path) -> None:
    """Find out that a file cannot be written before its contents are made, which takes minutes.

    Raises:
        ParaflowkitError: it cannot.
    """
    try:
        path.touch(exist_ok=False)
        path.unlink()
    except FileExistsError as error:
        raise ParaflowkitError(f"{path}: exists already: choose another --output, or remove it.") from error
    except OSError as error:
        if not path.absolute().parent.is_dir():
            raise ParaflowkitError(
                f"{path}: there is no folder {path.parent}: make it, or choose another --output."
            ) from error
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ParaflowkitError:
    return ParaflowkitError(f"{path}: cannot be written: {error.strerror or error}: choose another --output.")


@contextmanager
def said(stopped: str) -> Generator[None]:
    """Say a user's mistake in a sentence; in a process that another started, to that one, which says it once for all.

    Args:
        stopped: what is said after Ctrl-C.
    """
    from paraflowkit.fabric.launch import launched, report

    try:
        yield
    except ParaflowkitError as error:
        if report(str(error)):
            raise typer.Exit(2) from error
        fail(error)
    except typer.Exit:
        raise
    except Exception as error:
        report(f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt:
        if not launched():
            typer.echo(stopped, err=True)
        raise typer.Exit(130) from None


def launch_processes(run: RunConfig, arguments: Sequence[str]) -> bool:
    """Whether the command was run in several processes, and not in this one: its arguments say it all.

    Raises:
        typer.Exit: samples failed.
    """
    from paraflowkit.fabric.launch import launch, launched, mesh_sizes

    if run.fabric.devices == 1 or launched():
        return False
    mesh_sizes(run.fabric.devices, run.mesh.data, run.mesh.time, shard=run.mesh.shard)
    if not launch(run.fabric.devices, arguments):
        raise typer.Exit(1)
    return True


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
