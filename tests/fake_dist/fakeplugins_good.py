"""Steppers of a fake distribution."""

from paraflowkit.core.config import ComponentConfig
from paraflowkit.core.stepper import BaseStepper


class GoodConfig(ComponentConfig):
    strength: float = 1.0


class Good(BaseStepper[GoodConfig]):
    config_cls = GoodConfig


class Future(Good):
    api_version = 99


class Alien:
    """Not a stepper."""
