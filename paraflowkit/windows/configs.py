"""Settings of the window policies; importing this loads no torch."""

from __future__ import annotations

from pydantic import Field

from paraflowkit.core.config import ComponentConfig


class FixedConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.windows.fixed.Fixed`."""

    size: int = Field(default=8, ge=1, description="Steps in a block; the next block starts when the last one is done.")


class SlidingConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.windows.sliding.Sliding`."""

    size: int = Field(default=8, ge=1, description="Steps that are solved together; more than N means all of them.")
