"""Settings of the window policies; importing this loads no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from paraflowkit.core.config import ComponentConfig


class FixedConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.windows.fixed.Fixed`."""

    size: int = Field(default=8, ge=1, description="Steps in a block; the next block starts when the last one is done.")


class SlidingConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.windows.sliding.Sliding`."""

    size: int = Field(default=8, ge=1, description="Steps that are solved together; more than N means all of them.")


class AdaptiveConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.windows.adaptive.Adaptive`."""

    size: int = Field(default=8, ge=1, description="Steps of the first window.")
    ratio: float = Field(default=2.0, gt=0, allow_inf_nan=False, description="Window length over the accepted stride.")
    least: int = Field(default=4, ge=1, description="Fewest steps.")
    most: int = Field(default=32, ge=1, description="Most steps.")

    @model_validator(mode="after")
    def _in_order(self) -> AdaptiveConfig:
        if not self.least <= self.size <= self.most:
            raise ValueError(f"needs least <= size <= most, got {self.least}, {self.size} and {self.most}")
        return self


class FitConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.windows.fit.Fit`; without any, half of the device's free memory."""

    rows: int | None = Field(default=None, ge=1, description="Network rows of one call, over all samples of the batch.")
    memory: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="GiB for the network's activations and the buffers."
    )
