"""The scales that tolerances are measured in."""

from __future__ import annotations

import torch
from torch import Tensor

from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule


def tolerance_scales(norm: str, nodes: TimeGrid, noise: NoiseSchedule) -> Tensor:
    """The factor of ``tolerance²`` for the state after each step, float64 ``(N,)``.

    ``absolute`` is 1 (ParaFlow, algorithm 1). ``sigma`` is the noise variance sigma(t[n+1])² of the state (as printed
    by ParaDiGMS and ParaSolver). ``posterior`` is the variance of q(x[n+1] | x[n], data), which the public code of
    ParaDiGMS uses. Where a scale is 0, at the clean end, the last positive one stands in: otherwise the final state
    could never be accepted early.

    Raises:
        ValueError: the norm's name is unknown.
    """
    alpha, sigma = noise.alpha(nodes.t), noise.sigma(nodes.t)
    if norm == "absolute":
        return torch.ones(nodes.steps, dtype=torch.float64)
    if norm == "sigma":
        scale = sigma[1:].square()
    elif norm == "posterior":
        kept = (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])).square()
        scale = sigma[1:].square() * (1 - kept)
    else:
        raise ValueError(f"Unknown norm {norm!r}: use absolute, sigma or posterior.")
    positive = scale[scale > 1e-14]
    floor = positive[-1] if len(positive) else torch.tensor(1.0, dtype=torch.float64)
    return torch.where(scale > 1e-14, scale, floor)
