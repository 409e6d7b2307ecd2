"""The sections of bench files, but for those of runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from paraflowkit.core.config import ComponentConfig
from paraflowkit.metrics.config import MetricsConfig


class TimingConfig(ComponentConfig):
    """Wall clock: all methods in turn, again and again, and the median of each."""

    samples: int = Field(default=1, ge=1, description="Samples that are made together, the first of the requests.")
    repetitions: int = Field(default=3, ge=0, description="Solves of each method; 0 leaves the clock out.")


class PaperRow(ComponentConfig):
    """Numbers of a paper for one method at one place of the grid, as they are printed."""

    method: str
    at: dict[str, Any] = Field(default_factory=dict[str, Any], description="Values of axes, by their names.")
    iterations: float | None = None
    evaluations: float | None = None
    fid: float | None = None
    clip_score: float | None = None
    seconds: float | None = None
    speedup: float | None = None
    utilisation: float | None = None
    batch_per_device: float | None = None


class PaperConfig(ComponentConfig):
    """What a paper reports."""

    source: str = Field(min_length=1, description="Paper, table, model, number of samples, machine.")
    rows: list[PaperRow] = Field(default_factory=list[PaperRow], description="Its numbers.")


class BenchSettings(ComponentConfig):
    """The sections of a bench file that are no runs."""

    title: str = Field(min_length=1, description="Heading of the report.")
    about: str = Field(default="", description="What is measured, and what for.")
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default_factory=dict[str, Any], description="Settings of runs that take several values: all combinations."
    )
    fewer: list[str | dict[str, Any]] = Field(
        default_factory=list[Any], description="Steppers of the baseline: as few sequential steps as meet the error."
    )
    errors: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=list[float],
        description="Wanted mean relative RMSE to the sequential samples: the loosest tolerance for it is sought.",
    )
    view: Literal["error", "tolerance"] | None = Field(
        default=None, description="Which table comes first; by default that of equal errors, where there are any."
    )
    timing: TimingConfig = TimingConfig()
    metrics: MetricsConfig = MetricsConfig()
    paper: PaperConfig | None = None
