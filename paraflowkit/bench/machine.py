"""What figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def describe(fabric: Fabric) -> dict[str, Any]:
    """Device, processes, threads and versions; nothing that names a person's machine."""
    device = fabric.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu()
    packages = ("paraflowkit", "torch", "lightning", "diffusers", "torchmetrics")
    return {
        "device": name,
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "precision": str(fabric.strategy.precision.precision),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
    }


def cpu() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else f"{platform.machine()} CPU"
