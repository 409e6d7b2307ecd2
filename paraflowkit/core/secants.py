"""Slopes of the data prediction, one number a node, from the states at which the network has been evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Bounds of a slope, the upper one over alpha, which bounds the slope of a perfect network.
LOWEST, HIGHEST = -0.5, 1.5


@dataclass(frozen=True)
class Secants:
    """What is remembered of the last evaluation of each node of the windows, and how the prediction changed since.

    With κ_n = ⟨Δx, Δh⟩ / ⟨Δx, Δx⟩ of a node's last two evaluations, pooled with its neighbours', the prediction at a
    new state is ``h_n + κ_n (x - x_n)``.

    Attributes:
        lo: int64 ``(samples,)``, the fronts. x, h: ``(samples, W, D)``, last evaluated states and predictions.
        have: bool ``(samples, W)``, nodes that hold them. num, den: float64 ``(samples, W)``, ⟨Δx, Δh⟩ and ⟨Δx, Δx⟩ of
            the last two evaluations, 0 where there were none. dx, dh: ``(samples, W, D)``, Δx and Δh themselves, in
            float32 or wider, of the last change that was more than rounding.
    """

    lo: Tensor
    x: Tensor
    h: Tensor
    have: Tensor
    num: Tensor
    den: Tensor
    dx: Tensor
    dh: Tensor

    @classmethod
    def empty(cls, samples: int, width: int, size: int, like: Tensor) -> Secants:
        """Nothing seen yet, of windows of ``width`` nodes and states of ``size`` numbers like those of ``like``."""
        flat = torch.zeros(samples, width, dtype=torch.float64, device=like.device)
        return cls(
            lo=torch.zeros(samples, dtype=torch.int64, device=like.device),
            x=like.new_zeros(samples, width, size),
            h=like.new_zeros(samples, width, size),
            have=torch.zeros(samples, width, dtype=torch.bool, device=like.device),
            num=flat,
            den=flat,
            dx=like.new_zeros(samples, width, size),
            dh=like.new_zeros(samples, width, size),
        )

    def moved(self, lo: Tensor) -> Secants:
        """The same nodes in windows that begin at ``lo``."""
        width = self.x.shape[1]
        source = torch.arange(width, device=lo.device) + (lo - self.lo)[:, None]
        inside, at = source < width, source.clamp(max=width - 1)
        rows = torch.arange(len(lo), device=lo.device)[:, None]

        def pick(old: Tensor) -> Tensor:
            return torch.where(inside, old[rows, at], 0)

        return Secants(
            lo,
            self.x[rows, at],
            self.h[rows, at],
            self.have[rows, at] & inside,
            pick(self.num),
            pick(self.den),
            self.dx[rows, at],
            self.dh[rows, at],
        )

    def seen(self, x: Tensor, h: Tensor, evaluated: Tensor) -> Secants:
        """Take in an evaluation.

        Args:
            x, h: ``(samples, W, D)``, states and predictions where ``evaluated``, bool ``(samples, W)``.
        """
        dx, dh = (x - self.x), (h - self.h)
        wide = dx.dtype if dx.dtype == torch.float64 else torch.float32
        dx, dh = dx.to(wide), dh.to(wide)
        den, num = (dx * dx).sum(2).double(), (dx * dh).sum(2).double()
        # A change that is all rounding says nothing.
        fresh = evaluated & self.have & (den > 1e-12 * (x.to(wide).square().sum(2).double() + 1e-30))
        num, den = torch.where(fresh, num, self.num), torch.where(fresh, den, self.den)
        keep, changed = evaluated[..., None], fresh[..., None]
        return Secants(
            self.lo,
            torch.where(keep, x, self.x),
            torch.where(keep, h, self.h),
            self.have | evaluated,
            num,
            den,
            torch.where(changed, dx, self.dx),
            torch.where(changed, dh, self.dh),
        )

    def slopes(self, nodes: Tensor, prior: Tensor) -> Tensor:
        """κ, float64 ``(samples, W)``: each node's secant pooled with those of the next nodes on either side.

        Args:
            nodes: bool ``(samples, W)``, where slopes are wanted. prior: those where there is no secant.
        """
        order = torch.where(nodes, nodes.long().cumsum(1), 0)  # neighbours are nodes whose numbers differ by one
        pooled: list[Tensor] = []
        for values in (self.num, self.den):
            row = values.new_zeros(len(values), values.shape[1] + 2)
            row.scatter_(1, order, torch.where(nodes, values, 0.0))
            row[:, 0] = 0  # where all that is no node went
            row[:, 1:-1] = row[:, :-2] + row[:, 1:-1] + row[:, 2:]
            pooled.append(row.gather(1, order))
        return torch.where(nodes & (pooled[1] > 0), pooled[0] / pooled[1].clamp(min=1e-300), prior)
