"""The times t_0 (noise) … t_N (data) of a sampler, float64, and the spacings that users know by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paraflowkit.noise import VP, NoiseSchedule

__all__ = ["SPACINGS", "TimeGrid", "make_grid"]

SPACINGS = ("uniform", "leading", "trailing", "linspace")


@dataclass(frozen=True)
class TimeGrid:
    """Node times, float64 ``(N + 1,)``, from noise to data.

    Raises:
        ValueError: the times are not one-dimensional, finite and strictly monotonic.
    """

    t: Tensor

    def __post_init__(self) -> None:
        if self.t.dtype != torch.float64 or self.t.ndim != 1 or len(self.t) < 2:
            raise ValueError("A grid needs a float64 vector of at least two times.")
        step = self.t.diff()
        if not bool(torch.isfinite(self.t).all()) or not (bool((step > 0).all()) or bool((step < 0).all())):
            raise ValueError("The times of a grid must be finite and run strictly from noise to data.")

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return len(self.t) - 1


def make_grid(
    noise: NoiseSchedule, steps: int, spacing: str = "uniform", shift: float = 1.0, steps_offset: int = 0
) -> TimeGrid:
    """The grid of a process.

    Args:
        noise: the process.
        steps: N ≥ 1.
        spacing: ``uniform`` (equal steps of t); for VP also diffusers' ``leading``, ``trailing`` and ``linspace``,
            which pick training steps; ``uniform`` means ``trailing`` there.
        shift: resolution shift of flow matching, sigma → shift·sigma / (1 + (shift − 1)·sigma) (Esser et al. 2024,
            equation 23).
        steps_offset: added to the ``leading`` times, as in diffusers.

    Raises:
        ValueError: unknown spacing, N < 1, N above the training steps, or a setting that the process does not have.
    """
    if steps < 1:
        raise ValueError(f"A grid needs at least one step, got {steps}.")
    if spacing not in SPACINGS:
        raise ValueError(f"Unknown spacing {spacing!r}: use one of {', '.join(SPACINGS)}.")
    if not isinstance(noise, VP):
        if spacing != "uniform":
            raise ValueError(f"Spacing {spacing!r} picks training steps, which only VP has: use 'uniform'.")
        base = torch.linspace(noise.start, noise.end, steps + 1, dtype=torch.float64)
        if shift != 1.0:
            if not (noise.start == 0.0 and noise.end == 1.0):
                raise ValueError("'shift' is a setting of flow-matching grids only: leave it at 1.")
            if shift <= 0:
                raise ValueError(f"'shift' must be positive, got {shift}.")
            sigma = 1 - base
            base = 1 - shift * sigma / (1 + (shift - 1) * sigma)
        return TimeGrid(base)
    if shift != 1.0:
        raise ValueError("'shift' is a setting of flow-matching grids only: leave it at 1.")
    total = noise.steps
    if steps > total:
        raise ValueError(f"{steps} steps are more than the {total} that the process was trained with.")
    if spacing == "linspace":
        times = torch.linspace(0, total - 1, steps, dtype=torch.float64).round().flip(0)
    elif spacing == "leading":
        times = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (total // steps) + steps_offset
        if times[0] > total - 1:
            raise ValueError(f"steps_offset {steps_offset} moves the first time past the last training step.")
    else:
        ratio = total / steps
        times = (total - ratio * torch.arange(steps, dtype=torch.float64)).round() - 1
    return TimeGrid(torch.cat([times, times.new_tensor([-1.0])]))
