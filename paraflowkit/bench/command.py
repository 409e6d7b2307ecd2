"""A bench from its file to its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from paraflowkit.bench.config import BenchConfig
from paraflowkit.bench.folder import BenchFolder
from paraflowkit.bench.report import write_reports
from paraflowkit.bench.run import bench
from paraflowkit.bench.verdict import verdicts
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.pieces import make_fabric

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def run(config: BenchConfig, output: Path, resume: bool = False, log: Callable[[str], None] = print) -> BenchFolder:
    """Measure what is not in the folder yet, and write tables, curves and report.

    Args:
        config: see :func:`paraflowkit.bench.config.load`. output: the folder; one that is taken gets a number appended.
        resume: go on with the one that is there. log: takes lines of progress.

    Raises:
        ParaflowkitError: the folder cannot be written, a model not loaded, or a process was lost.
    """
    fabric = make_fabric(config.spots[0].config)
    folder = _folder(fabric, output, resume)
    if fabric.is_global_zero:
        log(f"Rows go to {folder.path}")
    bench(config, fabric, folder, log)
    if fabric.is_global_zero:
        write_reports(folder)
        for sentence in verdicts(folder):
            log(sentence)
    fabric.barrier()
    return folder


def _folder(fabric: Fabric, output: Path, resume: bool) -> BenchFolder:
    """The folder, made by the first process."""
    made: BenchFolder | str = "the first process could not make the folder"
    if fabric.is_global_zero:
        try:
            made = BenchFolder.make(output, resume)
        except ParaflowkitError as error:
            made = str(error)
    made = fabric.broadcast(made)
    if isinstance(made, str):
        raise ParaflowkitError(made)
    return made
