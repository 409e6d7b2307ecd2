"""Interpolation in time of what was evaluated at some nodes only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paraflowkit.core.problem import Problem
from paraflowkit.table import StepTable

Array = NDArray[np.float64]

#: Leaving out every other node makes the interpolation's error so many times larger, on the shipped networks.
COARSER = 2.7
#: Nodes of a lattice that meets an error of 1e-2, and the power of the error to which a smaller one takes more.
NODES, POWER = 12.5, 0.54


def cubic(nodes: Array, at: Array) -> Array:
    """Weights of piecewise cubic Hermite interpolation; beyond the last node its value is held.

    The slope at a node is that of the parabola through it and its neighbours (Bessel's), so that cubics' leading terms
    are met on uneven nodes too.

    Args:
        nodes: increasing ``(P,)``. at: ``(W,)``, none before the first node.

    Returns:
        ``(W, P)``; rows sum to 1.
    """
    count = len(nodes)
    eye = np.eye(count)
    if count == 1:
        return np.ones((len(at), 1))
    gap = np.diff(nodes)
    chord = np.diff(eye, axis=0) / gap[:, None]
    slope = np.empty((count, count))
    if count == 2:
        slope[:] = chord[0]
    else:
        slope[1:-1] = (gap[1:, None] * chord[:-1] + gap[:-1, None] * chord[1:]) / (gap[:-1] + gap[1:])[:, None]
        slope[0] = chord[0] + (chord[0] - chord[1]) * (gap[0] / (gap[0] + gap[1]))
        slope[-1] = chord[-1] + (chord[-1] - chord[-2]) * (gap[-1] / (gap[-1] + gap[-2]))
    k = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, count - 2)
    u = np.minimum((at - nodes[k]) / gap[k], 1.0)[:, None]
    width = gap[k][:, None]
    made = (1 + 2 * u) * (1 - u) ** 2 * eye[k] + u**2 * (3 - 2 * u) * eye[k + 1]
    return made + width * (u * (1 - u) ** 2 * slope[k] + u**2 * (u - 1) * slope[k + 1])


def linear(nodes: Array, at: Array) -> Array:
    """Weights of linear interpolation; beyond the last node its value is held. As :func:`cubic`."""
    return np.stack([np.interp(at, nodes, row) for row in np.eye(len(nodes))], 1)


@lru_cache(maxsize=256)
def over_window(nodes: tuple[int, ...], width: int, straight: bool = False) -> Array:
    """The weights ``(width, P)`` of a window's columns 0, 1, …, by :func:`cubic`, or :func:`linear` where ``straight``.

    Args:
        nodes: columns, increasing; the first may be negative, before the window.
    """
    made = (linear if straight else cubic)(np.asarray(nodes, dtype=float), np.arange(width, dtype=float))
    made.flags.writeable = False  # it is handed out again
    return made


@lru_cache(maxsize=256)
def leaving_out(nodes: tuple[int, ...], spacing: int, last: int) -> Array | None:
    """Weights ``(R, P)`` of what interpolation misses at the nodes that can be left out, or None where there are none.

    Args:
        nodes: columns, increasing. spacing: between them; a node is left out if it stands halfway between two that are
            twice as far apart. last: nodes after it are not.
    """
    at = np.asarray(nodes, dtype=float)
    inner = [k for k in range(1, len(at) - 1) if at[k + 1] - at[k - 1] == 2 * spacing and at[k] <= last]
    if len(at) < 4 or not inner:
        return None
    weights = np.zeros((len(inner), len(at)))
    for row, k in enumerate(inner):
        others = np.delete(np.arange(len(at)), k)
        weights[row, others] = cubic(at[others], at[k : k + 1])[0]
        weights[row, k] = -1
    weights.flags.writeable = False
    return weights


def left_out(weights: Sequence[Array], h: Tensor) -> list[float]:
    """Root mean square error of interpolating between the nodes of each window.

    Each inner node is left out and interpolated from the others, which is the error at twice the spacing.

    Args:
        weights: of each, from :func:`leaving_out`. h: predictions at the nodes, ``(windows, P or more, D)``.
    """
    rows = max(len(each) for each in weights)
    padded = np.zeros((len(weights), rows, h.shape[1]))
    for one, each in zip(padded, weights, strict=True):
        one[: each.shape[0], : each.shape[1]] = each
    missed = (torch.from_numpy(padded).to(h) @ h).double().square().mean(2).sum(1).cpu()
    count = torch.tensor([len(each) for each in weights], dtype=torch.float64)
    return ((missed / count).sqrt() / COARSER).tolist()


def usual_spacing(steps: int, error: float) -> int:
    """The largest power of two that leaves as many nodes as an error of the final sample needs."""
    nodes = NODES * max(1.0, (1e-2 / error) ** POWER)
    return 1 << max(0, int(steps / nodes).bit_length() - 1)


def smooth(problem: Problem) -> bool:
    """Whether data predictions along the nodes are samples of one smooth curve."""
    if problem.nominal or problem.rule.stochastic or not isinstance(problem.rule, StepTable):
        return False
    if problem.output_shape != tuple(problem.x0.shape[1:]):
        return False
    ratio = problem.nodes.sigma[:-1] / problem.nodes.alpha[:-1].clamp(min=1e-12)
    return bool((ratio.diff() < 0).all())
