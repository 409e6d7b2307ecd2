"""Step tables: a sampler written as an affine recurrence over the nodes of its grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from paraflowkit.prediction import Prediction

__all__ = ["StepTable", "per_step"]


def per_step(values: Tensor, n: Tensor, like: Tensor) -> Tensor:
    """The values of steps n, ready to weight ``like``.

    Args:
        values: float64 ``(N,)``. n: int64 ``(samples, W)``. like: ``(samples, W, *shape)``.

    Returns:
        ``(samples, W, 1, …)`` of like's dtype and device.
    """
    return values.to(like.device)[n].to(like.dtype).view(*n.shape, *(1,) * (like.ndim - 2))


@dataclass(frozen=True)
class StepTable:
    """The coefficients of one sampler on one grid, float64.

    Step n, from node n to n + 1, is::

        x[n+1] = sum_j a[n, j] x[n-j] + sum_j b[n, j] m[n-j] + s[n] z[n]

    where m is the model's output in the parameterisation ``wants`` and z is unit Gaussian noise drawn beforehand. Every
    row looks back only, so the N steps form a strictly triangular system.

    Attributes:
        a, b: ``(N, K)``: weights of the last K states and outputs. s: ``(N,)``: weights of the noise.
        wants: what m is: the data, the noise, v or the velocity.

    Raises:
        TypeError: a coefficient is not float64. ValueError: shapes disagree, a value is not finite, or a step looks
            behind node 0.
    """

    a: Tensor
    b: Tensor
    s: Tensor
    wants: Prediction

    def __post_init__(self) -> None:
        for name, value in (("a", self.a), ("b", self.b), ("s", self.s)):
            if value.dtype != torch.float64:
                raise TypeError(f"StepTable.{name} must be float64, got {value.dtype}.")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"StepTable.{name} holds a value that is not finite.")
        if self.a.ndim != 2 or self.a.shape != self.b.shape or self.s.shape != self.a.shape[:1] or not self.a.numel():
            raise ValueError(
                "StepTable needs a and b of one shape (N, K) and s of shape (N,); got "
                f"{tuple(self.a.shape)}, {tuple(self.b.shape)} and {tuple(self.s.shape)}."
            )
        for n in range(min(self.steps, self.order_in_time - 1)):
            if bool(self.a[n, n + 1 :].any()) or bool(self.b[n, n + 1 :].any()):
                raise ValueError(f"StepTable: step {n} uses a node before node 0, which does not exist.")

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return self.a.shape[0]

    @property
    def order_in_time(self) -> int:
        """K, how many nodes a step looks at."""
        return self.a.shape[1]

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return self._noisy

    @cached_property
    def _noisy(self) -> bool:
        return bool(self.s.any())

    @cached_property
    def _used(self) -> list[tuple[bool, bool]]:
        """Whether any step weights the state, and the output, so many nodes back; looked up in every sweep."""
        pairs = torch.stack([self.a.ne(0).any(0), self.b.ne(0).any(0)], 1).tolist()
        return [(bool(a), bool(b)) for a, b in pairs]

    def apply(self, n: Tensor, x: Tensor, m: Tensor, z: Tensor | None) -> Tensor:
        """Take W consecutive steps of each sample at once, every step from the given states.

        Args:
            n: int64 ``(samples, W)``, the steps; consecutive along W.
            x, m: ``(samples, K - 1 + W, *shape)``: states and outputs of nodes ``n[:, 0] - K + 1`` … ``n[:, -1]``.
            z: ``(samples, W, *shape)`` or None where no step is stochastic.

        Returns:
            The next states, ``(samples, W, *shape)``, of x's dtype.
        """
        history, width = self.order_in_time - 1, n.shape[1]
        total = torch.zeros_like(x[:, history:])
        for j, (state, output) in enumerate(self._used):
            there = slice(history - j, history - j + width)
            if state:
                total = total + per_step(self.a[:, j], n, x) * x[:, there]
            if output:
                total = total + per_step(self.b[:, j], n, x) * m[:, there]
        if z is not None and self.stochastic:
            total = total + per_step(self.s, n, x) * z
        return total

    def unroll(self, lo: int, hi: int) -> Tensor:
        """The effect of each step of ``[lo, hi)`` on every later state, through the states' weights ``a`` alone.

        Returns:
            float64 ``(hi - lo, hi - lo)``, ``(I - L)^-1``, lower triangular with unit diagonal: entry (i, j) is the
            derivative of ``x[lo+i+1]`` with respect to whatever is added to ``x[lo+j+1]`` with all outputs m held.

        Raises:
            ValueError: not 0 ≤ lo < hi ≤ N.
        """
        if not 0 <= lo < hi <= self.steps:
            raise ValueError(f"unroll needs 0 <= lo < hi <= {self.steps}, got [{lo}, {hi}).")
        size = hi - lo
        system = torch.eye(size, dtype=torch.float64)
        for i in range(size):
            for j in range(min(i, self.order_in_time)):
                system[i, i - 1 - j] -= self.a[lo + i, j]
        eye = torch.eye(size, dtype=torch.float64)
        return torch.linalg.solve_triangular(system, eye, upper=False, unitriangular=True)
