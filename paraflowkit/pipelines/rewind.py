"""What a run of a pipeline changes besides its result, and how to put it back for the next run."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch

from paraflowkit.pipelines.rows import leaves


class Randomness:
    """The states of all random generators that a pipeline may draw from."""

    def __init__(self, arguments: Any, owners: Iterable[Any] = ()) -> None:
        found = [leaf for _, leaf in leaves((arguments, [list(vars(o).values()) for o in owners]))]
        self.generators = [g for g in found if isinstance(g, torch.Generator)]
        self.arrays = [g.bit_generator for g in found if isinstance(g, np.random.Generator)]
        self.start = self.state()

    def state(self) -> tuple[list[torch.Tensor], list[Any]]:
        """Of all generators now: torch's as tensors, the others' as values."""
        tensors = [g.get_state() for g in self.generators] + [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            tensors += torch.cuda.get_rng_state_all()
        # The global generator of NumPy: what others draw from.
        return tensors, [random.getstate(), np.random.get_state(), [b.state for b in self.arrays]]  # noqa: NPY002

    def moved(self, before: tuple[list[torch.Tensor], list[Any]]) -> bool:
        """Whether anything was drawn since."""
        now = self.state()
        if not all(torch.equal(a, b) for a, b in zip(before[0], now[0], strict=False)):
            return True
        (python, (kind, keys, *rest), arrays), (python_, (kind_, keys_, *rest_), arrays_) = before[1], now[1]
        if (python, kind, rest) != (python_, kind_, rest_) or not np.array_equal(keys, keys_):
            return True
        return str(arrays) != str(arrays_)

    def restore(self, state: tuple[list[torch.Tensor], list[Any]] | None = None) -> None:
        """Put all back to a state, by default that of the start."""
        tensors, (python, numpy, arrays) = state or self.start
        count = len(self.generators)
        for generator, value in zip(self.generators, tensors, strict=False):
            generator.set_state(value)
        torch.set_rng_state(tensors[count])
        if tensors[count + 1 :]:
            torch.cuda.set_rng_state_all(tensors[count + 1 :])
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for bits, value in zip(self.arrays, arrays, strict=True):
            bits.state = value


class Attributes:
    """The attributes of objects: schedulers, guiders, the pipeline itself; but for our own hooks."""

    def __init__(self, objects: Iterable[Any], hooks: Collection[str]) -> None:
        self.hooks = hooks
        self.saved = [(o, {k: _copied(v) for k, v in vars(o).items() if k not in hooks}) for o in objects]

    def restore(self) -> None:
        for thing, values in self.saved:
            here = vars(thing)
            for key in [k for k in here if k not in values and k not in self.hooks]:
                del here[key]
            here.update({k: _copied(v) for k, v in values.items()})


class Processors:
    """The attention processors of the networks, which some pipelines change for the length of a call."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        found = ((m, getattr(m, "processor", None)) for module in modules for m in module.modules())
        self.saved = [(m, p) for m, p in found if p is not None]

    def restore(self) -> None:
        for module, processor in self.saved:
            if module.processor is not processor:
                module.processor = processor


def _copied(value: Any) -> Any:
    """A copy of a plain list or dict, whose items are replaced in place; everything else is the same object."""
    return type(value)(value) if type(value) in (list, dict) else value
