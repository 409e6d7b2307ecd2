"""What is measured on images: caption accuracy, CLIP score and FID [1] over the detector's features.

FID estimated from few images is too large, by more the fewer they are [2]; every figure here goes with its number of
images, and is to be compared with figures of the same number only.

[1] Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, NeurIPS 2017.
[2] Chong and Forsyth, Effectively Unbiased FID and Inception Score and Where to Find Them, CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paraflowkit.errors import ParaflowkitError
from safetensors import SafetensorError
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from paraflowkit_scenes.check import Verdict, check
from paraflowkit_scenes.clip import Clip
from paraflowkit_scenes.detector import FEATURES, Detector
from paraflowkit_scenes.draw import draw
from paraflowkit_scenes.sample import random_picture
from paraflowkit_scenes.scene import Scene

#: Seeds of the pictures that FID compares with, and of those that stand for a perfect painter.
REFERENCE, DRAWN = 20261122, 20261123
FIELDS = (*(field.name for field in fields(Verdict)), "right")
_ROWS = 100  # images a call


def levels(images: Tensor) -> Tensor:
    """Images (n, 3, 64, 64) in −1 … 1 in the 256 levels of a file, which is what all measures look at."""
    return (images.detach().cpu().float().clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1


def drawn(scenes: Sequence[Scene], count: int, seed: int) -> Tensor:
    """``count`` pictures (count, 3, 64, 64) of scenes, in turn; number i depends on ``seed`` and i alone."""
    made = [draw(random_picture(scenes[i % len(scenes)], np.random.default_rng((seed, i)))) for i in range(count)]
    return levels(torch.from_numpy(np.stack(made)))


class Features(nn.Module):
    """The detector's features (n, 128) as torchmetrics wants them: a module; in float64, so that FID is."""

    num_features = FEATURES

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.detector(images)["features"].double()


class Measures:
    """The instruments: detector, contrastive model and the features of the reference pictures.

    Args:
        weights: folder of ``scenes-detector`` and ``scenes-clip``.
        scenes: whose pictures FID compares with. references: how many pictures of them.

    Raises:
        ParaflowkitError: a network cannot be loaded.
    """

    def __init__(self, weights: Path, scenes: Sequence[Scene], references: int) -> None:
        self.detector = _load(Detector.from_pretrained, weights / "scenes-detector")
        self.clip = _load(Clip, weights / "scenes-clip")
        self.fid = FrechetInceptionDistance(Features(self.detector), reset_real_features=False, normalize=True)
        self._update(drawn(scenes, references, REFERENCE), real=True)

    def _update(self, images: Tensor, real: bool) -> None:
        for part in images.split(_ROWS):
            self.fid.update(part, real=real)

    def distance(self, images: Tensor) -> float:
        """FID of images in −1 … 1, at least two, to the reference pictures; rounding below 0 is 0."""
        self.fid.reset()
        self._update(images, real=False)
        return max(0.0, float(self.fid.compute()))

    def verdicts(self, scenes: Sequence[Scene], images: Tensor) -> list[Verdict]:
        """What of each caption its image shows."""
        return check(self.detector, scenes, levels(images))

    def __call__(self, scenes: Sequence[Scene], images: Tensor) -> dict[str, Any]:
        """Accuracy by number of things, mean CLIP score, and FID, of images (n, 3, 64, 64) in −1 … 1."""
        images = levels(images)
        return {
            "accuracy": accuracy(scenes, self.verdicts(scenes, images)),
            "clip_score": float(self.clip.score([scene.caption for scene in scenes], images).double().mean()),
            "fid": self.distance(images),
            "images": len(images),
        }


def accuracy(scenes: Sequence[Scene], verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """The share of images right in each respect, by number of things ("1", "2", "3", "all"), with ``prompts``."""
    made: dict[str, dict[str, float]] = {}
    for name in ("1", "2", "3", "all"):
        own = [v for s, v in zip(scenes, verdicts, strict=True) if name in (str(len(s.things)), "all")]
        if own:
            shares = {field: sum(getattr(v, field) for v in own) / len(own) for field in FIELDS}
            made[name] = {"prompts": len(own), **shares}
    return made


def _load(kind: Any, folder: Path) -> Any:
    try:
        return kind(folder)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ParaflowkitError(f"--weights: {folder} cannot be loaded: {cause}") from error
