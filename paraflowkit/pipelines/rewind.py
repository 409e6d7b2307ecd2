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

    def __init__(self, arguments: Any) -> None:
        found = [leaf for _, leaf in leaves(arguments) if isinstance(leaf, torch.Generator)]
        self.generators = [(g, g.get_state()) for g in found]
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self.python = random.getstate()
        # The global generator: what others draw from.
        self.numpy = np.random.get_state()  # noqa: NPY002

    def restore(self) -> None:
        for generator, state in self.generators:
            generator.set_state(state)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002


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


class Plain:
    """Plain values and tensors that modules hold: a network that changes them in a call has a hidden state."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.values = [(m, k, v) for m in module.modules() for k, v in vars(m).items() if _plain(v)]
        self.versions = [v._version for _, _, v in self.values if isinstance(v, torch.Tensor) and not v.is_inference()]

    def changed(self, module: torch.nn.Module) -> str | None:
        """The name of a value that differs from those of ``module`` now, or None."""
        now = Plain(module)
        if len(now.values) != len(self.values):
            return "an attribute"
        for (_, key, old), (_, _, new) in zip(self.values, now.values, strict=True):
            if old is not new and (isinstance(old, torch.Tensor) or isinstance(new, torch.Tensor) or old != new):
                return key
        return "a tensor" if now.versions != self.versions else None


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, torch.Tensor))
