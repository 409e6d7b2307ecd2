"""The interface of parallel solvers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from paraflowkit.core import API_VERSION
from paraflowkit.core.config import SolverConfig
from paraflowkit.core.problem import Problem
from paraflowkit.core.surrogate import Surrogate
from paraflowkit.core.window import WindowPolicy

StateT = TypeVar("StateT")
SolverConfigT = TypeVar("SolverConfigT", bound=SolverConfig)


@dataclass(frozen=True)
class Spent:
    """What a solve has taken so far.

    Attributes:
        model_seconds: in calls of the network. aside: seconds in callbacks. calls, rows: of the network.
    """

    model_seconds: float = 0.0
    aside: float = 0.0
    calls: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Sweep:
    """What a solver sees in one sweep. Samples whose windows are shorter than ``width`` carry padding behind them.

    Attributes:
        problem: what is solved.
        n: int64 ``(samples, width)``, the steps of each window (padding repeats the last step).
        valid: bool ``(samples, width)``, False on padding.
        evaluated: bool ``(samples, width)``, the nodes whose output is the network's at their state x°. Elsewhere
            ``m`` holds nothing of use, and ``phi`` the old state of the next node.
        phi: ``(samples, width, *shape)``, one step of the sampler from x°, Φ_n(x°), with true history and noise.
        states: ``(samples, history + width + 1, *shape)``, x° of the nodes ``lo - history`` … ``lo + width``.
        outputs: ``(samples, history + width, *output_shape)``, the outputs of those nodes but the last.
        z: ``(samples, width, *shape)``, the noise of the steps, or None where the sampler adds none.
        history: nodes behind the front that the sampler looks at.
        spent: since the solve began, with the calls of this sweep.
    """

    problem: Problem
    n: Tensor
    valid: Tensor
    evaluated: Tensor
    phi: Tensor
    states: Tensor
    outputs: Tensor
    z: Tensor | None
    history: int
    spent: Spent = Spent()

    @property
    def x(self) -> Tensor:
        """``(samples, width, *shape)``, the states x° at nodes n, at which the network was evaluated."""
        return self.states[:, self.history : -1]

    @property
    def after(self) -> Tensor:
        """``(samples, width, *shape)``, the states x° at nodes n + 1."""
        return self.states[:, self.history + 1 :]

    @property
    def m(self) -> Tensor:
        """``(samples, width, *output_shape)``, the outputs at nodes n."""
        return self.outputs[:, self.history :]


@dataclass(frozen=True)
class Update:
    """What a solver makes of a sweep, where the new states alone do not say it.

    Attributes:
        states: ``(samples, width, *shape)``, the new states at nodes n + 1.
        residual: float64 ``(samples, width)``, what the tolerance is compared with, by default the mean squared change
            of each state. It is divided by the norm's scale.
        limit: int64 ``(samples,)``, the most states that may be accepted now; by default as many as there are leading
            nodes that are ``evaluated``, so that nothing is accepted that the network has not seen. The first state,
            which is exact, is always accepted.
        least: int64 ``(samples,)``, the fewest states that must be accepted now, 1 by default: the first is exact. With
            0 the front may wait, as long as N sweeps still suffice.
        outputs: ``(samples, width, *output_shape)``, for steps that look back at nodes that are accepted though they
            were never evaluated; by default those of the last evaluated node's data prediction.
        alone: take the remaining steps one by one: all later windows have one node. Processes that share a solve must
            all ask for it.
    """

    states: Tensor
    residual: Tensor | None = None
    limit: Tensor | None = None
    least: Tensor | None = None
    outputs: Tensor | None = None
    alone: bool = False


class ParallelSolver(ABC, Generic[SolverConfigT, StateT]):
    """Improves the states of a window from one batched evaluation of the network.

    The contract: the new x[lo+1] equals ``phi`` at the front, bit for bit, so each sweep makes one more state exact.
    Configuration is frozen and the state of a solve is passed in and out, so one object may serve many solves at once.
    :mod:`paraflowkit.testing` checks all of it.

    Attributes:
        max_window: longest window that makes sense, or None. Sequential sampling is a window of one.
        whole: the solver lays out the whole trajectory itself, so the window is all N steps whatever the policy says.
        interpolates: at a tolerance above 0 it accepts states of steps between evaluated nodes.
        clocked: it times the network before the first sweep, and decides by the clock, so that two solves may differ.
    """

    api_version = API_VERSION
    config_cls: type[SolverConfig] = SolverConfig
    max_window: int | None = None
    whole: bool = False
    interpolates: bool = False
    clocked: bool = False
    #: Refuse steppers that are not affine, at composition.
    needs_table: bool = False

    def __init__(self, config: SolverConfigT) -> None:
        self.config = config

    @abstractmethod
    def init(self, problem: Problem) -> StateT:
        """The state before the first sweep: an immutable dataclass, or None.

        Raises:
            ValueError: the solver's settings do not fit the problem; the message names the remedy.
        """

    def opened(self, state: StateT, most: int) -> StateT:
        """The state of a solve whose window is known: at most ``most`` nodes are evaluated in a sweep of a sample."""
        return state

    def stretch(self, state: StateT) -> int:
        """Steps of a window for each node that the policy asks for, by default 1.

        More where a solver evaluates some of the window's nodes only: of those that :meth:`select` names, the first are
        evaluated, as many as the policy asks for.
        """
        return 1

    def window(self, state: StateT, policy: WindowPolicy[Any]) -> WindowPolicy[Any]:
        """The policy of a solve: the run's, unless the solver knows better."""
        return policy

    def surrogate(self) -> Surrogate | None:
        """How a sweep marches through a sampler that is not ours, such as a diffusers pipeline's loop; by default None:
        it cannot."""
        return None

    def select(self, state: StateT, n: Tensor, valid: Tensor) -> Tensor:
        """The nodes whose outputs the next sweep needs, by default all of the window.

        Args:
            state: of the solve. n, valid: as in :class:`Sweep`.

        Returns:
            bool ``(samples, width)``. The front is always evaluated; a node whose state has not moved since its last
            evaluation is not evaluated again.
        """
        return valid

    @abstractmethod
    def sweep(self, state: StateT, sweep: Sweep) -> tuple[Tensor | Update, StateT]:
        """The new states at nodes n + 1, ``(samples, width, *shape)``, or an :class:`Update`, and the next state.

        Nothing in ``sweep`` may be changed in place, and no sample may look at another. States of padding are ignored.
        """
