"""PNG files of samples in [-1, 1]."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def to_image(sample: Tensor, upscale: int = 1) -> Image.Image:
    """A sample ``(1 or 3, h, w)`` in [-1, 1] as a picture; each pixel becomes ``upscale`` × ``upscale``.

    Raises:
        ValueError: the sample is no image.
    """
    if sample.ndim != 3 or sample.shape[0] not in (1, 3):
        raise ValueError(f"An image has shape (1 or 3, h, w), got {tuple(sample.shape)}.")
    levels = ((sample.detach().cpu().double().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array = levels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return image.resize((image.width * upscale, image.height * upscale), Image.Resampling.NEAREST)


def to_grid(samples: Tensor, columns: int | None = None, upscale: int = 1, gap: int = 2) -> Image.Image:
    """Samples ``(n, c, h, w)`` in rows of ``columns`` (default: nearest to a square) on a grey ground."""
    columns = min(columns or math.ceil(math.sqrt(len(samples))), len(samples))
    rows = math.ceil(len(samples) / columns)
    tiles = [to_image(sample, upscale) for sample in samples]
    width, height = tiles[0].size
    sheet = Image.new(tiles[0].mode, (columns * (width + gap) + gap, rows * (height + gap) + gap), _grey(tiles[0].mode))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (gap + i % columns * (width + gap), gap + i // columns * (height + gap)))
    return sheet


def _grey(mode: str) -> int | tuple[int, int, int]:
    return 96 if mode == "L" else (96, 96, 96)


def png_bytes(image: Image.Image) -> bytes:
    """The contents of its PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path) -> None:
    """Write atomically: a reader, or a run that is killed, never leaves half a file under the final name."""
    part = path.with_name(path.name + ".part")
    image.save(part, format="PNG")
    os.replace(part, path)
