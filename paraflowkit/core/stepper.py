"""The interface of samplers (base steppers)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from paraflowkit.core import API_VERSION
from paraflowkit.core.config import ComponentConfig
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.table import StepTable

ConfigT = TypeVar("ConfigT", bound=ComponentConfig)


class StepRule(Protocol):
    """What the driver asks of a sampler on a grid: :class:`~paraflowkit.table.StepTable` is one.

    A sampler that is not affine brings its own object with these members. ``learned_variance`` is optional: an object
    that has it, and it is true, is given outputs of twice the channels: what ``wants`` names, then the network's
    variance.
    """

    @property
    def steps(self) -> int: ...

    @property
    def order_in_time(self) -> int: ...

    @property
    def stochastic(self) -> bool: ...

    @property
    def wants(self) -> Prediction: ...

    def apply(self, n: Tensor, x: Tensor, m: Tensor, z: Tensor | None) -> Tensor: ...


class BaseStepper(ABC, Generic[ConfigT]):
    """A numerical method that steps from noise to data. Immutable; all of a run's state lives in the driver.

    Attributes:
        order: of convergence, for a smooth deterministic problem.
    """

    api_version = API_VERSION
    config_cls: type[ComponentConfig] = ComponentConfig
    order: int = 1

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def nodes(self, grid: TimeGrid, noise: NoiseSchedule) -> TimeGrid:
        """The nodes at which the network is evaluated: the grid itself unless the method has inner stages."""
        return grid

    @abstractmethod
    def table(self, nodes: TimeGrid) -> StepTable:
        """The step table, a pure function of what :meth:`nodes` returned.

        Raises:
            ValueError: the method does not exist on these nodes or is not affine; the message names one that does.
        """

    def rule(self, nodes: TimeGrid) -> StepRule:
        """What the driver applies. A method that is not affine overrides this, and :meth:`table` to refuse."""
        return self.table(nodes)
