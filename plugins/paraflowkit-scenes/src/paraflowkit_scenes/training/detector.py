"""Training of the detector, on scenes that are blurred, dimmed and noisy now and then, as generated images can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, cross_entropy

from paraflowkit_scenes.detector import CELL, GRID, Detector
from paraflowkit_scenes.draw import Picture
from paraflowkit_scenes.sample import example
from paraflowkit_scenes.training.batches import batch, generator
from paraflowkit_scenes.training.loop import Run, Settings
from paraflowkit_scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, SIZES, TEXTURES

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SETTINGS = Settings(steps=1200, batch=64, learning_rate=2e-3, ema=0.995)


def spoil(images: Tensor, draw: torch.Generator) -> Tensor:
    """A third of the images blurred in part, all with a little noise and another brightness."""
    n = len(images)
    share = torch.rand(n, 1, 1, 1, generator=draw) * (torch.rand(n, 1, 1, 1, generator=draw) < 0.33)
    images = images.lerp(avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False), share)
    noise = torch.rand(n, 1, 1, 1, generator=draw) * 0.08 * torch.randn(images.shape, generator=draw)
    return images * (1 + 0.05 * torch.randn(n, 1, 1, 1, generator=draw)) + noise


def targets(pictures: list[Picture]) -> dict[str, Tensor]:
    """Where things are (rows of image, cell row, cell column) and what they are, in the order of the rows."""
    where: list[tuple[int, int, int]] = []
    said: list[tuple[int, int, int, int]] = []
    for n, picture in enumerate(pictures):
        for one in picture.placed:
            row, column = (min(GRID - 1, int(v / CELL)) for v in (one.y, one.x))
            where.append((n, row, column))
            thing = one.thing
            said.append(
                (
                    KINDS.index(thing.kind),
                    list(COLORS).index(thing.color),
                    TEXTURES.index(thing.texture),
                    list(SIZES).index(thing.size),
                )
            )
    kind, color, texture, size = torch.tensor(said).unbind(1)
    return {"where": torch.tensor(where), "kind": kind, "color": color, "texture": texture, "size": size}


def backgrounds(pictures: list[Picture]) -> Tensor:
    """Indices of the nearest named background (n,), whether the caption speaks of it or not."""
    colors = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    return torch.cdist(torch.tensor([p.backdrop for p in pictures]), colors).argmin(1)


def train(fabric: Fabric, folder: Path, settings: Settings = SETTINGS, **options: Any) -> Detector:
    """Train the detector; returns it with averaged weights."""
    torch.manual_seed(settings.seed)
    run = Run(fabric, Detector(), settings, folder, adam=("there", "heads", "background", "stem.0"))

    def loss(step: int) -> Tensor:
        images, pictures = batch(settings.seed + 7, step, settings.batch, fabric.global_rank, fabric.world_size)
        images = spoil(images, generator(settings.seed, step, fabric.global_rank))
        wanted = {name: fabric.to_device(value) for name, value in targets(pictures).items()}
        n, row, column = wanted["where"].unbind(1)
        out = run.network(fabric.to_device(images))
        there = torch.zeros_like(out["there"])
        there[n, row, column] = 1
        # A sum over the cells rather than a mean: 1 or 2 of 256 are marked.
        total = 100 * binary_cross_entropy_with_logits(out["there"], there)
        for name in ("kind", "color", "texture", "size"):
            total = total + cross_entropy(out[name][n, :, row, column], wanted[name])
        return total + 0.2 * cross_entropy(out["background"], fabric.to_device(backgrounds(pictures)))

    run.fit(loss, **options)
    run.network.load_state_dict(run.average)
    return run.network.eval()  # type: ignore[return-value]


def accuracy(detector: Detector, count: int = 1000, seed: int = 99) -> dict[str, float]:
    """Share of fresh held-out scenes of which the detector says each thing right, by what is asked of it."""
    from paraflowkit_scenes.check import check

    made = [example(seed, index, "held-out") for index in range(count)]
    images = torch.stack([torch.from_numpy(image) for image, _ in made])
    verdicts = check(detector, [picture.scene for _, picture in made], images)
    names = ("count", "things", "details", "arrangement", "background", "right")
    return {name: sum(getattr(v, name) for v in verdicts) / count for name in names}
