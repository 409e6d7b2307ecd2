"""The digits that the shipped networks are trained on: scikit-learn's bundled 8x8 scans, at 16x16."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: Height and width of an image in pixels.
SIZE = 16
#: Wanted classes; the class of that number is the null class of classifier-free guidance.
CLASSES = 10
#: Standard deviation of the training images, which lie in [-1, 1]; relative errors are divided by it.
DATA_STD = 0.711


def load_digits(seed: int = 0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Read the digits and split them: three quarters for the generators, one quarter held out.

    The held-out quarter trains the classifier that judges the generators, so neither has seen the other's data.

    Returns:
        ``((images, labels), (held_images, held_labels))``; images float32 ``(n, 1, 16, 16)`` in [-1, 1], labels int64.

    Raises:
        ImportError: scikit-learn, which carries the scans, is not installed (``pip install paraflowkit[train]``).
    """
    try:
        from sklearn.datasets import load_digits as read
    except ImportError as error:
        raise ImportError("Training needs scikit-learn's digits: pip install 'paraflowkit[train]'.") from error
    raw: Any = read()
    small = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 8 - 1
    images = functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic", align_corners=False).clamp(-1, 1)
    labels = torch.tensor(raw.target, dtype=torch.int64)
    held = torch.zeros(len(labels), dtype=torch.bool)
    draw = torch.Generator().manual_seed(seed)
    for digit in range(CLASSES):
        where = (labels == digit).nonzero()[:, 0]
        held[where[torch.randperm(len(where), generator=draw)[: len(where) // 4]]] = True
    return (images[~held], labels[~held]), (images[held], labels[held])


def jitter(images: Tensor, draw: torch.Generator, degrees: float, shift: float, scale: float) -> Tensor:
    """Turn, move and scale each image at random.

    Args:
        images: ``(n, 1, h, w)`` in [-1, 1].
        draw: source of the random numbers.
        degrees: largest turn; shift: largest move in pixels; scale: largest relative change of size.

    Returns:
        Images of the same shape; what moves in from outside is background (-1).
    """
    n, size = len(images), images.shape[-1]
    uniform = torch.rand(4, n, generator=draw) * 2 - 1
    angle, grow = uniform[0] * math.radians(degrees), 1 + uniform[1] * scale
    cos, sin = torch.cos(angle) * grow, torch.sin(angle) * grow
    move = uniform[2:] * (2 * shift / size)
    theta = torch.stack([torch.stack([cos, -sin, move[0]], -1), torch.stack([sin, cos, move[1]], -1)], 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1, grid, mode="bilinear", align_corners=False) - 1
