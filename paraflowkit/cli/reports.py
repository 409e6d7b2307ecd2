"""The commands ``report`` and ``compare``, which read the folders of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paraflowkit.cli.runs import fail
from paraflowkit.errors import ParaflowkitError

if TYPE_CHECKING:
    from paraflowkit.report.compare import Comparison

#: Rows of the terminal's table.
_ROWS = 10


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)],
) -> None:
    """Write a run's report.html again, from the files in its folder."""
    try:
        for name in _rebuilder(run)(run):
            typer.echo(f"Written: {run / name}")
    except ParaflowkitError as error:
        fail(error)


def _run_report(folder: Path) -> list[str]:
    from paraflowkit.report.files import write_files
    from paraflowkit.report.run import report_files

    files = report_files(folder)
    write_files(folder, files)
    return list(files)


def _bench_report(folder: Path) -> list[str]:
    from paraflowkit.bench.folder import BenchFolder
    from paraflowkit.bench.report import write_reports

    try:
        return [write_reports(BenchFolder.open(folder)).name]
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise ParaflowkitError(
            f"{folder}: its files are damaged ({type(error).__name__}: {error}): run the bench again with --resume."
        ) from error


#: What rebuilds a folder's report and returns the names of what it wrote, by a file that such a folder holds.
_REBUILDERS: dict[str, Callable[[Path], list[str]]] = {"results.jsonl": _run_report, "bench.json": _bench_report}


def _rebuilder(folder: Path) -> Callable[[Path], list[str]]:
    """Raises ParaflowkitError for what is no folder, or none of ours."""
    if not folder.is_dir():
        reason = "is a file: give the folder of a run" if folder.exists() else "there is no such folder"
        raise ParaflowkitError(f"{folder}: {reason}.")
    for name, rebuild in _REBUILDERS.items():
        if (folder / name).is_file():
            return rebuild
    raise ParaflowkitError(f"{folder}: holds no run: give a folder that 'paraflowkit predict' or 'bench' has written.")


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another one.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of compare.html and compare.png; A-vs-B beside B by default."),
    ] = None,
) -> None:
    """Are two runs' samples the same? Images side by side, errors, and what differs in the settings."""
    from rich.console import Console

    try:
        with Console(stderr=True).status("Comparing …"):
            from paraflowkit.report.compare import compare as compare_runs
            from paraflowkit.report.compare_page import compare_files
            from paraflowkit.report.files import write_files

            found = compare_runs(first, second)
            beside = second.resolve().parent / f"{found.a.name}-vs-{found.b.name}"
            folder = output or Path(_near(beside))
            files = compare_files(found)
            write_files(folder, files)
    except ParaflowkitError as error:
        fail(error)
    _print(found)
    typer.echo(f"Written to {folder}: {', '.join(files)}")


def _near(path: Path) -> Path:
    """A path from here, if that is shorter."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from paraflowkit.report.compare_page import figures, matched

    console = Console(highlight=False)
    title = f"the {_ROWS} least alike of {len(found.pairs)}" if len(found.pairs) > _ROWS else None
    table = Table(title=title)
    table.add_column("sample", overflow="fold")
    for name in ("relative RMSE", "largest", "PSNR, dB", "SSIM"):
        table.add_column(name, justify="right")
    for pair in found.worst[:_ROWS]:
        table.add_row(Text(pair.name.removeprefix("sample ")), *(cell or "–" for cell in figures(pair)))
    console.print(table)
    console.print(matched(found))
    console.print(Text(found.verdict))
