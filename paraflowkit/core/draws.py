"""Noise by counter: the draw of a sample at a step depends on its seed and the step alone."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """A bijection of 64-bit integers that scatters neighbours (SplitMix64's finaliser, Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def draw(seed: int, counter: int, shape: tuple[int, ...]) -> Tensor:
    """Unit Gaussian noise, float64 on the CPU so that every dtype and device sees the same numbers.

    Args:
        seed: of the sample. counter: 0 for the start, n + 1 for step n. shape: of one sample.
    """
    generator = torch.Generator().manual_seed(_mix(_mix(seed & _MASK) ^ counter) >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
