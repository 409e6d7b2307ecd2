"""What networks predict, and conversions from one kind of prediction to another."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from paraflowkit.noise import Levels

__all__ = ["Prediction", "convert"]


class Prediction(str, Enum):
    """What a network's output estimates: the data, the noise, ``v`` [1] or the velocity dx/dt of the flow [2].

    [1] Salimans and Ho, Progressive Distillation, ICLR 2022, ``v = alpha * noise - sigma * data`` of the state scaled
    to alpha² + sigma² = 1.
    [2] Lipman et al., Flow Matching, ICLR 2023, ``velocity = alpha' * data + sigma' * noise``.
    """

    DATA = "data"
    NOISE = "noise"
    V = "v"
    VELOCITY = "velocity"


def _data_weights(levels: Levels, kind: Prediction) -> tuple[Tensor, Tensor]:
    """(p, q) such that the data estimate is p * x + q * output."""
    alpha, sigma = levels.alpha, levels.sigma
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    if kind is Prediction.DATA:
        return zero, one
    if kind is Prediction.NOISE:
        return one / alpha, -sigma / alpha
    if kind is Prediction.V:
        total = alpha.square() + sigma.square()
        return alpha / total, -sigma / total.sqrt()
    da, ds = levels.slopes
    wronskian = da * sigma - ds * alpha
    return -ds / wronskian, sigma / wronskian


def convert(output: Tensor, x: Tensor, levels: Levels, source: Prediction, target: Prediction) -> Tensor:
    """Turn one kind of prediction into another.

    Args:
        output, x: network output and its input, ``(rows, *shape)``.
        levels: of the rows, float64 ``(rows,)``.
        source, target: what ``output`` is and what is wanted.

    Returns:
        The converted prediction, of ``output``'s dtype. The coefficients are float64 scalars per row.

    Raises:
        ValueError: a velocity is asked of a process known at discrete times only.
    """
    if source is target:
        return output
    if target is Prediction.NOISE:
        u, w = _noise_weights(levels, source)
    else:
        p, q = _data_weights(levels, source)
        if target is Prediction.DATA:
            u, w = p, q
        else:
            # The target's own data weights, solved for its output: (data - p' x) / q'. Composing coefficients in
            # float64 before touching the states keeps noise -> velocity exact where alpha is tiny.
            pt, qt = _data_weights(levels, target)
            u, w = (p - pt) / qt, q / qt
    shape = (-1,) + (1,) * (x.ndim - 1)
    return u.to(x.dtype).view(shape) * x + w.to(x.dtype).view(shape) * output


def _noise_weights(levels: Levels, kind: Prediction) -> tuple[Tensor, Tensor]:
    """(u, w) such that the noise estimate is u * x + w * output, without a division by alpha, which may be 0."""
    alpha, sigma = levels.alpha, levels.sigma
    if kind is Prediction.DATA:
        return 1 / sigma, -alpha / sigma
    if kind is Prediction.V:
        total = alpha.square() + sigma.square()
        return sigma / total, alpha / total.sqrt()
    da, ds = levels.slopes
    wronskian = da * sigma - ds * alpha
    return da / wronskian, -alpha / wronskian
