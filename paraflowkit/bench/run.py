"""The bench itself: rows that are not there yet, one after the other, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from paraflowkit.bench.config import HOW, BenchConfig
from paraflowkit.bench.folder import BenchFolder, Row, identity
from paraflowkit.bench.jobs import Job, jobs
from paraflowkit.bench.machine import describe
from paraflowkit.bench.progress import Progress, every
from paraflowkit.bench.search import Found, Point, fewest, loosest
from paraflowkit.bench.solves import EQUATION, Made, Refused, Solver, equation, middle
from paraflowkit.config import RunConfig, to_data
from paraflowkit.fabric.mesh import check_strategy
from paraflowkit.fabric.outputs import is_image
from paraflowkit.fabric.watch import Watch
from paraflowkit.metrics.instruments import Instruments
from paraflowkit.report.images import png_bytes, to_grid
from paraflowkit.requests import read_requests

if TYPE_CHECKING:
    from lightning.fabric import Fabric

#: Samples of each row that are kept as a picture.
SHOWN = 8
#: Of sequential samples, what is kept for later rows.
KEPT = ("x", "iterations", "evaluations", "fine")


def bench(config: BenchConfig, fabric: Fabric, folder: BenchFolder, log: Callable[[str], None] = print) -> list[Row]:
    """Measure what is not in the folder yet.

    Args:
        config: see :func:`paraflowkit.bench.config.load`. fabric: launched. folder: receives the rows.
        log: takes lines of progress, of the first process alone.

    Returns:
        All rows of the plan, in its order.

    Raises:
        ParaflowkitError: a model that cannot be loaded, or processes that were lost.
    """
    check_strategy(fabric)
    with Watch(fabric):
        return _Bench(config, fabric, folder, log if fabric.is_global_zero else _quiet)()


class _Bench:
    def __init__(self, config: BenchConfig, fabric: Fabric, folder: BenchFolder, log: Callable[[str], None]) -> None:
        self.config, self.fabric, self.folder, self.log = config, fabric, folder, log
        self.solver = Solver(fabric)
        self.jobs = jobs(config)
        self.settings = config.settings
        self.starts: dict[tuple[str, float | None], float] = {}  # tolerances that a method needed elsewhere
        self._reference: tuple[str, Tensor, Tensor | None] | None = None
        self._instruments: Instruments | None = None

    def __call__(self) -> list[Row]:
        groups = self._groups()
        # What there is was read by each process for itself; the first one's decides.
        known: dict[str, Row] = self.fabric.broadcast(self.folder.rows)
        # What was refused may not be any more, on other devices for instance.
        known = self.folder.rows = {key: row for key, row in known.items() if "refused" not in row}
        how = [self.settings.timing.model_dump(), describe(self.fabric)]
        clocked = {mark: identity(["time", mark, [j.key for j in own], how]) for mark, own in groups.items()}
        if self.fabric.is_global_zero:
            self.folder.describe(self._plan(clocked))
        open_jobs = [job for job in self.jobs if job.key not in known]
        if len(open_jobs) < len(self.jobs):
            self.log(f"{len(self.jobs) - len(open_jobs)} of {len(self.jobs)} rows are in {self.folder.path} already")
        total = sum(job.work for job in open_jobs)
        unclocked = [own for mark, own in groups.items() if clocked[mark] not in known]
        progress = Progress(total + sum(map(self._clock_work, unclocked)), self.log)
        for mark, own in groups.items():
            for job in own:
                if job.key not in self.folder.rows:
                    self._add(job, progress)
            if self.settings.timing.repetitions and clocked[mark] not in self.folder.rows:
                self._clock(clocked[mark], own, progress)
        progress.finish(progress.total - progress.done)
        return [self.folder.rows[job.key] for job in self.jobs]

    def _groups(self) -> dict[str, list[Job]]:
        """Jobs with the same sequential samples."""
        groups: dict[str, list[Job]] = {}
        for job in self.jobs:
            groups.setdefault(self._mark(job), []).append(job)
        return groups

    def _mark(self, job: Job) -> str:
        return identity(equation(job.plain))

    def _plan(self, clocked: dict[str, str]) -> dict[str, Any]:
        settings = self.settings.model_dump(mode="json")
        return {
            **{name: settings[name] for name in ("title", "about", "axes", "errors", "timing", "metrics", "paper")},
            "name": self.config.name,
            "models": self.config.models,
            "view": self.config.view,
            "methods": list(dict.fromkeys(spot.method for spot in self.config.spots)),
            "rows": [job.key for job in self.jobs],
            "references": {job.key: self._mark(job) for job in self.jobs},
            "clocked": list(clocked.values()),
            "machine": describe(self.fabric),
            "file": self.config.file,
        }

    def _add(self, job: Job, progress: Progress) -> None:
        title = job.title
        progress.tell(title)
        row: Row = {"key": job.key, "kind": job.kind, "method": job.spot.method, "at": job.spot.at}
        row |= {"wanted": job.wanted, "sequential": job.kind == "given" and job.spot.sequential}
        told = every(lambda share: progress.tell(title, share * job.work))
        try:
            row |= self._measure(job, told)
        except Refused as refused:
            row["refused"] = str(refused)
        row = self.fabric.broadcast(row)
        if self.fabric.is_global_zero:
            self.folder.add(row)
        self.folder.rows[job.key] = row
        progress.finish(job.work)

    def _measure(self, job: Job, told: Callable[[float], None]) -> Row:
        config = job.spot.config
        devices, here = config.fabric.devices, self.fabric.world_size
        if devices != here:
            raise Refused(
                f"it wants {devices} device(s), and this bench runs on {here}: axes.fabric.devices=[{devices}]"
            )
        plain = job.plain
        std = self.solver.model(plain).data_std
        if job.kind == "given" and job.spot.sequential:
            made = self._sequential(plain, told)
            return self._row(job, made, made.point(None, std), None)
        reference, shown = self._referred(plain)
        if job.kind == "given":
            made = self.solver.make(config, told)
            return self._row(job, made, made.point(reference, std), shown)
        found, made, curve = self._search(job, reference, std)
        setting = {"tolerance": found.setting} if job.kind == "error" else {"steps": int(found.setting)}
        points = [{"setting": s, **p.to_dict()} for s, p in sorted(curve.items())]
        return {**self._row(job, made, found.point, shown), **setting, "met": found.met, "curve": points}

    def _search(self, job: Job, reference: Tensor, std: float) -> tuple[Found, Made, dict[float, Point]]:
        """The loosest setting, the samples with it, and all that was tried."""
        assert job.wanted is not None
        kept: dict[float, Made] = {}

        def run(setting: float) -> Point:
            made = self.solver.make(job.with_setting(setting), lambda share: None, remembered=True)
            kept[setting] = made
            return self.fabric.broadcast(made.point(reference, std))

        tried: dict[float, Point] = {}
        if job.kind == "fewer":
            counts: dict[int, Point] = {}
            found = fewest(run, counts, job.wanted, job.plain.grid.steps)
            tried = {float(count): point for count, point in counts.items()}
        else:
            first = max(self.settings.errors)
            usual = getattr(job.spot.config.solver.settings, "tolerance", 0.0) or job.wanted
            start = self.starts.get((job.spot.method, job.wanted), usual * job.wanted / first)
            found = loosest(run, tried, job.wanted, start)
            self.starts[job.spot.method, job.wanted] = found.setting or start
        if found.setting not in kept:
            raise Refused("none of the tolerances that were tried is allowed")
        return found, kept[found.setting], tried

    def _row(self, job: Job, made: Made, point: Point, shown: Tensor | None) -> Row:
        row: Row = {**point.to_dict(), "failed": made.failed, "samples": len(made.x)}
        if job.kind == "given" and hasattr(job.spot.config.solver.settings, "tolerance"):
            row["tolerance"] = job.spot.config.solver.settings.tolerance  # pyright: ignore[reportAttributeAccessIssue]
        images = self.solver.images(job.spot.config, made.x)
        if not is_image(images[0]):
            return row
        instruments = self._instruments = self._instruments or Instruments.build(
            self.settings.metrics, self.fabric.device, self.log
        )
        row |= instruments.measure(images, read_requests(job.spot.config), shown)
        row["missing"] = instruments.missing
        if self.fabric.is_global_zero:
            scale = max(1, 64 // images.shape[-1])
            picture = png_bytes(to_grid(images[:SHOWN], columns=SHOWN, upscale=scale))
            (self.folder.path / "samples" / f"{job.key}.png").write_bytes(picture)
        return row

    def _referred(self, plain: RunConfig) -> tuple[Tensor, Tensor | None]:
        """The sequential samples of an equation and what they stand for."""
        mark = identity(equation(plain))
        if self._reference is None or self._reference[0] != mark:
            self._sequential(plain, lambda share: None)
        assert self._reference is not None
        return self._reference[1], self._reference[2]

    def _sequential(self, plain: RunConfig, told: Callable[[float], None]) -> Made:
        """Make or load the sequential samples, which are remembered."""
        mark = identity(equation(plain))
        kept = self.fabric.broadcast(self.folder.load(mark) if self.fabric.is_global_zero else None)
        if kept is None:
            made = self.solver.make(plain, told)
            if self.fabric.is_global_zero:
                self.folder.save(mark, {name: getattr(made, name) for name in KEPT})
        else:
            made = Made(**kept)
        if made.failed:
            raise Refused(f"the sequential sampler itself fails for {made.failed} of {len(made.x)} samples")
        images = self.solver.images(plain, made.x)
        self._reference = (mark, made.x, images if is_image(images[0]) else None)
        return made

    def _clock(self, key: str, own: list[Job], progress: Progress) -> None:
        """Time all rows of an equation in turn."""
        timing = self.settings.timing
        found = [(job, row) for job in own if "refused" not in (row := self.folder.rows[job.key])]
        configs = [
            job.with_setting(row["steps" if job.kind == "fewer" else "tolerance"]) if job.wanted else job.spot.config
            for job, row in found
        ]
        # Two rows of equal settings are one solve.
        same = [identity([to_data(each)[name] for name in (*EQUATION, *HOW)]) for each in configs]
        marks = list(dict.fromkeys(same))
        configs = [configs[same.index(mark)] for mark in marks]
        title = f"wall clock of {len(configs)} solves, {timing.repetitions} times in turn"
        work = self._clock_work(own)
        told = every(lambda share: progress.tell(title, share * work))
        try:
            seconds = self.solver.clock(configs, timing.samples, timing.repetitions, told)
        except Refused as refused:
            self.log(f"no wall clock: {refused}")
            return
        times = {job.key: seconds[marks.index(mark)] for (job, _), mark in zip(found, same, strict=True)}
        plain = next((middle(times[job.key]) for job, _ in found if job.kind == "given" and job.spot.sequential), None)
        row: Row = {"key": key, "kind": "time", "samples": timing.samples, "machine": describe(self.fabric)}
        row["seconds"] = {name: middle(each) for name, each in times.items()}
        row["all"], row["sequential"] = times, plain
        row = self.fabric.broadcast(row)
        if self.fabric.is_global_zero:
            self.folder.add(row)
        self.folder.rows[key] = row
        progress.finish(work)

    def _clock_work(self, own: list[Job]) -> float:
        """About how many network rows it takes to time these, in units of :attr:`Job.work`."""
        timing = self.settings.timing
        # Calls of few rows take longer, a row.
        return 3 * timing.repetitions * timing.samples * sum(job.spot.config.grid.steps for job in own)


def _quiet(line: str) -> None:
    """For processes that do not talk."""
