"""Sheets of images with their captions: the grid that a person judges, and the solvers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paraflowkit.report.images import to_image
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, SOFT, PAPER = (28, 28, 32), (104, 106, 112), (255, 255, 255)
GREEN, RED = (22, 140, 70), (205, 45, 45)
TICK, CROSS = "✓", "✗"
_EDGE = (205, 207, 212)


@dataclass(frozen=True)
class Shown:
    """An image (3, 64, 64) in −1 … 1 and what is written beside it.

    Attributes:
        right: whether the check passed. iterations: sequential calls. error: relative RMSE of its latents to the
            sequential ones; None where it is sequential.
    """

    image: Tensor
    caption: str
    right: bool
    iterations: int
    error: float | None = None


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships, in pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def wrap(text: str, width: float, face: ImageFont.FreeTypeFont) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _tile(image: Tensor, side: int) -> Image.Image:
    """Enlarged smoothly, as a viewer would, with a thin edge that sets a white background off the paper."""
    made = to_image(image).resize((side, side), Image.Resampling.BICUBIC)
    ImageDraw.Draw(made).rectangle((0, 0, side - 1, side - 1), outline=_EDGE)
    return made


def _mark(pen: ImageDraw.ImageDraw, x: float, y: float, right: bool, size: int) -> None:
    pen.text((x, y), TICK if right else CROSS, GREEN if right else RED, font(size, bold=True))


def grid(shown: Sequence[Shown], title: str, columns: int = 8, side: int = 192) -> Image.Image:
    """Images in rows of ``columns``, ``side`` pixels wide, each with its caption and a tick or a cross below."""
    face, gap, line, indent = font(13), 18, 17, 18
    columns = min(columns, len(shown))
    captions = [wrap(one.caption, side - indent, face) for one in shown]
    rows = [range(i, min(i + columns, len(shown))) for i in range(0, len(shown), columns)]
    heights = [side + 8 + line * max(len(captions[i]) for i in row) + gap for row in rows]
    heading = wrap(title, columns * (side + gap) - gap, font(20, bold=True))
    top = gap + 28 * len(heading) + 10
    sheet = Image.new("RGB", (columns * (side + gap) + gap, top + sum(heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((gap, gap - 4), "\n".join(heading), INK, font(20, bold=True))
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x = gap + column * (side + gap)
            sheet.paste(_tile(shown[i].image, side), (x, y))
            _mark(pen, x, y + side + 4, shown[i].right, 15)
            for number, text in enumerate(captions[i]):
                pen.text((x + indent, y + side + 6 + line * number), text, INK, face)
        y += height
    return sheet


def comparison(columns: Mapping[str, Sequence[Shown]], title: str, side: int = 160) -> Image.Image:
    """A row a prompt and a column a sampler, with mean iterations in the columns' titles.

    Args:
        columns: name of a sampler → its images, of the same prompts in each.
    """
    gap, line, label = 16, 16, 190
    some = next(iter(columns.values()))
    heads = [wrap(name, side, font(14, bold=True)) for name in columns]
    head = 20 * max(map(len, heads)) + 20
    heading = wrap(title, label + len(columns) * (side + gap), font(20, bold=True))
    top = gap + 28 * len(heading) + 10 + head
    width = gap + label + len(columns) * (side + gap)
    sheet = Image.new("RGB", (width + gap, top + len(some) * (side + 24 + gap)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((gap, gap - 4), "\n".join(heading), INK, font(20, bold=True))
    for i, one in enumerate(some):
        y = top + i * (side + 24 + gap)
        for number, text in enumerate(wrap(one.caption, label - gap, font(13))):
            pen.text((gap, y + 2 + line * number), text, INK, font(13))
    for column, (own, words) in enumerate(zip(columns.values(), heads, strict=True)):
        x = gap + label + column * (side + gap)
        mean = sum(one.iterations for one in own) / len(own)
        cost = top - 22  # the titles stand on the images, whatever their number of lines
        pen.text((x, cost), f"{mean:.1f} iterations", SOFT, font(13))
        for number, text in enumerate(reversed(words)):
            pen.text((x, cost - 20 * (number + 1)), text, INK, font(14, bold=True))
        for i, one in enumerate(own):
            y = top + i * (side + 24 + gap)
            sheet.paste(_tile(one.image, side), (x, y))
            _mark(pen, x, y + side + 3, one.right, 14)
            said = "" if one.error is None else f"error {one.error:.1e}"
            pen.text((x + 18, y + side + 5), said, SOFT, font(12))
    return sheet
