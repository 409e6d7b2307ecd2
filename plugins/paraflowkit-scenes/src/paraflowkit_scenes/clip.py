"""The shipped contrastive text-image model, and the CLIP score by it [1].

[1] Hessel et al., CLIPScore: A Reference-free Evaluation Metric for Image Captioning, EMNLP 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHTS = Path(__file__).parent / "weights" / "scenes-clip"
#: Mean and deviation of the pixels (0 … 1) as the image tower sees them: −1 … 1.
MEAN = STD = 0.5


class Clip:
    """A ``CLIPModel`` folder with its tokenizer, for images (n, 3, 64, 64) in −1 … 1.

    Args:
        folder: the shipped model unless another is named.
    """

    def __init__(self, folder: Path | str = WEIGHTS) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        self.model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def images(self, images: Tensor, rows: int = 128) -> Tensor:
        """Unit vectors (n, width) of images."""
        made = [features(self.model.get_image_features(pixel_values=part)) for part in images.float().split(rows)]
        return torch.nn.functional.normalize(torch.cat(made), dim=-1)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (n, width) of captions."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return torch.nn.functional.normalize(features(self.model.get_text_features(input_ids=ids)), dim=-1)

    def score(self, captions: Sequence[str], images: Tensor) -> Tensor:
        """100 · max(cos, 0) of each image with its caption (n,)."""
        return 100 * (self.images(images) * self.texts(captions)).sum(-1).clamp(min=0)


def features(made: Any) -> Tensor:
    """The projected features: transformers 5 wraps them in an output, 4 returns the tensor."""
    return made if isinstance(made, Tensor) else made.pooler_output
