"""Samples of cells by paraflowkit's predict loop, kept in files so that pictures and errors need no second solve."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from paraflowkit import registry
from paraflowkit.config import RunConfig, loads
from paraflowkit.fabric.pieces import make_fabric
from paraflowkit.fabric.predict import predict
from paraflowkit.solve import SweepInfo
from safetensors.torch import load_file, save_file
from torch import Tensor

from paraflowkit_scenes.evaluation.cells import Cell
from paraflowkit_scenes.scene import Scene

MODEL = "paraflowkit_scenes.model:ScenesSD3"
#: Called with the share of a cell that is done.
Told = Callable[[float], None]


@dataclass(frozen=True)
class Samples:
    """What a cell made.

    Attributes:
        x: latents (n, 4, 16, 16). indices: int64 (n,), numbers of the prompts among the held-out ones.
        iterations, evaluations: int64 (n,), sequential calls and evaluated steps of each. failed: samples that did not
            end well. seconds: of the solves, where they were just made.
    """

    x: Tensor
    indices: Tensor
    iterations: Tensor
    evaluations: Tensor
    failed: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        tensors = ("x", "indices", "iterations", "evaluations")
        save_file({name: getattr(self, name).contiguous() for name in tensors}, part)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read what :meth:`save` wrote."""
        found = load_file(path)
        return cls(found["x"], found["indices"], found["iterations"], found["evaluations"])

    def of(self, indices: Sequence[int]) -> Samples:
        """Those of some prompts, in their order."""
        known = self.indices.tolist()
        at = torch.tensor([known.index(index) for index in indices])
        return Samples(self.x[at], self.indices[at], self.iterations[at], self.evaluations[at])


class Painter:
    """The pipeline in ``folder``, on the device that Fabric chooses.

    Args:
        folder: ``scenes-sd3`` or another. scenes: the held-out ones; the noise of a sample has its prompt's number for
            a seed. batch: prompts that are solved together. rows: most network rows of one call.
        accelerator: of Fabric. compiled: compile the network, which takes a minute or two.

    Raises:
        ParaflowkitError: the folder holds no pipeline, or Fabric refuses the accelerator.
    """

    def __init__(
        self, folder: Path, scenes: Sequence[Scene], batch: int, rows: int, accelerator: str, compiled: bool
    ) -> None:
        self.folder, self.scenes = folder, scenes
        self.batch, self.rows, self.accelerator = batch, rows, accelerator
        config = self._config(Cell("guidance", "sequential", 1, 1.0, 1, 1))
        self.fabric = make_fabric(config)
        self.model: Any = registry.get("model", MODEL)(config.model.settings)
        # Each prompt is encoded once for all cells, rather than once a batch.
        self.model.prompts.kept = len(scenes) + 1
        self.fabric.to_device(self.model)
        if compiled:
            self.model.network.compile(dynamic=True)  # calls have as many rows as are open

    def _config(self, cell: Cell) -> RunConfig:
        requests = [
            {"prompts": [self.scenes[i].caption], "seeds": [i], "guidance": cell.guidance}
            for i in cell.indices(len(self.scenes))
        ]
        run = {
            "model": {"name": MODEL, "folder": str(self.folder)},
            "grid": {"steps": cell.steps},
            "stepper": "euler",
            "solver": cell.settings,
            "window": {"name": "sliding", "size": cell.window},
            "requests": requests,
            "output": {"images": False},
            "fabric": {"accelerator": self.accelerator},
            "run": {"batch": self.batch, "max_rows": self.rows},
        }
        return loads(json.dumps(run), "the evaluation")

    def paint(self, cell: Cell, told: Told = lambda share: None) -> Samples:
        """Make a cell's samples."""

        def on_sweep(batch: int, batches: int, info: SweepInfo) -> None:
            told((batch + float(info.fronts.double().mean()) / info.steps) / batches)

        began = time.perf_counter()
        # A GPU's convolutions would otherwise round to TF32, and differently for calls of different sizes.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            made = predict(self._config(cell), self.fabric, model=self.model, on_sweep=on_sweep, save=False)
        return Samples(
            made.samples,
            torch.tensor(cell.indices(len(self.scenes))),
            torch.tensor([row["iterations"] for row in made.rows]),
            torch.tensor([row["evaluations"] for row in made.rows]),
            made.summary.failed,
            time.perf_counter() - began,
        )

    def images(self, x: Tensor) -> Tensor:
        """Latents as images (n, 3, 64, 64) on the CPU."""
        return self.model.decode(x).cpu()

    @torch.no_grad()
    def through_autoencoder(self, images: Tensor) -> Tensor:
        """Images as the autoencoder gives them back."""
        vae = self.model.pipe.vae
        weights = next(vae.parameters())
        parts = [vae.encode(part.to(weights.device, weights.dtype)).latent_dist.mean for part in images.split(16)]
        return torch.cat([vae.decode(part).sample.float().cpu() for part in parts])

    def machine(self) -> dict[str, Any]:
        """What a row was measured on, and with which versions."""
        device = self.fabric.device
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        threads = torch.get_num_threads()
        packages = ("paraflowkit", "torch", "diffusers", "transformers", "torchmetrics")
        return {
            "device": gpu or f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}",
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        }
