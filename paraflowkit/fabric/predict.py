"""The predict loop: requests in batches through a solver, with files and figures at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric

from paraflowkit.config import RunConfig
from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.callbacks import Callback, Log, Run, make_logger
from paraflowkit.fabric.folder import RunFolder, check_same_everywhere, open_folder, write
from paraflowkit.fabric.mesh import Mesh, check_strategy
from paraflowkit.fabric.metered import metered_solve
from paraflowkit.fabric.outputs import Summary, sample_rows
from paraflowkit.fabric.pace import Pace
from paraflowkit.fabric.part import Part
from paraflowkit.fabric.pieces import (
    make_fabric,
    sequential_pair,
    warm_up,
)
from paraflowkit.fabric.record import Record
from paraflowkit.fabric.setup import Setup
from paraflowkit.fabric.watch import Watch
from paraflowkit.requests import Request, read_requests
from paraflowkit.solve import SweepInfo
from paraflowkit.trajectory import load_trajectory, trajectory_bytes

#: Called after each sweep with the batch's number, the number of batches and what the solver tells.
SweepCallback = Callable[[int, int, SweepInfo], None]


@dataclass(frozen=True)
class Prediction:
    """What a predict run made.

    Attributes:
        samples: ``(n, *shape)`` on the CPU, in the order of the requests. images: what they stand for: decoded latents,
            or the samples themselves where there is nothing to decode or ``output.images`` is off. rows: a dictionary a
            sample, as in ``results.jsonl``. summary: totals and, with ``compare``, the ratios. folder: where the
            files are.
    """

    samples: torch.Tensor
    images: torch.Tensor
    rows: list[dict[str, Any]]
    summary: Summary
    folder: Path | None


def predict(
    config: RunConfig,
    fabric: Fabric | None = None,
    *,
    model: VelocityModel | None = None,
    on_sweep: SweepCallback | None = None,
    callbacks: Sequence[Callback] = (),
    save: bool = True,
    resume: bool = False,
) -> Prediction:
    """Make every requested sample.

    Args:
        config: see :func:`paraflowkit.config.load`. fabric: launched by the caller, or None to make the configured one.
            Loggers that it has are fed.
        model: used in place of the configured one; it is moved and converted in place, as Fabric does.
        on_sweep: called after each sweep of the parallel solver, by the first process. callbacks: see
            :class:`~paraflowkit.fabric.callbacks.Callback`.
        save: write the run folder (images, grid, results, configuration, plot); otherwise nothing touches the disk.
        resume: go on with the run in the folder, if there is one: what it finished is kept.

    Returns:
        A :class:`Prediction`.

    Raises:
        ParaflowkitError: pieces that do not fit each other or the requests, processes that were given other settings,
            or one that was lost, in one sentence.
    """
    requests = read_requests(config)
    fabric = fabric or make_fabric(config)
    check_strategy(fabric)
    with Watch(fabric):
        check_same_everywhere(fabric, config, requests)
        mesh = Mesh.of(fabric)  # only now: processes that were to make different ones would wait for ever
        setup = Setup.build(config, requests, fabric, mesh, model)
        return _Loop(setup)(on_sweep, callbacks, save, resume)


class _Loop:
    """:func:`predict` in processes that agree on what to do.

    Raises:
        ParaflowkitError: when it is made, if pieces do not fit each other or the requests.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.config, self.fabric, self.mesh = setup.config, setup.fabric, setup.mesh
        config, pieces = setup.config, setup.pieces
        if setup.mesh.time * setup.mesh.tensor > 1 and config.window.name == "fit":
            raise ParaflowkitError(
                "window fit measures the memory of one device: with several that share a call, choose sliding."
            )
        section = f"solver {config.solver.name}"
        try:
            pieces.solver.init(setup.first)
            section = f"window {config.window.name}"
            self.pair = (pieces.solver, pieces.window.fit(setup.first, config.run.max_rows))
        except ValueError as error:
            raise ParaflowkitError(f"{section}: {error}") from error
        self.warm = None
        if config.run.warm_start is not None:
            shape = pieces.model.shape
            count = len(setup.requests)
            self.warm = load_trajectory(Path(config.run.warm_start), setup.first.nodes, count, shape)
        self.reference = sequential_pair() if config.run.compare else None

    def __call__(
        self, on_sweep: SweepCallback | None, callbacks: Sequence[Callback], save: bool, resume: bool
    ) -> Prediction:
        config, fabric = self.config, self.fabric
        folder, finished = _folder(config, self.setup.requests, fabric, resume) if save else (None, False)
        if folder is not None and finished:
            read: Any = fabric.broadcast(folder.read() if fabric.is_global_zero else None)
            samples, rows, summary = read
            return Prediction(samples, self._decode(samples.to(fabric.device)).cpu(), rows, summary, folder.path)
        calls = [*callbacks, *([_OnSweep(on_sweep)] if on_sweep is not None else [])]
        loggers = list(fabric.loggers)
        if config.output.logger is not None and folder is not None:
            loggers.append(make_logger(config.output.logger, folder.path))
        calls += [Log(loggers)] if loggers else []
        if config.output.report and folder is not None:
            calls.append(Record(self._decode if config.output.images else None))
        if not (config.run.compare or config.fabric.compile or config.solver.name == "sequential"):
            calls.append(Pace(self.setup.first))  # whose call would have to be compiled; and compare tells by itself
        path = None if folder is None else folder.path
        run = Run(config, fabric, self.mesh, self.setup.requests, len(self.setup.batches), path)
        try:
            for call in calls:
                call.on_predict_start(run)
            prediction = self._make_all(run, folder, calls, resume)
            for call in calls:
                call.on_predict_end(run, prediction)
        except BaseException as error:
            for call in calls:
                call.on_exception(run, error)
            raise
        finally:
            if folder is not None:
                folder.close()
        return prediction

    def _make_all(self, run: Run, folder: RunFolder | None, calls: Sequence[Callback], resume: bool) -> Prediction:
        fabric = self.fabric
        kept = fabric.broadcast(folder.load() if folder is not None and resume and fabric.is_global_zero else {})
        made: _Made = {number: (Part.from_bytes(data), None) for number, data in kept.items()}
        todo = self.mesh.mine([number for number in range(len(self.setup.batches)) if number not in made])
        warm = 0.0
        if self.reference is not None and todo:
            warm = warm_up(self.setup.first, run.config.run.max_rows)
        for number in todo:
            for call in calls:
                call.on_batch_start(run, number)
            part, shown = made[number] = self._batch(run, number, calls)
            if number == todo[0] and part.sequential:
                part.sequential["compile_seconds"] += warm
            if self.mesh.leads:
                if folder is not None:
                    folder.add(number, part, shown)
                    if fabric.is_global_zero:
                        folder.tell()
                for call in calls:
                    for row, image in zip(part.rows, shown, strict=True):
                        call.on_request_end(run, row, image)
            for call in calls:
                call.on_batch_end(run, number)
        return self._result(_exchange(made, self.mesh), folder)

    def _batch(self, run: Run, number: int, calls: Sequence[Callback]) -> tuple[Part, torch.Tensor]:
        """Solve a batch: its part, and its decoded samples on the CPU."""
        config, batch, at = self.config, self.setup.batches[number], self.config.run.batch * number
        problem = self.setup.first if number == 0 else self.setup.make(batch)
        plain = metered_solve(config, self.reference, problem, max_sweeps=None) if self.reference is not None else None

        def told(info: SweepInfo) -> None:
            for call in calls:
                call.on_sweep_end(run, number, info)

        guess = None if self.warm is None else self.warm[at : at + len(batch)]
        keep = config.output.trajectory
        solution = metered_solve(config, self.pair, problem, config.run.max_sweeps, told, keep, guess)
        for call in calls:
            call.on_solve_end(run, number, solution)
        shown = self._decode(solution.x)
        theirs = None if plain is None else self._decode(plain.x)
        rows = sample_rows(at, batch, solution, plain, self.setup.pieces.model.data_std, (shown, theirs))
        return Part.of(rows, solution, plain), shown.cpu()

    def _decode(self, x: torch.Tensor) -> torch.Tensor:
        """What samples stand for; the samples themselves where no images are wanted."""
        return self.setup.pieces.model.decode(x) if self.config.output.images else x

    def _result(self, made: _Made, folder: RunFolder | None) -> Prediction:
        """All batches together, and in the folder what is made of all."""
        parts = [made[number][0] for number in range(len(self.setup.batches))]
        pictures = [made[number][1] for number in range(len(self.setup.batches))]
        summary = Summary.start(self.setup.pieces.model, self.config, self.fabric.device)
        for part in parts:
            summary.add(part)
        done = torch.cat([part.samples for part in parts])
        seen = torch.cat(
            [
                self._decode(part.samples.to(self.fabric.device)).cpu() if picture is None else picture
                for part, picture in zip(parts, pictures, strict=True)
            ]
        )
        if folder is not None and self.fabric.is_global_zero:
            if self.config.output.trajectory:
                whole = torch.cat([part.trajectory for part in parts if part.trajectory is not None])
                write(folder.path / "trajectory.safetensors", trajectory_bytes(whole, self.setup.first.nodes))
            folder.finish(done, seen, summary, self.setup.first.steps, self.pair[0].config.tolerance)
            folder.clear()
        self.fabric.barrier()
        rows = [row for part in parts for row in part.rows]
        return Prediction(done, seen, rows, summary, folder.path if folder is not None else None)


