"""Packages for new plugins, written from templates; importing this loads no torch."""

from __future__ import annotations

from enum import Enum

__all__ = ["Kind"]


class Kind(str, Enum):
    """The kinds of component that a package can be written for."""

    SOLVER = "solver"
    STEPPER = "stepper"
    MODEL = "model"
    WINDOW = "window"
