"""How a solver marches through a sampler that is not ours, such as a pipeline's own loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """What a step's state and output mean, where the sampler is known.

    Attributes:
        alpha, sigma: the state is ``alpha data + sigma noise``. of_x, of_output: the data prediction is
            ``of_x x + of_output output``.
    """

    alpha: float
    sigma: float
    of_x: float
    of_output: float


@dataclass(frozen=True)
class View:
    """One step of a foreign sampler, as a surrogate sees it. Rows are those of the sampler's state.

    Attributes:
        node: index of the step. x: the marched state. at: x°, at which the network was evaluated; x itself in rows
            whose state was never evaluated. output: what the sampler makes of the outputs at x°, after guidance.
        before_at, before_output: those of the evaluation before the last one, or None; in rows that had none,
            ``before_at`` is that of the last one. level: of the step, or None where the sampler is not known.
    """

    node: int
    x: Tensor
    at: Tensor
    output: Tensor
    before_at: Tensor | None = None
    before_output: Tensor | None = None
    level: Level | None = None


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


@dataclass(frozen=True)
class SecantLine(Surrogate):
    """Ĝ(x) is the step with its output moved along the line through the step's last two evaluations: quasi-Newton.

    With Δx and Δm the differences of the two states and outputs, and e the way from x° to x, the output at x is ::

        m + κ e + (Δm - κ Δx) <Δx, e> / <Δx, Δx>,   κ = <Δx, Δm> / <Δx, Δx>,

    which is Broyden's update of the scalar κ: it fits both evaluations, and knows one number in all other directions.
    Where e is longer than Δx, the correction is that of its length. Steps that were evaluated once have the slope of a
    Gaussian prior; where the sampler is not known, they march as with :class:`Picard`. Each row is on its own.

    Attributes:
        spread: variance of the prior's data, which guidance makes large; None is no prior.

    Source: Broyden, A Class of Methods for Solving Nonlinear Simultaneous Equations, Math. Comp. 19, 1965, method 1.
    """

    slopes: bool = True
    spread: float | None = 2.0

    def move(self, view: View) -> Move:
        x, at, output = view.x, view.at, view.output
        if output.shape != x.shape:  # learned variances: there is no slope between spaces of two sizes
            return Picard().move(view)
        wide = torch.promote_types(torch.promote_types(x.dtype, output.dtype), torch.float32)
        way = (x.to(wide) - at.to(wide)).flatten(1)
        prior = self._prior(view.level)
        change, known = way * (prior or 0.0), torch.full_like(way[:, :1], prior is not None, dtype=torch.bool)
        pair = _pair(view, wide)
        if pair is not None:
            dx, dm = pair
            square = (dx * dx).sum(1, keepdim=True)
            seen = square > 0
            safe = torch.where(seen, square, 1)
            kappa = (dx * dm).sum(1, keepdim=True) / safe
            line = kappa * way + (dx * way).sum(1, keepdim=True) / safe * (dm - kappa * dx)
            tiny = torch.finfo(wide).tiny
            shorter = (square.sqrt() / way.norm(dim=1, keepdim=True).clamp(min=tiny)).clamp(max=1)
            change, known = torch.where(seen, line * shorter, change), known | seen
        moved = (way != 0).any(1, keepdim=True)
        shape = (-1, *(1,) * (x.ndim - 1))
        picard, on = (moved & ~known).view(shape), (moved & known).view(shape)
        output = torch.where(on, (output.to(wide) + change.view_as(output)).to(output.dtype), output)
        if not bool(picard.any()):
            return Move(output, x)
        # Adding -0.0 keeps every bit of the other rows.
        return Move(output, torch.where(picard, at, x), torch.where(picard, x - at, -0.0))

    def _prior(self, level: Level | None) -> float | None:
        """Slope of a step's output where that of the data prediction is α s² / (σ² + α² s²)."""
        if level is None or self.spread is None or not level.of_output:
            return None
        kappa = level.alpha * self.spread / (level.sigma**2 + level.alpha**2 * self.spread)
        return (kappa - level.of_x) / level.of_output


def _pair(view: View, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Differences of the states and the outputs of the last two evaluations, ``(rows, D)``, 0 where there was one."""
    at, output = view.before_at, view.before_output
    if at is None or output is None or at.shape != view.at.shape or output.shape != view.output.shape:
        return None
    dx = (view.at.to(dtype) - at.to(dtype)).flatten(1)
    return dx, (view.output.to(dtype) - output.to(dtype)).flatten(1)
