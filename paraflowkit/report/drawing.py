"""Letters and pictures on sheets that Pillow draws."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageFont

INK, SOFT = "#1b1f24", "#59636e"


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, which knows more letters than Pillow's and is always there."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def cut(text: str, width: float, size: int = 13) -> str:
    """As much of a text, in one line, as fits into so many pixels."""
    text, letters = " ".join(text.split())[:2000], font(size)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def fitted(image: Image.Image, side: int) -> Image.Image:
    """An image within a square of so many pixels; those of a small one stay visible."""
    share = side / max(image.size)
    how = Image.Resampling.NEAREST if share >= 2 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))), how)
