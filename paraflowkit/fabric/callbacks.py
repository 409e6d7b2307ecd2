"""What a predict run tells while it goes on, in the manner of Lightning's callbacks, and the one that feeds loggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor

from paraflowkit.config import RunConfig
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.mesh import Mesh
from paraflowkit.requests import Request
from paraflowkit.solution import Solution
from paraflowkit.solve import SweepInfo

if TYPE_CHECKING:
    from paraflowkit.fabric.predict import Prediction


@dataclass(frozen=True)
class Run:
    """What is being made, and where.

    Attributes:
        config: resolved. fabric: launched. mesh: where this process sits. requests: all of them. batches: their number.
        folder: of the run, None if nothing is saved.
    """

    config: RunConfig
    fabric: Fabric
    mesh: Mesh
    requests: Sequence[Request]
    batches: int
    folder: Path | None


class Callback:
    """Methods that are called while a run goes on; one overrides those that one wants.

    Every process calls its own callbacks, with what it works on itself: look at ``run.fabric.is_global_zero`` before
    writing where others write too. An exception in a callback ends the run.
    """

    def on_predict_start(self, run: Run) -> None:
        """All pieces fit, and the folder is there; nothing is made yet."""

    def on_batch_start(self, run: Run, batch: int) -> None:
        """A batch, counted from 0, begins. Of a resumed run's batches, those that were finished have none."""

    def on_sweep_end(self, run: Run, batch: int, info: SweepInfo) -> None:
        """A sweep of the parallel solver ended; not of the sequential one that it may be compared with."""

    def on_solve_end(self, run: Run, batch: int, solution: Solution) -> None:
        """The parallel solver is done with a batch, of which nothing is written yet."""

    def on_request_end(self, run: Run, row: dict[str, Any], sample: Tensor) -> None:
        """A request is finished: its row as in ``results.jsonl``, its decoded sample ``(…)``; and written, if at all.

        Called by the first process of each data group.
        """

    def on_batch_end(self, run: Run, batch: int) -> None:
        """All requests of a batch are finished."""

    def on_predict_end(self, run: Run, prediction: Prediction) -> None:
        """All is made and written."""

    def on_exception(self, run: Run, error: BaseException) -> None:
        """The run ends before its end, Ctrl-C included; the exception goes on afterwards."""


class Log(Callback):
    """Figures of each sweep and each request for Fabric's loggers, such as ``CSVLogger`` and ``TensorBoardLogger``.

    Steps of ``sweep/…`` count all sweeps of the run, steps of ``request/…`` are the indices of the requests. Only the
    first process logs, so that of several data groups only its own sweeps are seen, but the requests of all.

    Args:
        loggers: to be fed.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers
        self._sweeps = 0
        self._told: set[int] = set()

    def on_sweep_end(self, run: Run, batch: int, info: SweepInfo) -> None:
        stats = info.stats
        figures = {
            "sweep/batch": float(batch),
            "sweep/front": float(info.fronts.double().mean()),
            "sweep/stride": float(stats.strides[-1].double().mean()),
            "sweep/evaluations": float(stats.evaluations.double().mean()),
            "sweep/seconds": stats.seconds,
            "sweep/model_seconds": stats.model_seconds,
            "sweep/gather_seconds": stats.gather_seconds,
        }
        self._log(run, figures, self._sweeps)
        self._sweeps += 1

    def on_request_end(self, run: Run, row: dict[str, Any], sample: Tensor) -> None:
        names = ("iterations", "evaluations", "rmse", "psnr")
        figures = {f"request/{name}": float(row[name]) for name in names if row.get(name) is not None}
        self._log(run, figures, row["index"])
        self._told.add(row["index"])

    def on_batch_end(self, run: Run, batch: int) -> None:
        self._each(run, lambda logger: logger.save())  # a run that is killed later has said so much

    def on_predict_end(self, run: Run, prediction: Prediction) -> None:
        for row, image in zip(prediction.rows, prediction.images, strict=True):
            if row["index"] not in self._told:  # those of other data groups, and of the run before
                self.on_request_end(run, row, image)
        self._finish(run, "success")

    def on_exception(self, run: Run, error: BaseException) -> None:
        with suppress(ParaflowkitError):  # a full disk, of which the first error tells
            self._finish(run, "failed")

    def _log(self, run: Run, figures: dict[str, float], step: int) -> None:
        self._each(run, lambda logger: logger.log_metrics(figures, step))

    def _finish(self, run: Run, status: str) -> None:
        self._each(run, lambda logger: logger.save())
        self._each(run, lambda logger: logger.finalize(status))

    def _each(self, run: Run, call: Callable[[Logger], object]) -> None:
        """Call every logger in the process that logs.

        Raises:
            ParaflowkitError: one of them cannot write.
        """
        if not run.fabric.is_global_zero:
            return
        for logger in self.loggers:
            try:
                call(logger)
            except OSError as error:
                raise ParaflowkitError(
                    f"{type(logger).__name__} cannot write to {logger.root_dir}: {error.strerror or error}. What was "
                    "finished before is kept: mend that, and go on with --resume."
                ) from error


def make_logger(name: str, folder: Path) -> Logger:
    """The logger that a run file names, in the run's folder.

    TensorBoard reads all files of ``logs`` as one. CSVLogger deletes those that it finds, so that a resumed run gets
    ``logs-2`` and so on; its figures of requests are those of the whole run.

    Raises:
        ParaflowkitError: it needs a package that is not installed.
    """
    kind = CSVLogger if name == "csv" else TensorBoardLogger
    version, number = "logs", 1
    while name == "csv" and (folder / version).exists():
        number += 1
        version = f"logs-{number}"
    try:
        return kind(root_dir=folder, name="", version=version)
    except ModuleNotFoundError as error:
        raise ParaflowkitError(
            "output.logger: tensorboard needs the package tensorboard: install it, or choose csv."
        ) from error
