"""The interface of parallel solvers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from paraflowkit.core import API_VERSION
from paraflowkit.core.config import SolverConfig
from paraflowkit.core.problem import Problem

StateT = TypeVar("StateT")
SolverConfigT = TypeVar("SolverConfigT", bound=SolverConfig)


@dataclass(frozen=True)
class Sweep:
    """What a solver sees in one sweep. Samples whose windows are shorter than ``width`` carry padding behind them.

    Attributes:
        n: int64 ``(samples, width)``, the steps of each window (padding repeats the last step).
        x: ``(samples, width, *shape)``, the states x° at nodes n, at which the network was evaluated.
        after: ``(samples, width, *shape)``, the states x° at nodes n + 1.
        phi: ``(samples, width, *shape)``, one step of the sampler from them, Φ_n(x°), with true history and noise.
        m: ``(samples, width, *output_shape)``, the outputs at nodes n.
        valid: bool ``(samples, width)``, False on padding.
    """

    n: Tensor
    x: Tensor
    after: Tensor
    phi: Tensor
    m: Tensor
    valid: Tensor


class ParallelSolver(ABC, Generic[SolverConfigT, StateT]):
    """Improves the states of a window from one batched evaluation of the network.

    The contract: the new x[lo+1] equals ``phi`` at the front, bit for bit, so each sweep makes one more state exact.
    Configuration is frozen and the state of a solve is passed in and out, so one object may serve many solves at once.

    Attributes:
        max_window: longest window that makes sense, or None. Sequential sampling is a window of one.
    """

    api_version = API_VERSION
    config_cls: type[SolverConfig] = SolverConfig
    max_window: int | None = None
    #: Refuse steppers that are not affine, at composition.
    needs_table: bool = False

    def __init__(self, config: SolverConfigT) -> None:
        self.config = config

    @abstractmethod
    def init(self, problem: Problem) -> StateT:
        """The state before the first sweep."""

    @abstractmethod
    def sweep(self, state: StateT, sweep: Sweep) -> tuple[Tensor, StateT]:
        """The new states at nodes n + 1, ``(samples, width, *shape)``, and the solver's next state.

        Nothing in ``sweep`` may be changed in place.
        """
