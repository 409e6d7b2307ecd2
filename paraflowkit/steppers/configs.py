"""Settings of the steppers; importing this loads no torch."""

from __future__ import annotations

from pydantic import Field

from paraflowkit.core.config import ComponentConfig


class EulerConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.euler.Euler`: none."""


class DDIMConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.ddim.DDIM`."""

    eta: float = Field(default=0.0, ge=0, le=1, description="Noise: 0 is deterministic DDIM, 1 the DDPM posterior.")
