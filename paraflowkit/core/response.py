"""What the states of an affine sampler are made of, when its network is a surrogate in data-prediction space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paraflowkit.core.problem import Problem
from paraflowkit.table import StepTable


@dataclass(frozen=True)
class Response:
    """The linear map from data predictions to states.

    With the output at node i written as ``m_i = p_i x_i + q_i h_i``, h being the data prediction, the step table is::

        x[n+1] = sum_i A[n, i] x[i] + sum_i B[n, i] h[i] + s[n] z[n],   A[n, i] = a[n, n-i] + b[n, n-i] p_i,
                                                                       B[n, i] = b[n, n-i] q_i

    so states are ``T (B h + what the past and the noise add)`` with T = (I - L)⁻¹, L being A on the states after node
    0. T of a window is the same rows and columns of T, because the system is triangular.

    Attributes:
        own, data: float64 ``(N, K)``, A and B by how far they look back. table: of the sampler.
        inverse: float64 ``(N, N)``, T: the derivative of x[n+1] with respect to what step j adds to x[j+1].
        raw: bool ``(N,)``, nodes where the output itself is h, because it does not follow from a data prediction.
    """

    table: StepTable
    own: Tensor
    data: Tensor
    inverse: Tensor
    raw: Tensor

    @classmethod
    def of(cls, problem: Problem) -> Response:
        """For a problem whose rule is a step table."""
        table = problem.rule
        assert isinstance(table, StepTable)  # checked by the caller; this is for the type checker
        steps, depth = table.steps, table.order_in_time
        of_x, of_h = problem.held
        raw = (of_h == 0) if not problem.nominal else np.ones(steps, dtype=bool)
        of_x, of_h = np.where(raw, 0.0, of_x), np.where(raw, 1.0, of_h)
        a, b = table.a.cpu().numpy(), table.b.cpu().numpy()
        at = np.maximum(np.arange(steps)[:, None] - np.arange(depth), 0)
        own, data = a + b * of_x[at], b * of_h[at]
        inverse = np.eye(steps)
        for n in range(1, steps):  # row n: what x[n+1] takes from each step up to n
            for j in range(min(n, depth)):
                inverse[n, :n] += own[n, j] * inverse[n - 1 - j, :n]
        return cls(
            table, torch.from_numpy(own), torch.from_numpy(data), torch.from_numpy(inverse), torch.from_numpy(raw)
        )

    def of_data(self, n: Tensor) -> Tensor:
        """Derivatives of the window's states x[n+1] with respect to the data predictions at its nodes.

        Args:
            n: int64 ``(samples, W)``, consecutive steps, the last one repeated on padding.

        Returns:
            float64 ``(samples, W, W)``, lower triangular; rows and columns of padding mean nothing.
        """
        inverse, width = self.within(n), n.shape[1]
        made = torch.zeros_like(inverse)
        for back in range(min(self.data.shape[1], width)):  # what step i + back does with the prediction at i
            made[:, :, : width - back] += inverse[:, :, back:] * self.data[n[:, back:], back][:, None]
        return made

    def within(self, n: Tensor) -> Tensor:
        """T on the steps ``n (samples, W)``, float64 ``(samples, W, W)``."""
        return self.inverse[n[:, :, None], n[:, None, :]].tril()

    def past(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of the window's states with respect to what lies behind it.

        Returns:
            float64 ``(samples, W, K)`` for the states of nodes ``n[:, 0] - K + 1`` … ``n[:, 0]``, the output at the
            front included, and ``(samples, W, K - 1)`` for the outputs of all of them but the last.
        """
        depth, width = self.own.shape[1], n.shape[1]
        of_x = self.own.new_zeros(len(n), width, depth)
        of_m = self.own.new_zeros(len(n), width, depth - 1)
        a, b = self.table.a, self.table.b
        for c in range(min(width, depth)):  # later steps look at nodes of the window only
            for back in range(c, depth):
                position = depth - 1 + c - back
                if position == depth - 1:
                    of_x[:, c, position] += self.own[n[:, c], back]
                else:
                    of_x[:, c, position] += a[n[:, c], back]
                    of_m[:, c, position] += b[n[:, c], back]
        within = self.within(n)
        return within @ of_x, within @ of_m
