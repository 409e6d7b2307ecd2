"""What a parallel call of a pipeline cost, and what was traded."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class PipelineStats:
    """Counts of one call of a pipeline.

    Attributes:
        solver, window, tolerance: as they were set. samples: rows of the sampler's state. steps: of the scheduler.
        refused: why the call was run plainly, or None.
        rounds: batched evaluations, one after the other. singles: calls of the denoisers that were made as the pipeline
            asked, before them. sequential: both together, which takes the place of ``plain_calls``.
        batches: calls of the denoisers in all rounds, more than these where ``max_rows`` or their kinds cut them.
        plain_calls: calls of the denoisers that the plain pipeline makes. network_calls: calls really made, of all
            networks, encoders and decoders included. rows: rows of the batched ones.
        sweeps: runs of the pipeline's own code. marched: steps of the scheduler in all of them.
        iterations, evaluations: of each sample: rounds in which it was evaluated, and steps evaluated in them.
        largest_change: RMS of the largest change that was accepted without another evaluation; 0 is exact.
        seconds, network_seconds: wall clock in all, and in the networks.
    """

    solver: str = ""
    window: str = ""
    tolerance: float = 0.0
    refused: str | None = None
    samples: int = 0
    steps: int = 0
    rounds: int = 0
    singles: int = 0
    batches: int = 0
    plain_calls: int = 0
    network_calls: int = 0
    rows: int = 0
    sweeps: int = 0
    marched: int = 0
    iterations: list[int] = field(default_factory=list[int])
    evaluations: list[int] = field(default_factory=list[int])
    largest_change: float = 0.0
    seconds: float = 0.0
    network_seconds: float = 0.0

    @property
    def sequential(self) -> int:
        return self.rounds + self.singles

    @property
    def rest_seconds(self) -> float:
        """Wall clock outside the networks."""
        return self.seconds - self.network_seconds

    def __str__(self) -> str:
        if self.refused is not None:
            return f"run plainly: {self.refused}"
        traded = "exact" if not self.tolerance else f"largest accepted change {self.largest_change:.2g}"
        cut = f" of {self.batches + self.singles} calls" if self.batches > self.rounds else ""
        return (
            f"{self.solver}, {self.window}, tolerance {self.tolerance:g}: {self.sequential} sequential rounds{cut} for "
            f"{self.plain_calls} network calls in {self.steps} steps; {traded}; {self.seconds:.2f} s, "
            f"{self.rest_seconds:.2f} s of them outside the networks"
        )
