"""The folder of a predict run: nothing that was finished is lost, whenever the run is ended, and nothing is half there.

A finished batch is one file in ``parts``, written under another name and then renamed. When all are there, results,
samples, grid, plot, report and, as the last, the summary are put together from them, and the parts go.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from paraflowkit.config import RunConfig, dump
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.lock import Lock, holder
from paraflowkit.fabric.manifest import differences, is_free, make_manifest
from paraflowkit.fabric.mesh import Mesh
from paraflowkit.fabric.outputs import Summary, is_image
from paraflowkit.fabric.part import Part
from paraflowkit.fabric.shard import is_sharded
from paraflowkit.report.images import png_bytes, to_grid, to_image
from paraflowkit.report.plot import convergence_png
from paraflowkit.report.run import report_files
from paraflowkit.requests import Request


def write(path: Path, data: bytes | str) -> None:
    """Write a file, whole or not at all.

    Raises:
        ParaflowkitError: it cannot be written; what was there is still there.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ParaflowkitError(
            f"{path}: cannot be written: {error.strerror or error}. What was finished before is kept: mend that, and "
            "go on with --resume."
        ) from error


class RunFolder:
    """The folder of a run.

    Args:
        path: of the folder, as :func:`open_folder` made it. config: of the run, resolved. lock: that keeps other
            runs out, None in processes that did not open the folder.
    """

    def __init__(self, path: Path, config: RunConfig, lock: Lock | None = None) -> None:
        self.path, self.config = path, config
        self._lock = lock
        self._rows: dict[int, list[dict[str, Any]]] = {}

    def close(self) -> None:
        """Let another run go on here: this one has ended, finished or not."""
        if self._lock is not None:
            self._lock.release()

    @property
    def finished(self) -> bool:
        """Whether the run that it holds has come to its end."""
        return (self.path / "summary.json").exists()

    @property
    def parts(self) -> dict[int, Path]:
        """Files of the finished batches by their numbers."""
        found = (self.path / "parts").glob("[0-9]*.safetensors")
        return {int(path.stem): path for path in sorted(found)}

    def load(self) -> dict[int, bytes]:
        """The finished batches, those that can be read."""
        made: dict[int, bytes] = {}
        for number, path in self.parts.items():
            data = path.read_bytes()
            try:
                Part.from_bytes(data)
            except (SafetensorError, ValueError, KeyError, TypeError):
                continue  # damaged: it is made again
            made[number] = data
        return made

    def read(self) -> tuple[Tensor, list[dict[str, Any]], Summary]:
        """Samples, rows and summary of a finished run.

        Raises:
            ParaflowkitError: its files are gone.
        """
        try:
            samples = load_file(self.path / "samples.safetensors")["samples"]
            rows = [json.loads(line) for line in (self.path / "results.jsonl").read_text().splitlines()]
            summary = Summary.read(self.path / "summary.json")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ParaflowkitError(
                f"{self.path}: its run is finished, but its files cannot be read ({error})."
            ) from error
        self.clear()  # which a process that was killed may not have come to
        return samples, rows, summary

    def add(self, number: int, part: Part, shown: Tensor) -> None:
        """Write a batch: images of decoded samples ``(n, …)``, then the part that says that they are there.

        Raises:
            ParaflowkitError: the disk is full, or the like.
        """
        for row, image in zip(part.rows, shown, strict=True):
            if self.config.output.images and is_image(image):
                row["image"] = f"{row['index']:04d}.png"
                write(self.path / row["image"], png_bytes(to_image(image, self.config.output.upscale)))
        write(self.path / "parts" / f"{number:06d}.safetensors", part.to_bytes())

    def tell(self) -> None:
        """Bring ``results.jsonl`` up to date with the parts; one process does."""
        for number, path in self.parts.items():
            if number not in self._rows:
                try:
                    with safe_open(path, "pt") as held:
                        self._rows[number] = json.loads(held.metadata()["rows"])
                except (OSError, SafetensorError):  # another process's, on a disk that shows it late
                    continue
        rows = [row for number in sorted(self._rows) for row in self._rows[number]]
        write(self.path / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def finish(self, samples: Tensor, shown: Tensor, summary: Summary, steps: int, tolerance: float) -> None:
        """Write everything that is made of all samples; the summary last.

        Args:
            samples, shown: all of them, raw and decoded. steps, tolerance: of the solves, for the plot.

        Raises:
            ParaflowkitError: as in :meth:`add`.
        """
        self.tell()
        out = self.config.output
        if out.images and is_image(shown[0]):
            write(self.path / "grid.png", png_bytes(to_grid(shown, out.columns, out.upscale)))
        write(self.path / "samples.safetensors", save({"samples": samples.contiguous()}))
        if out.plot:
            title = f"{self.config.solver.name}, {steps} steps, {summary.samples} samples"
            write(self.path / "convergence.png", convergence_png(summary.stats, steps, tolerance, title))
        for name, data in (report_files(self.path, summary.to_dict()) if out.report else {}).items():
            write(self.path / name, data)
        write(self.path / "summary.json", json.dumps(summary.to_dict(), indent=2) + "\n")

    def clear(self) -> None:
        """Remove the parts of a finished run, and what processes that were killed left of half-written files."""
        self.close()  # the lock lies among the parts, and network file systems keep files that are open
        shutil.rmtree(self.path / "parts", ignore_errors=True)
        for path in self.path.glob(".*.*.[0-9]*"):
            path.unlink(missing_ok=True)


def open_folder(config: RunConfig, requests: Sequence[Request], resume: bool) -> RunFolder:
    """The folder of a new run, or the one to go on with; until it is closed, no other run gets it.

    A folder that holds results, or in which another run begins, is not overwritten: a number is appended. To resume
    takes the last of those.

    Raises:
        ParaflowkitError: the folder cannot be made, the run in it had other settings, which the sentence names, or is
            still being made.
    """
    manifest = make_manifest(config, requests)
    path = wanted = Path(config.output.folder)
    number, last = 1, None
    while True:
        if not _begun(path):
            if resume and last is not None:
                return _go_on(last, config, manifest)
            lock = _lock(path)
            if lock is None and resume:
                raise _busy(path)
            if lock is not None and not _begun(path):
                return _begin(path, config, manifest, lock)
        # A run has begun here, or is about to in another process, perhaps since the first look.
        number, last = number + 1, path
        path = wanted.with_name(f"{wanted.name}-{number}")


def _begun(path: Path) -> bool:
    return (path / "results.jsonl").exists()


def _begin(path: Path, config: RunConfig, manifest: dict[str, Any], lock: Lock) -> RunFolder:
    """The folder of a new run."""
    write(path / "config.yaml", dump(config))
    write(path / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    try:
        (path / "results.jsonl").touch()
    except OSError as error:
        raise _unwritable(path, error) from error
    return RunFolder(path, config, lock)


def _go_on(path: Path, config: RunConfig, manifest: dict[str, Any]) -> RunFolder:
    """The folder of a run that has begun."""
    _same(path, manifest)
    if (folder := RunFolder(path, config)).finished:
        return folder  # it is only read
    lock = _lock(path)
    if lock is None:
        raise _busy(path)
    return RunFolder(path, config, lock)


def _lock(path: Path) -> Lock | None:
    try:
        (path / "parts").mkdir(parents=True, exist_ok=True)
        return Lock.take(path / "parts" / "lock")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ParaflowkitError:
    return ParaflowkitError(f"output.folder: cannot write to {path}: {error.strerror or error}.")


def _busy(path: Path) -> ParaflowkitError:
    return ParaflowkitError(
        f"{path}: {holder(path / 'parts' / 'lock')} is still making the run there: wait for its end, or end it, before "
        "--resume; without --resume a new run is made."
    )


def check_same_everywhere(fabric: Fabric, config: RunConfig, requests: Sequence[Request]) -> None:
    """Refuse to begin where processes were given different runs, as on two machines with two versions of a file.

    Raises:
        ParaflowkitError: on every process; the sentence names the first other one, its host and what differs.
    """
    if fabric.world_size == 1:
        return
    everyone: list[tuple[str, dict[str, Any]]] = [("", {})] * fabric.world_size
    dist.all_gather_object(everyone, (platform.node(), make_manifest(config, requests)))
    for rank, (node, manifest) in enumerate(everyone):
        changed = differences(everyone[0][1], manifest, lambda name: name != "fabric.devices")
        if changed:
            raise ParaflowkitError(
                f"Rank {rank} on {node} was given another run than rank 0 on {everyone[0][0]}: {'; '.join(changed)} "
                "there. Start all processes with the same run file and overrides."
            )


def check_same_weights(fabric: Fabric, model: nn.Module, mesh: Mesh) -> None:
    """Refuse a model whose weights differ between processes: a solve that they share would be of no network.

    Looks at the first 64 numbers of each parameter and buffer. Processes that hold other pieces of the network are not
    compared with each other.

    Raises:
        ParaflowkitError: on every process; the sentence names the first other one and its host.
    """
    if fabric.world_size == 1:
        return
    seen = hashlib.sha256()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        held = value.detach()
        part = (held.to_local() if isinstance(held, DTensor) else held).flatten()[:64].cpu()
        seen.update(name.encode() + repr((tuple(value.shape), part.double().tolist())).encode())
    piece = (mesh.tensor_rank, mesh.time_rank if is_sharded(model) else 0)
    everyone: list[tuple[str, str, tuple[int, int]]] = [("", "", (0, 0))] * fabric.world_size
    dist.all_gather_object(everyone, (platform.node(), seen.hexdigest(), piece))
    for rank, (node, digest, piece) in enumerate(everyone):
        first = next(other for other, (_, _, theirs) in enumerate(everyone) if theirs == piece)
        if digest != everyone[first][1]:
            raise ParaflowkitError(
                f"Rank {rank} on {node} has other weights than rank {first} on {everyone[first][0]}: load the same "
                "files everywhere, or give random weights the same seed."
            )


def _same(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse to go on with a run of other settings."""
    try:
        before = json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise ParaflowkitError(
            f"{path}: its manifest.json cannot be read, so that the run there cannot be resumed: leave out --resume."
        ) from error
    changed = differences(before, manifest, lambda name: not is_free(name))
    if changed:
        raise ParaflowkitError(
            f"{path}: the run there had other settings: {'; '.join(changed)}. Change them back, or leave out --resume "
            "to make a new run."
        )
