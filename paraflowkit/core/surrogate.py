"""How a solver marches through a sampler that is not ours, such as a pipeline's own loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class View:
    """One step of a foreign sampler, as a surrogate sees it. Rows are those of the sampler's state.

    Attributes:
        node: index of the step. x: the marched state. at: x°, at which the network was evaluated; x itself in rows
            whose state was never evaluated. output: what the sampler makes of the outputs at x°, after guidance.
        before_at, before_output: those of the evaluation before the last one, or None.
    """

    node: int
    x: Tensor
    at: Tensor
    output: Tensor
    before_at: Tensor | None = None
    before_output: Tensor | None = None


@dataclass(frozen=True)
class Move:
    """A step to take: ``step(output, from x) + shift``."""

    output: Tensor
    x: Tensor
    shift: Tensor | None = None


@dataclass(frozen=True)
class Surrogate:
    """The stand-in Ĝ for how a step Φ depends on its state: here, the step itself with its network output held.

    A sweep marches ``x[n+1] = Φ_n(x°_n) + Ĝ_n(x_n) - Ĝ_n(x°_n)`` from the exact front, and then evaluates the network
    at the marched states in one batch. Where a state equals the one that was evaluated, the step is the sampler's own.

    Attributes:
        entering: of states that were never evaluated: the sampler rolled on with the network's last output held, or the
            last state. degree: nodes at the front that are evaluated; None is the whole window. slopes: :meth:`move`
            looks at the evaluation before the last one.
    """

    entering: Literal["held", "constant"] = "held"
    degree: int | None = None
    slopes: bool = False

    def move(self, view: View) -> Move:
        """The step to take where the state is not the evaluated one."""
        return Move(view.output, view.x)


@dataclass(frozen=True)
class Picard(Surrogate):
    """Ĝ(x) = x: Picard iteration, as in ParaDiGMS, ParaSolver and ParaFlow, for any sampler.

    Source: Shih et al., Parallel Sampling of Diffusion Models, NeurIPS 2023, equation 6, with Φ_n(x) - x as the drift.
    """

    def move(self, view: View) -> Move:
        return Move(view.output, view.at, view.x - view.at)