class _OnSweep(Callback):
    """A plain function as a callback of the first process."""

    def __init__(self, function: SweepCallback) -> None:
        self.function = function

    def on_sweep_end(self, run: Run, batch: int, info: SweepInfo) -> None:
        if run.fabric.is_global_zero:
            self.function(batch, run.batches, info)


_Made = dict[int, tuple[Part, "torch.Tensor | None"]]


def _folder(config: RunConfig, requests: Sequence[Request], fabric: Fabric, resume: bool) -> tuple[RunFolder, bool]:
    """The run's folder, made by the first process, and whether the run in it has come to its end.

    What the first process cannot do, none goes on without.
    """
    said: tuple[str, bool, bool] = ("", False, True)
    folder = None
    if fabric.is_global_zero:
        try:
            folder = open_folder(config, requests, resume)
            said = (str(folder.path), resume and folder.finished, True)
        except ParaflowkitError as error:
            said = (str(error), False, False)
    text, finished, fine = fabric.broadcast(said)
    if not fine:
        raise ParaflowkitError(text)
    return folder or RunFolder(Path(text), config), finished  # the first process's holds the lock


def _exchange(made: _Made, mesh: Mesh) -> _Made:
    """The batches of all data groups, on every rank."""
    if mesh.data == 1:
        return made
    mine = {number: (part.to_bytes(), shown) for number, (part, shown) in made.items()} if mesh.leads else {}
    everyone: list[dict[int, tuple[bytes, torch.Tensor | None]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return {number: (Part.from_bytes(data), shown) for one in everyone for number, (data, shown) in one.items()}
