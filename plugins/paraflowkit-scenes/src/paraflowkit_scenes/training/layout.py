"""Where what is: a lesson beside the flow's own, for the transformer's middle.

Half-way through the transformer each image token is asked what is drawn in its 8×8 pixels: kind, colour, texture and
size, or nothing. The question shapes the hidden states and is dropped after training. That supervised features in the
middle of a diffusion transformer save many steps is the finding of [1], whose features are a pretrained encoder's; ours
are known, because a program drew the pictures. Kind and colour are asked separately, so that a pair that was never
drawn together is still two things that are known.

[1] Yu et al., Representation Alignment for Generation, ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paraflowkit_scenes.draw import SIZE, Picture
from paraflowkit_scenes.vocabulary import COLORS, KINDS, SIZES, TEXTURES

#: Side of an image token in pixels: an autoencoder's cell (4) times the transformer's patch (2).
TOKEN = 8
_WORDS: dict[str, Sequence[str]] = {
    "kind": KINDS,
    "color": list(COLORS),
    "texture": TEXTURES,
    "size": list(SIZES),
}
_INDEX = {name: {word: n + 1 for n, word in enumerate(words)} for name, words in _WORDS.items()}


def layout(pictures: Sequence[Picture]) -> Tensor:
    """What each image token shows: int64 (n, 64, 4), of kind, colour, texture and size; 0 is nothing.

    A token shows a thing when its middle is within the thing's bounding circle and a pixel; things do not overlap.
    """
    side = SIZE // TOKEN
    middles = (torch.arange(side) + 0.5) * TOKEN
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    made = torch.zeros(len(pictures), side * side, len(_WORDS), dtype=torch.int64)
    for n, picture in enumerate(pictures):
        for placed in picture.placed:
            inside = ((x - placed.x).square() + (y - placed.y).square() < (placed.radius + 1) ** 2).flatten()
            made[n, inside] = torch.tensor([_INDEX[name][getattr(placed.thing, name)] for name in _WORDS])
    return made


class Layout(nn.Module):
    """Reads the layout off hidden states (n, 64, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, len(words) + 1) for words in _WORDS.values())

    def forward(self, hidden: Tensor) -> list[Tensor]:
        """Logits (n, 64, words + 1) of kind, colour, texture and size."""
        hidden = self.norm(hidden)
        return [head(hidden) for head in self.heads]


def lesson(logits: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """The mean cross entropy of the four questions, tokens with a thing and tokens without weighing alike.

    Args:
        logits: of :class:`Layout`, (n, tokens, words + 1) each. wanted: of :func:`layout`, (n, tokens, 4).
    """
    there = wanted[..., 0] > 0
    share = there.float().mean().clamp(0.01, 0.99)
    weight = torch.where(there, 0.5 / share, 0.5 / (1 - share))
    asked = [
        cross_entropy(logit.float().flatten(0, 1), wanted[..., n].flatten(), reduction="none")
        for n, logit in enumerate(logits)
    ]
    return (torch.stack(asked).mean(0) * weight.flatten()).mean()
