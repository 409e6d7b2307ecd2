"""Settings of the example stepper; importing this loads no torch."""

from __future__ import annotations

from typing import Literal

from paraflowkit.core.config import ComponentConfig
from pydantic import Field


class AdamsBashforthConfig(ComponentConfig):
    """Settings of :class:`paraflowkit_example.stepper.AdamsBashforth`."""

    order: Literal[1, 2] = Field(default=2, description="1 is Euler; 2 also uses the velocity of the step before.")
