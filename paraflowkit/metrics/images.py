"""Images of a folder, as a network sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paraflowkit.errors import ParaflowkitError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def list_images(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder, sorted by name; those of its subfolders are left out.

    Raises:
        ParaflowkitError: there are none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not found:
        raise ParaflowkitError(f"metrics.references: {folder} holds no PNG or JPEG files.")
    return found


def read_image(path: Path, size: int | None = None) -> Tensor:
    """A file as ``(1 or 3, h, w)`` in [-1, 1]; what it says of transparency is left out.

    Args:
        size: the shorter side is resized to so many pixels (bicubic, with antialiasing), the longer one cropped to as
            many in its middle; None leaves the image as it is.

    Raises:
        ParaflowkitError: it is no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in _GREY + _COLOUR:
                raise ParaflowkitError(
                    f"metrics.references: {path} has pixels of the kind {file.mode}: save it with 8 bits a channel."
                )
            image = file.convert("L" if file.mode in _GREY else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ParaflowkitError(f"metrics.references: {path} cannot be read as an image ({error}).") from error
    if size is not None:
        image = _cropped(image, size)
    levels = torch.from_numpy(np.asarray(image).copy())
    levels = levels[None] if levels.ndim == 2 else levels.permute(2, 0, 1)
    return levels.float() / 127.5 - 1


def _cropped(image: Image.Image, size: int) -> Image.Image:
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def folder_batches(folder: Path, size: int | None = None, rows: int = 32) -> Iterator[Tensor]:
    """The images of a folder in order, in batches ``(n, c, h, w)`` of at most ``rows`` neighbours of one shape.

    Raises:
        ParaflowkitError: as :func:`list_images` and :func:`read_image`.
    """
    batch: list[Tensor] = []
    for path in list_images(folder):
        image = read_image(path, size)
        if batch and (len(batch) == rows or batch[0].shape != image.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    yield torch.stack(batch)
