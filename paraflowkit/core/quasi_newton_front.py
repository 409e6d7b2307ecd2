"""Where the front of a lattice may go: to an evaluated node, past steps between nodes that are near enough.

For :mod:`paraflowkit.core.quasi_newton`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from paraflowkit.core.interpolation import leaving_out, left_out


def between(
    made: Tensor, columns: Sequence[list[int]], spacing: list[int], limit: dict[int, int]
) -> dict[int, float | None]:
    """The errors of interpolating in some samples' windows, up to a column of each; None where nobody can tell."""
    weights = {i: leaving_out(tuple(columns[i]), spacing[i], last) for i, last in limit.items()}
    known = {i: each for i, each in weights.items() if each is not None}
    if not known:
        return dict.fromkeys(limit)
    most = max(len(columns[i]) for i in known)
    at = torch.tensor([columns[i] + [0] * (most - len(columns[i])) for i in known], device=made.device)
    errors = left_out(list(known.values()), made[torch.tensor(list(known), device=made.device)[:, None], at])
    return {**dict.fromkeys(limit), **dict(zip(known, errors, strict=True))}


def front(nodes: list[int], leading: int, length: int) -> int:
    """How many states to accept so that the front is an evaluated node, or 0.

    Args:
        nodes: columns of the window that are evaluated. leading: states that have converged. length: of the window.
    """
    best = 0
    for before, node in pairwise(nodes):
        if node <= leading or (node == before + 1 and before <= leading):
            best = node
        else:
            break
    last = nodes[-1]
    if last == length - 1 and (best == last or last == 0):
        best = length  # one step from an evaluated node
    return best
