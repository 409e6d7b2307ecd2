"""Batches of scenes by step number: the same on every machine, other scenes in every step and on every rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paraflowkit_scenes.draw import Picture
from paraflowkit_scenes.sample import example


def batch(seed: int, step: int, size: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, list[Picture]]:
    """This rank's share of step ``step``: images (n, 3, 64, 64) in −1 … 1 and the pictures they show."""
    mine = range(step * size + rank, (step + 1) * size, ranks)
    made = [example(seed, index) for index in mine]
    return torch.from_numpy(np.stack([image for image, _ in made])), [picture for _, picture in made]


def generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The random numbers of one step on one rank, on the CPU."""
    mixed = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))
