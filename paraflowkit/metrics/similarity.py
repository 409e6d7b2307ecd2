"""PSNR, SSIM [1] and RMSE of images to the sequential ones.

[1] Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE Transactions on Image
Processing, 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image.psnr import peak_signal_noise_ratio
from torchmetrics.functional.image.ssim import structural_similarity_index_measure

#: Pixels across SSIM's Gaussian window.
_WINDOW = 11
_ROWS = 64


@dataclass(frozen=True)
class Similarity:
    """Of each pair of images, and their means.

    Attributes:
        rmse: root mean squared difference, of images in [-1, 1]. psnr: in decibels; None of a pair without any
            difference, whose ratio is infinite. ssim: at most 1; None of images smaller than 11 pixels.
    """

    rmse: list[float]
    psnr: list[float | None]
    ssim: list[float | None]

    @property
    def identical(self) -> int:
        """Pairs without any difference."""
        return sum(value is None for value in self.psnr)

    @property
    def mean_rmse(self) -> float | None:
        """None of no pairs."""
        return _mean(self.rmse)

    @property
    def mean_psnr(self) -> float | None:
        """Over the pairs that differ; None where none does."""
        return _mean(self.psnr)

    @property
    def mean_ssim(self) -> float | None:
        """None of images that are too small."""
        return _mean(self.ssim)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@torch.no_grad()
def similarity(images: Tensor, sequential: Tensor) -> Similarity:
    """Compare images ``(n, c, h, w)`` with others of that shape, pair by pair; both are clamped to [-1, 1].

    Raises:
        ValueError: the shapes differ, or are not those of images.
    """
    if images.ndim != 4 or images.shape != sequential.shape:
        raise ValueError(f"images {tuple(images.shape)} cannot be compared with images {tuple(sequential.shape)}")
    rmse, psnr, ssim = list[float](), list[float | None](), list[float | None]()
    for one, other in zip(images.split(_ROWS), sequential.split(_ROWS), strict=True):
        if not len(one):
            continue
        a, b = ((x.double().clamp(-1, 1) + 1) / 2 for x in (one, other.to(one.device)))
        rmse += (2 * (a - b).square().mean((1, 2, 3)).sqrt()).tolist()
        ratios = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
        psnr += [value if value < float("inf") else None for value in ratios.tolist()]
        if min(a.shape[2:]) < _WINDOW:
            ssim += [None] * len(a)
        else:
            found: Any = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
            ssim += found.reshape(len(a)).tolist()  # of one pair torchmetrics returns a number without axes
    return Similarity(rmse, psnr, ssim)
