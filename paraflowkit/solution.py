"""What a solve returns: samples, a result whose message names the remedy, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

__all__ = ["Result", "Solution", "Stats", "relative_rmse"]


class Result(Enum):
    """How the solve of one sample ended; the value is the message, which names the remedy."""

    CONVERGED = "Every state met its tolerance."
    MAX_SWEEPS = (
        "The limit on sweeps was reached before the last node: the sample is the data prediction at the front. "
        "Raise max_sweeps or the tolerance, or leave max_sweeps out: a solve always ends."
    )
    NONFINITE = (
        "The network gave a value that is not finite: the sample is the last finite state. Use float32 instead of a "
        "half precision, or lower the guidance; 'nonfinite: sequential' survives it when only a guess was at fault."
    )
    FELL_BACK = (
        "A guess met values that are not finite, so the rest was solved sequentially from the last exact state. "
        "A smaller window avoids the detour."
    )

    @property
    def ok(self) -> bool:
        """Whether the sample is a solution within the tolerance."""
        return self in (Result.CONVERGED, Result.FELL_BACK)


@dataclass
class Stats:
    """What a solve cost.

    Attributes:
        iterations: sequential batched evaluations: sweeps of the batch in which the network was called.
        sample_iterations: int64 ``(samples,)``, those in which a node of the sample was evaluated.
        evaluations: int64 ``(samples,)``, nodes at which the network was really evaluated; a guided evaluation, which
            takes two network rows, counts once.
        calls: times the network was called, more than ``iterations`` when ``max_rows`` cuts a sweep into chunks.
        rows: rows of all those calls together; guidance counts here.
        seconds, model_seconds: wall clock in all but callbacks, and inside the network. The network's rest is
            ``rest_seconds``.
        gather_seconds, compile_seconds: of those in the network, waiting for the outputs of other processes, and calls
            for which it had to be compiled; the predict loop tells.
        buffer_bytes: largest size of the solver's own buffers, which does not depend on the number of steps.
        peak_bytes: peak memory allocated on an accelerator, 0 on a CPU (where only the process has a peak).
        fronts: per sweep, int64 ``(samples,)``, the first node of each window before the sweep.
        strides: per sweep, int64 ``(samples,)``, nodes accepted; 0 where a sample was finished.
        residuals: per sweep, float64 ``(samples, window)``: mean squared change of each state over its tolerance's
            scale (tolerance squared left out), NaN outside the window and where no evaluated step made the state.
    """

    iterations: int = 0
    sample_iterations: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    evaluations: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    calls: int = 0
    rows: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    gather_seconds: float = 0.0
    compile_seconds: float = 0.0
    buffer_bytes: int = 0
    peak_bytes: int = 0
    fronts: list[Tensor] = field(default_factory=list[Tensor])
    strides: list[Tensor] = field(default_factory=list[Tensor])
    residuals: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def sweeps(self) -> int:
        """Sweeps, those included in which nothing had to be evaluated."""
        return len(self.fronts)

    @property
    def rest_seconds(self) -> float:
        """Wall clock outside the network."""
        return self.seconds - self.model_seconds

    @property
    def rest_share(self) -> float:
        """Share of the wall clock outside the network."""
        return self.rest_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Solution:
    """Samples and how they came about.

    Attributes:
        x: ``(samples, *shape)``, the states at the last node.
        results: one :class:`Result` a sample.
        stats: the cost. trajectory: ``(samples, N + 1, *shape)`` where it was asked for, else None.
    """

    x: Tensor
    results: tuple[Result, ...]
    stats: Stats
    trajectory: Tensor | None = None

    @property
    def ok(self) -> bool:
        """Whether every sample converged."""
        return all(result.ok for result in self.results)


def relative_rmse(x: Tensor, reference: Tensor, std: float = 1.0) -> Tensor:
    """Root mean squared difference of each sample to its reference, over the data's standard deviation.

    Args:
        x, reference: ``(samples, *shape)``. std: of the data.

    Returns:
        float64 ``(samples,)``.
    """
    return (x.double() - reference.double()).flatten(1).square().mean(1).sqrt() / std
