"""The nodes of a sampler: the times that the network is told, and the noise levels that the sampler steps between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paraflowkit.noise import Levels, NoiseSchedule

__all__ = ["TimeGrid"]


@dataclass(frozen=True)
class TimeGrid:
    """Nodes 0 (noise) … N (data).

    Attributes:
        t: float64 ``(N + 1,)``, the times that the network is told. Nodes may share a time: inner stages of a step, or
            times that a schedule rounds.
        levels: float64 ``(N + 1,)`` each, the noise levels that the sampler steps between.

    Raises:
        ValueError: the vectors do not match, are not float64 or not finite, or a node has neither data nor noise.
    """

    t: Tensor
    levels: Levels

    def __post_init__(self) -> None:
        for value in (self.t, self.levels.alpha, self.levels.sigma):
            if value.dtype != torch.float64 or value.ndim != 1 or value.shape != self.t.shape or len(value) < 2:
                raise ValueError("A grid needs float64 vectors of one length, of at least two nodes.")
            if not bool(torch.isfinite(value).all()):
                raise ValueError("The times and noise levels of a grid must be finite.")
        alpha, sigma = self.levels.alpha, self.levels.sigma
        if bool((alpha < 0).any()) or bool((sigma < 0).any()) or bool(((alpha == 0) & (sigma == 0)).any()):
            raise ValueError("A node needs alpha and sigma of at least 0, and not both 0.")

    @classmethod
    def of(cls, noise: NoiseSchedule, t: Tensor) -> TimeGrid:
        """The grid at given times, with the process's own levels.

        Raises:
            ValueError: the times are not a float64 vector, or do not run strictly from noise to data.
        """
        if t.dtype != torch.float64 or t.ndim != 1 or len(t) < 2 or not bool(torch.isfinite(t).all()):
            raise ValueError("A grid needs a float64 vector of at least two finite times.")
        step = t.diff()
        if not (bool((step > 0).all()) or bool((step < 0).all())):
            raise ValueError("The times of a grid must run strictly from noise to data.")
        return cls(t, noise.levels(t))

    @property
    def alpha(self) -> Tensor:
        return self.levels.alpha

    @property
    def sigma(self) -> Tensor:
        return self.levels.sigma

    @property
    def ratio(self) -> Tensor:
        """sigma / alpha, the noise level of the EDM notation (Karras et al. 2022); infinite where there is no data."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> Tensor:
        """log(alpha / sigma), half the log signal-to-noise ratio of the DPM-Solver papers; infinite at clean ends."""
        return self.alpha.log() - self.sigma.log()

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return len(self.t) - 1

    def take(self, index: Tensor) -> TimeGrid:
        """The grid of some of the nodes, int64 ``(M,)``."""
        return TimeGrid(self.t[index], self.levels[index])

    def interleave(self, t: Tensor, levels: Levels) -> TimeGrid:
        """The grid with one more node within each step, for methods with inner stages.

        Args:
            t, levels: of the N nodes between, float64 ``(N,)``.
        """
        if len(t) != self.steps:
            raise ValueError(f"A grid of {self.steps} steps takes as many nodes between, got {len(t)}.")
        index = torch.arange(self.steps)
        place = torch.stack([index, index + self.steps + 1], 1).flatten()
        both = TimeGrid(torch.cat([self.t, t]), self.levels.then(levels))
        return both.take(torch.cat([place, torch.tensor([self.steps])]))

    def coarse(self, steps: int) -> TimeGrid:
        """A grid of fewer steps through every so many nodes, both ends kept, spread as evenly as whole nodes allow.

        Raises:
            ValueError: not 1 ≤ steps ≤ N.
        """
        if int(steps) != steps or not 1 <= steps <= self.steps:
            raise ValueError(f"A coarse grid of {self.steps} steps has 1 … {self.steps} steps, got {steps}.")
        return self.take(torch.linspace(0, self.steps, steps + 1, dtype=torch.float64).round().long())
