"""Precision and recall of a set of features against another, by nearest neighbours [1].

A set's manifold is the union of balls around its members, each as wide as the distance to its k-th nearest neighbour.
Precision is the share of generated images inside the manifold of the references, recall the reverse.

[1] Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Rows of a matrix of distances that are in memory at once.
_ROWS = 512


def radii(features: Tensor, neighbours: int = 3) -> Tensor:
    """Distance ``(n,)`` of each of the features ``(n, d)`` to its k-th nearest neighbour in the set."""
    # A point is its own nearest neighbour, hence one more.
    parts = [torch.cdist(part, features).kthvalue(neighbours + 1).values for part in features.split(_ROWS)]
    return torch.cat(parts)


def covered(points: Tensor, features: Tensor, balls: Tensor) -> float:
    """Share of the points ``(m, d)`` that lie in a ball around one of the features ``(n, d)``, of radii ``(n,)``."""
    inside = [(torch.cdist(part, features) <= balls).any(1) for part in points.split(_ROWS)]
    return torch.cat(inside).double().mean().item()


def precision_recall(references: Tensor, made: Tensor, neighbours: int = 3) -> tuple[float, float] | None:
    """Precision and recall of generated features ``(m, d)`` to references ``(n, d)``.

    Returns:
        Both in 0 … 1, or None where one of the sets has no more than ``neighbours`` members.
    """
    if min(len(references), len(made)) <= neighbours:
        return None
    precision = covered(made, references, radii(references, neighbours))
    return precision, covered(references, made, radii(made, neighbours))
