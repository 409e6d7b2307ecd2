"""The scales that tolerances are measured in."""

from __future__ import annotations

import torch
from torch import Tensor

from paraflowkit.grid import TimeGrid


def tolerance_scales(norm: str, nodes: TimeGrid) -> Tensor:
    """The factor of ``tolerance²`` for the state after each step, float64 ``(N,)``.

    ``absolute`` is 1 (ParaFlow, algorithm 1). ``sigma`` is the noise variance sigma(t[n+1])² of the state (as printed
    by ParaDiGMS and ParaSolver). ``posterior`` is the variance of q(x[n+1] | x[n], data), which the public code of
    ParaDiGMS uses. Where a scale is 0, at the clean end and at inner stages of a step, the last positive one before it
    stands in (or the first after it): otherwise such a state could never be accepted early.

    Raises:
        ValueError: the norm's name is unknown.
    """
    alpha, sigma = nodes.alpha, nodes.sigma
    if norm == "absolute":
        return torch.ones(nodes.steps, dtype=torch.float64)
    if norm == "sigma":
        scale = sigma[1:].square()
    elif norm == "posterior":
        kept = (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])).square()
        scale = sigma[1:].square() * (1 - kept)
    else:
        raise ValueError(f"Unknown norm {norm!r}: use absolute, sigma or posterior.")
    usable = scale > 1e-14
    if not bool(usable.any()):
        return torch.ones_like(scale)
    last = int(usable.nonzero()[0])
    source: list[int] = []
    for n, good in enumerate(usable.tolist()):
        last = n if good else last
        source.append(last)
    return scale[source]
