"""A small network that finds the things in an image: the eyes of the caption check, and features for FID.

It marks the cell of a 16×16 grid in which a thing has its middle, and says there what it is: kind, colour, texture and
size [1].

[1] Zhou et al., Objects as Points, 2019.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from paraflowkit_scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, SIZES, TEXTURES

#: Side of the grid of cells, and of a cell in pixels.
GRID, CELL = 16, 4
#: Length of the feature vector of an image.
FEATURES = 128
_CHANNELS = FEATURES // 2
_HEADS = {"kind": len(KINDS), "color": len(COLORS), "texture": len(TEXTURES), "size": len(SIZES)}
WEIGHTS = Path(__file__).parent / "weights" / "scenes-detector"


@dataclass(frozen=True)
class Found:
    """One thing that the detector sees.

    Attributes:
        kind, color, texture, size: names of the vocabulary.
        x, y: its middle, pixels from the left and the top, to within a cell (4 pixels).
        score: 0 … 1, how sure the detector is that something is there.
    """

    kind: str
    color: str
    texture: str
    size: str
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Seen:
    """What the detector sees in one image.

    Attributes:
        things: all it finds, the surest first. background: a name of the vocabulary.
    """

    things: tuple[Found, ...]
    background: str


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(torch.relu(self.norms[0](x)))
        return x + self.second(torch.relu(self.norms[1](inner)))


class Detector(nn.Module):
    """Images (n, 3, 64, 64) in −1 … 1 → a dictionary of logits.

    ``there`` (n, 16, 16); ``kind``, ``color``, ``texture``, ``size`` (n, classes, 16, 16); ``background`` (n, 6);
    ``features`` (n, 128), the means and maxima of the last feature maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, _CHANNELS, 3, stride=2, padding=1),
        )
        self.body = nn.Sequential(*(_Residual(_CHANNELS) for _ in range(4)), nn.GroupNorm(8, _CHANNELS), nn.ReLU())
        self.there = nn.Conv2d(_CHANNELS, 1, 1)
        self.heads = nn.ModuleDict({name: nn.Conv2d(_CHANNELS, count, 1) for name, count in _HEADS.items()})
        self.background = nn.Linear(FEATURES, len(BACKGROUNDS))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.body(self.stem(images))
        features = torch.cat([maps.mean((-1, -2)), maps.amax((-1, -2))], -1)
        out = {name: head(maps) for name, head in self.heads.items()}
        return {**out, "there": self.there(maps)[:, 0], "background": self.background(features), "features": features}

    @classmethod
    def from_pretrained(cls, folder: Path | str = WEIGHTS) -> Detector:
        """The shipped detector, or one that was saved to ``folder``, in evaluation mode and float32."""
        detector = cls()
        weights = load_file(Path(folder) / "model.safetensors")
        detector.load_state_dict({name: value.float() for name, value in weights.items()})
        return detector.eval().requires_grad_(False)

    def save_pretrained(self, folder: Path | str, notes: dict[str, object] | None = None) -> None:
        """Write ``model.safetensors`` (float16) and ``training.json``."""
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, Path(folder) / "model.safetensors")
        (Path(folder) / "training.json").write_text(json.dumps(notes or {}, indent=2) + "\n")

    @torch.no_grad()
    def see(self, images: Tensor, threshold: float = 0.25, rows: int = 64) -> list[Seen]:
        """Find the things in images (n, 3, 64, 64) in −1 … 1.

        Args:
            threshold: the score from which on something counts as there. A middle on the corner of four cells is
                shared by them, a quarter each. rows: images a call.

        Raises:
            ValueError: the images have another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (3, GRID * CELL, GRID * CELL):
            raise ValueError(f"The detector sees images (n, 3, 64, 64), got {tuple(images.shape)}; resize them first.")
        return [seen for part in images.float().split(rows) for seen in self._see(part, threshold)]

    def _see(self, images: Tensor, threshold: float) -> list[Seen]:
        out = self(images)
        score = out["there"].sigmoid()
        # Two things are never closer than 14 pixels; a thing on the border of two cells lights up both.
        peak = (score == max_pool2d(score[:, None], 5, stride=1, padding=2)[:, 0]) & (score > threshold)
        names = {"kind": KINDS, "color": list(COLORS), "texture": TEXTURES, "size": list(SIZES)}
        made: list[Seen] = []
        for n in range(len(images)):
            things: list[Found] = []
            for row, column in peak[n].nonzero().tolist():
                said = {name: words[int(out[name][n, :, row, column].argmax())] for name, words in names.items()}
                near = score[n, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                rows = torch.arange(max(0, row - 1), max(0, row - 1) + near.shape[0])
                columns = torch.arange(max(0, column - 1), max(0, column - 1) + near.shape[1])
                x = float((near.sum(0) * columns).sum() / near.sum() + 0.5) * CELL
                y = float((near.sum(1) * rows).sum() / near.sum() + 0.5) * CELL
                things.append(Found(**said, x=x, y=y, score=float(score[n, row, column])))
            things.sort(key=lambda thing: -thing.score)
            made.append(Seen(tuple(things), list(BACKGROUNDS)[int(out["background"][n].argmax())]))
        return made
