"""Marches of the sampler through a surrogate of the network, shared by solvers."""

from __future__ import annotations

import torch
from torch import Tensor

from paraflowkit.core.solver import Sweep


def picard(sweep: Sweep) -> Tensor:
    """The march whose surrogate says that a step hands its state on unchanged (Ĝ = identity).

    ``x[n+1] = Φ_n(x°[n]) + (x[n] - x°[n])``, which telescopes to Picard's cumulative sum
    ``x[n+1] = x[lo] + sum_{i=lo..n} (Φ_i(x°[i]) - x°[i])``. Written with the corrections summed apart, the first new
    state is Φ itself without rounding. Source: Shih et al., ParaDiGMS, NeurIPS 2023, equation 8.
    """
    residual = sweep.phi - sweep.after
    correction = torch.cumsum(residual, 1) - residual
    correction[:, 0] = 0
    return sweep.phi + correction
