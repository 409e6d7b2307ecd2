"""What is done to the network's output before the sampler sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Treatment", "dynamic_threshold", "rescale_guidance"]


def dynamic_threshold(data: Tensor, ratio: float, largest: float) -> Tensor:
    """Clamp each sample to the ``ratio`` quantile of its own magnitudes, between 1 and ``largest``, and divide by it.

    Args:
        data: ``(rows, *shape)``.

    Source: Saharia et al., Photorealistic Text-to-Image Diffusion Models (Imagen), NeurIPS 2022, section 2.3.
    """
    flat = data.flatten(1)
    wide = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    limit = torch.quantile(wide.abs(), ratio, dim=1).clamp(1, max(1.0, largest)).to(data.dtype)
    limit = limit.view(-1, *(1,) * (data.ndim - 1))
    return torch.maximum(torch.minimum(data, limit), -limit) / limit


def rescale_guidance(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Give the guided output back the standard deviation of the conditional one, in part.

    Source: Lin et al., Common Diffusion Noise Schedules and Sample Steps Are Flawed, WACV 2024, equations 15 and 16.
    """
    over = tuple(range(1, guided.ndim))
    wanted, got = (value.std(over, correction=0, keepdim=True) for value in (conditional, guided))
    scale = torch.where(got > 0, wanted / got, 1.0)  # a constant output has no deviation to restore
    return share * guided * scale + (1 - share) * guided


@dataclass(frozen=True)
class Treatment:
    """Limits on the data prediction, and the rescaling of guided outputs. Both are done once, before the sampler.

    Attributes:
        clip: largest absolute value of a data prediction, or None.
        threshold: quantile of dynamic thresholding, or None; threshold_max: its largest limit, at 1 plain clipping.
        guidance_rescale: 0 leaves guided outputs alone, 1 gives them the conditional one's standard deviation.

    Raises:
        ValueError: a value out of range, or both limits at once.
    """

    clip: float | None = None
    threshold: float | None = None
    threshold_max: float = 1.0
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"'clip' must be positive, got {self.clip}: leave it out to clip nothing.")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"'threshold' is a quantile, above 0 and at most 1, got {self.threshold}.")
        if not 1 <= self.threshold_max < math.inf:
            raise ValueError(f"'threshold_max' must be at least 1, got {self.threshold_max}.")
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"'guidance_rescale' must lie in 0 … 1, got {self.guidance_rescale}.")
        if self.clip is not None and self.threshold is not None:
            raise ValueError("'clip' and 'threshold' both limit the data prediction: give one of them.")

    @property
    def limits(self) -> bool:
        """Whether data predictions are changed."""
        return self.clip is not None or self.threshold is not None

    def limit(self, data: Tensor) -> Tensor:
        """The limited data prediction, ``(rows, *shape)``."""
        if self.clip is not None:
            return data.clamp(-self.clip, self.clip)
        return data if self.threshold is None else dynamic_threshold(data, self.threshold, self.threshold_max)
