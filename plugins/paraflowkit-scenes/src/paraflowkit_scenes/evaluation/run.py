"""The measuring itself: cells that have no row yet, one after the other, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from paraflowkit.errors import ParaflowkitError
from paraflowkit.report.images import save_png
from paraflowkit.solution import relative_rmse

from paraflowkit_scenes.evaluation.cells import FEW, SOLVERS, Cell, Row, Rows, spread
from paraflowkit_scenes.evaluation.measures import DRAWN, Measures, drawn, levels
from paraflowkit_scenes.evaluation.pictures import Shown, comparison, grid
from paraflowkit_scenes.evaluation.sampling import Painter, Samples
from paraflowkit_scenes.scene import Scene

#: Captions of the grid.
GRID = 32


class Progress:
    """Lines with the share of the work that is done and the time left, within a cell one in ``every`` seconds."""

    def __init__(self, total: float, log: Callable[[str], None], every: float = 30.0) -> None:
        self.total, self.log, self.every = total, log, every
        self.done = 0.0
        self.began = self.last = time.monotonic()

    def tell(self, text: str, work: float, force: bool = False) -> None:
        """``work`` of what is open is done since the last :meth:`finish`."""
        now = time.monotonic()
        share = (self.done + work) / self.total
        if force or now - self.last > self.every:
            self.last = now
            left = (now - self.began) * (1 - share) / share if share else 0.0
            self.log(f"[{100 * share:3.0f} %, {duration(left)} left] {text}")

    def finish(self, text: str, work: float) -> None:
        """A cell is finished."""
        self.tell(text, work, force=True)
        self.done += work


def duration(seconds: float) -> str:
    """Such as 1 h 05 min, 12 min, 40 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{round(seconds)} s"


