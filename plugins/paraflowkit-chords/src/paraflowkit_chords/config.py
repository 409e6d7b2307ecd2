"""Settings of CHORDS; importing this loads no torch."""

from __future__ import annotations

from itertools import pairwise

from paraflowkit.core.config import SolverConfig
from pydantic import Field, field_validator, model_validator


class ChordsConfig(SolverConfig):
    """Settings of :class:`paraflowkit_chords.solver.Chords`.

    The tolerance is on the mean squared difference of the samples of two cores that finish one after the other, in the
    scale that ``norm`` gives the last state. ``guess`` and ``entering`` have no effect: cores are born by coarse jumps.
    """

    cores: int | None = Field(
        default=None, ge=1, description="Number of cores; 8 by default, or as many as there are 'starts'."
    )
    starts: list[int] | None = Field(
        default=None,
        description="Node at which each core starts, counted from where the window opens; the first is 0. Automatic by "
        "default.",
    )
    finisher: int | None = Field(
        default=None,
        ge=1,
        description="Accept the sample of this finisher, whatever the tolerance; 1 is the fastest core. "
        "By default the tolerance decides.",
    )

    @field_validator("starts")
    @classmethod
    def _starts_in_order(cls, starts: list[int] | None) -> list[int] | None:
        if starts is None:
            return None
        if not starts or starts[0] != 0:
            raise ValueError(f"must begin with 0, where the exact core starts, got {starts}")
        if any(b - a < 2 for a, b in pairwise(starts)):
            raise ValueError(f"must grow by at least 2, got {starts}: a core one node ahead would do the same work")
        return starts

    @model_validator(mode="after")
    def _settings_agree(self) -> ChordsConfig:
        if self.starts is not None and self.cores not in (None, len(self.starts)):
            raise ValueError(f"'cores' is {self.cores} and 'starts' lists {len(self.starts)}: leave one of them out")
        if self.finisher is not None and self.tolerance == 0:
            raise ValueError("'tolerance: 0' accepts the exact core only: leave out 'finisher', or raise the tolerance")
        return self
