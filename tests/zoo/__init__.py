"""Tiny random-weight pipelines of every family of diffusers, built from configurations without any download.

Each entry says how to build a pipeline and how to call it. :data:`ENTRIES` holds them all by name; the modules of this
package add to it as they are imported, which :func:`load` does.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Entry:
    """A way to build and call a pipeline.

    Attributes:
        name: unique; the class's name, with a word of what is special after a space.
        family: as in the documentation's table, such as ``Stable Diffusion 3``.
        build: makes the pipeline on the CPU, float32, the same weights every time, its progress bar off.
        call: keyword arguments for a number of prompts, without ``generator``; the same ones every time.
        prompts: the numbers of prompts that the class can take.
        modular: a modular pipeline, called as ``pipe(**kwargs, output=…)``; ``output`` names what to ask for.
    """

    name: str
    family: str
    build: Callable[[], Any]
    call: Callable[[int], dict[str, Any]]
    prompts: tuple[int, ...] = (1, 2)
    modular: bool = False


ENTRIES: dict[str, Entry] = {}


def add(name: str, family: str, build: Callable[[], Any], call: Callable[[int], dict[str, Any]], **more: Any) -> None:
    """Add an entry to the zoo."""
    assert name not in ENTRIES, name
    ENTRIES[name] = Entry(name, family, build, call, **more)


def load() -> dict[str, Entry]:
    """All entries, by name."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    return ENTRIES


def output(result: Any) -> torch.Tensor:
    """The first field of what a pipeline returned, as one float64 tensor on the CPU."""
    import numpy as np

    def tensor(value: Any) -> torch.Tensor:
        return value.detach().cpu() if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))

    first = result if isinstance(result, torch.Tensor) else result[0]
    listed = isinstance(first, (list, tuple))
    return (torch.stack([tensor(each) for each in first]) if listed else tensor(first)).double()