class Evaluation:
    """An evaluation in a folder.

    Args:
        rows: of the folder. painter: makes samples. scenes: held-out ones.
        measures: makes the instruments when the first is wanted. log: takes lines of progress.
    """

    def __init__(
        self,
        rows: Rows,
        painter: Painter,
        scenes: Sequence[Scene],
        measures: Callable[[], Measures],
        log: Callable[[str], None],
    ) -> None:
        self.rows, self.painter, self.scenes, self.log = rows, painter, scenes, log
        self._make = measures
        self._measures: Measures | None = None

    @property
    def measures(self) -> Measures:
        if self._measures is None:
            self.log("drawing the pictures that FID compares with")
            self._measures = self._make()
        return self._measures

    def measure(self, cells: Sequence[Cell]) -> None:
        """Bring the rows of ``cells`` and of the bounds for as many prompts; those that are there already stay."""
        for prompts in sorted({cell.prompts for cell in cells if cell.part != "exact"}):
            self._bounds(prompts)
        wanted = [cell for cell in cells if self.rows.find(cell.key) is None]
        if len(wanted) < len(cells):
            self.log(
                f"{len(cells) - len(wanted)} of {len(cells)} rows are in {self.rows.folder / 'rows.jsonl'} already"
            )
        progress = Progress(sum(cell.work for cell in wanted), self.log)
        for cell in wanted:
            self._measure(cell, progress)

    def _measure(self, cell: Cell, progress: Progress) -> None:
        # A reference that cannot be found is refused before the hours that the samples may take.
        plain = None if cell.solver == "sequential" else self._sequential(cell)
        made = self.painter.paint(cell, lambda share: progress.tell(cell.title, share * cell.work))
        images = self.painter.images(made.x)
        row: Row = {
            "iterations": float(made.iterations.double().mean()),
            "evaluations": float(made.evaluations.double().mean()),
            "failed": made.failed,
            **({} if cell.part == "exact" else self.measures(self._scenes(cell), images)),
        }
        if plain is not None:
            errors = relative_rmse(made.x, plain.x, self.painter.model.data_std)
            row |= {"rmse": float(errors.mean()), "worst_rmse": float(errors.max())}
            off = 127.5 * (levels(images) - levels(self.painter.images(plain.x))).abs().flatten(1).amax(1)
            row |= {"same_images": int((off < 0.5).sum()), "largest_level": round(float(off.max()))}
        name = self.rows.file(cell.key)
        made.save(self.rows.folder / name)
        row |= {"samples": name, "seconds": round(made.seconds, 2), **self.painter.machine()}
        self.rows.add(cell.key, row)
        right = "" if cell.part == "exact" else f", {100 * row['accuracy']['all']['right']:.1f} % right"
        error = "" if plain is None else f", worst relative RMSE {row['worst_rmse']:.1e}"
        progress.finish(f"{cell.title}: {row['iterations']:.1f} iterations{right}{error}", cell.work)

    def _sequential(self, cell: Cell) -> Samples:
        """The sequential samples of a cell's prompts."""
        plain = Cell("solvers", "sequential", cell.steps, cell.guidance, cell.of, cell.of)
        row = self.rows.find(plain.key)
        if row is None:
            raise ParaflowkitError(f"The sequential samples of '{cell.title}' are missing: measure them first.")
        return Samples.load(self.rows.folder / row["samples"]).of(cell.indices(len(self.scenes)))

    def _scenes(self, cell: Cell) -> list[Scene]:
        return [self.scenes[i] for i in cell.indices(len(self.scenes))]

    def _bounds(self, prompts: int) -> None:
        """What drawn pictures get for ``prompts`` captions, and what is left of that behind the autoencoder."""
        keys: dict[str, Row] = {
            name: {"part": "bounds", "solver": name, "prompts": prompts} for name in ("drawn", "autoencoder")
        }
        if all(self.rows.find(key) is not None for key in keys.values()):
            return
        scenes = [self.scenes[i] for i in spread(prompts, len(self.scenes))]
        pictures = drawn(scenes, len(scenes), DRAWN)
        for name, key in keys.items():
            images = pictures if name == "drawn" else self.painter.through_autoencoder(pictures)
            row = self.rows.add(key, {**self.measures(scenes, images), **self.painter.machine()})
            right = 100 * row["accuracy"]["all"]["right"]
            self.log(f"bounds: {name}, {prompts} pictures: {right:.1f} % right, FID {row['fid']:.2f}")

    def grid(self, cells: Sequence[Cell]) -> Path | None:
        """Draw ``grid.png`` at the guidance with the most captions right, the lowest of equals, if there is a row."""
        found = [(cell, row) for cell in cells if (row := self.rows.find(cell.key)) is not None]
        if not found:
            return None
        cell, row = max(found, key=lambda pair: (pair[1]["accuracy"]["all"]["right"], -pair[0].guidance))
        every = cell.indices(len(self.scenes))
        indices = [every[i] for i in spread(GRID, len(every))]
        shown = self._shown(Samples.load(self.rows.folder / row["samples"]).of(indices))
        right = sum(one.right for one in shown)
        title = (
            f"{len(shown)} held-out captions, guidance {cell.guidance:g}, {cell.steps} sequential Euler steps: "
            f"{right} pass the check"
        )
        path = self.rows.folder / "grid.png"
        save_png(grid(shown, title), path)
        return path

    def solvers(self, cells: Sequence[Cell]) -> Path | None:
        """Draw ``solvers.png`` for N = 50, or the first N that has rows, of the cells of part ``solvers``."""
        found = [(cell, row) for cell in cells if cell.part == "solvers" and (row := self.rows.find(cell.key))]
        steps = {cell.steps for cell, _ in found if cell.solver != "sequential"}
        if not steps:
            return None
        one = 50 if 50 in steps else min(steps)
        own = {cell.solver: (cell, row) for cell, row in found if cell.steps == one}
        cell = own["sequential"][0]
        every = cell.indices(len(self.scenes))
        indices = [every[i] for i in spread(FEW, len(every))]
        columns: dict[str, list[Shown]] = {}
        plain = None
        for name in (name for name in SOLVERS if name in own):
            made = Samples.load(self.rows.folder / own[name][1]["samples"]).of(indices)
            plain = made if plain is None else plain
            errors = relative_rmse(made.x, plain.x, self.painter.model.data_std)
            columns[name] = self._shown(made, None if made is plain else errors)
        path = self.rows.folder / "solvers.png"
        title = f"One noise, {len(columns)} samplers: N = {one}, guidance {cell.guidance:g}"
        save_png(comparison(columns, title), path)
        return path

    def _shown(self, made: Samples, errors: torch.Tensor | None = None) -> list[Shown]:
        scenes = [self.scenes[i] for i in made.indices.tolist()]
        images = levels(self.painter.images(made.x))
        verdicts = self.measures.verdicts(scenes, images)
        off: list[Any] = [None] * len(scenes) if errors is None else errors.tolist()
        cost = made.iterations.tolist()
        return [
            Shown(image, scene.caption, verdict.right, iterations, error)
            for image, scene, verdict, iterations, error in zip(images, scenes, verdicts, cost, off, strict=True)
        ]
