"""The noise levels of a pipeline's steps, where its scheduler is one that can be read."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.surrogate import Level
from paraflowkit.norms import tolerance_scales
from paraflowkit.prediction import Prediction, convert
from paraflowkit.schedulers.known import Frame, read_frame


@dataclass(frozen=True)
class Levels:
    """Of the steps of one call: step n starts at node ``first + n`` of the frame."""

    frame: Frame
    first: int

    def scales(self, norm: str) -> Tensor:
        """Factor of ``tolerance²`` for the state after each step, float64."""
        return tolerance_scales(norm, self.frame.nodes)[self.first :]

    @cached_property
    def nodes(self) -> list[Level]:
        """Of the frame's steps."""
        f = self.frame
        one, none = torch.ones_like(f.p), torch.zeros_like(f.p)
        levels = f.nodes.levels[torch.arange(f.nodes.steps)]
        of_x = convert(f.p, one, levels, f.prediction, Prediction.DATA)
        of_output = convert(f.q, none, levels, f.prediction, Prediction.DATA)
        columns = (levels.alpha, levels.sigma, of_x, of_output)
        return [Level(*each) for each in zip(*(c.tolist() for c in columns), strict=True)]

    def at(self, n: int) -> Level | None:
        """Of step n, or None where it has none."""
        return self.nodes[self.first + n] if self.first + n < len(self.nodes) else None

    def clean(self, n: int, x: Tensor, output: Tensor) -> Tensor | None:
        """The data prediction at step n, or None where the step has no level or another shape."""
        node = self.first + n
        if node >= self.frame.nodes.steps or output.shape != x.shape:
            return None
        index = torch.tensor([node])
        p, q = float(self.frame.p[node]), float(self.frame.q[node])
        levels = self.frame.nodes.levels[index]
        return convert(p * x + q * output, x, levels, self.frame.prediction, Prediction.DATA)


def read_levels(scheduler: Any, timestep: Any) -> Levels | None:
    """The noise levels of a scheduler whose first step is at this timestep; None where it is not known."""
    made = copy.copy(scheduler)
    vars(made).pop("step", None)  # ours
    try:
        for key, value in vars(made).items():
            if isinstance(value, Tensor):
                vars(made)[key] = value.cpu()
        times = made.timesteps
        frame = read_frame(made)
        found = (times.double() == torch.as_tensor(timestep).double().cpu()).nonzero()
    except Exception:  # a scheduler of one's own may be anything; without levels only the absolute norm works
        return None
    return None if frame.nominal or not len(found) else Levels(frame, int(found[0]))
