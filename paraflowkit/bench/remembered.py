"""A network that evaluates no row twice, for searches on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.model import VelocityModel

#: Bytes of outputs and keys that are kept.
ROOM = 2_000_000_000


class Remembered(VelocityModel):
    """Another model whose rows are kept.

    Solves at two tolerances, and of two solvers, share many states. What a solver reports is what it asked for, so that
    remembering changes no count; seconds measured with it mean nothing.

    Args:
        inner: the model; its conditions are tensors, or None.
    """

    def __init__(self, inner: VelocityModel) -> None:
        super().__init__()
        self.inner = inner
        self.noise, self.prediction, self.shape = inner.noise, inner.prediction, inner.shape
        self.data_std, self.learned_variance = inner.data_std, inner.learned_variance
        self.known: dict[bytes, Tensor] = {}
        self.room = ROOM
        self.asked = self.evaluated = 0

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Any:
        return self.inner.condition(classes, prompts)

    def null_condition(self, cond: Any) -> Any:
        return self.inner.null_condition(cond)

    def negative_condition(self, cond: Any, prompts: list[str | None]) -> Any:
        return self.inner.negative_condition(cond, prompts)

    def prepare(self, cond: Any) -> None:
        self.inner.prepare(cond)

    def grid_settings(self, steps: int) -> dict[str, Any]:
        return self.inner.grid_settings(steps)

    def decode(self, x: Tensor) -> Tensor:
        return self.inner.decode(x)

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        if not (cond is None or isinstance(cond, Tensor)) or x.device.type != "cpu":
            return self.inner(x, t, cond)
        parts = [x, t] if cond is None else [x, t, cond]
        arrays = [part.detach().contiguous().view(len(x), -1).view(torch.uint8).numpy() for part in parts]
        keys = [b"".join(array[i].tobytes() for array in arrays) for i in range(len(x))]
        new = list({key: i for i, key in enumerate(keys) if key not in self.known}.values())
        self.asked, self.evaluated = self.asked + len(keys), self.evaluated + len(new)
        if new:
            rows = self.inner(x[new], t[new], None if cond is None else cond[new])
            size = rows[0].numel() * rows.element_size() + len(keys[0])
            if (len(self.known) + len(new)) * size > self.room:
                self.known.clear()
                return self.inner(x, t, cond)
            # A row as a tensor of its own: a view would keep the whole call's.
            self.known.update((keys[i], row.clone()) for i, row in zip(new, rows, strict=True))
        return torch.stack([self.known[key] for key in keys])
