"""What the image would be after each sweep: a strip of pictures, and one that moves."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from paraflowkit.report.drawing import INK, SOFT, cut, fitted, font
from paraflowkit.report.sweeps import Sweeps

_OPEN, _DONE, _FRONT = "#dfe5ea", "#2f7dd1", "#a8cbf0"
_TILE, _GAP, _LINE, _BAR = 96, 8, 20, 6
#: Milliseconds of a frame, and of the last one.
_STEADY, _LAST = 350, 2500


def strip_png(sweeps: Sweeps, most: int = 9) -> bytes | None:
    """Clean estimates as a PNG file, a row a sample and a column a sweep, the last one the sample itself.

    The bar below a picture is the way from noise to image: accepted steps dark, the window light.

    Args:
        most: columns; of more sweeps the first, the last and evenly spread ones between them are shown.

    Returns:
        None where the samples are no images.
    """
    if not len(sweeps.frames):
        return None
    chosen = _spread(len(sweeps.frames), most)
    row = _LINE + _TILE + _BAR + 2 * _GAP
    sheet = Image.new("RGB", (_GAP + len(chosen) * (_TILE + _GAP), _LINE + sweeps.samples * row + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, frame in enumerate(chosen):
        x, number = _GAP + column * (_TILE + _GAP), int(sweeps.frame_sweeps[frame])
        words = f"sweep {number}" if column == 0 else f"{number}: result" if frame == chosen[-1] else str(number)
        draw.text((x + _TILE / 2, _GAP), words, SOFT, font(12), anchor="mt")
        for sample in range(sweeps.samples):
            top = _LINE + sample * row
            if column == 0:
                draw.text((_GAP, top + 4), cut(sweeps.labels[sample], sheet.width - 2 * _GAP), INK, font(13))
            _tile(sheet, draw, sweeps, frame, sample, (x, top + _LINE + _GAP // 2))
    return _png([sheet])


def film_png(sweeps: Sweeps) -> bytes | None:
    """The same as an animated PNG file, which runs again and again; None where the samples are no images."""
    if not len(sweeps.frames):
        return None
    tile = 2 * _TILE
    size = (_GAP + sweeps.samples * (tile + _GAP), 2 * _GAP + _LINE + tile + _BAR + _GAP)
    shown: list[Image.Image] = []
    last = int(sweeps.frame_sweeps[-1])
    for frame in range(len(sweeps.frames)):
        sheet = Image.new("RGB", (max(size[0], 330), size[1]), "white")
        draw = ImageDraw.Draw(sheet)
        number = int(sweeps.frame_sweeps[frame])
        fronts = [sweeps.accepted(number, sample) for sample in range(sweeps.samples)]
        mean = round(sum(fronts) / len(fronts))
        words = f"sweep {number} of {last}: {mean} of {sweeps.steps} steps accepted"
        draw.text((_GAP, _GAP), words, INK, font(15))
        for sample in range(sweeps.samples):
            _tile(sheet, draw, sweeps, frame, sample, (_GAP + sample * (tile + _GAP), 2 * _GAP + _LINE), tile)
        shown.append(sheet)
    return _png(shown)


def _tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    sweeps: Sweeps,
    frame: int,
    sample: int,
    at: tuple[int, int],
    side: int = _TILE,
) -> None:
    """A picture in a square, and the bar of its progress below it."""
    pixels = sweeps.frames[frame, sample]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    image = fitted(image, side)
    x, y = at
    sheet.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    sweep = min(int(sweeps.frame_sweeps[frame]), len(sweeps.ends))
    scale, top = side / sweeps.steps, y + side + 3
    ends = (sweeps.steps, int(sweeps.ends[sweep - 1, sample]), sweeps.accepted(sweep, sample))
    for end, colour in zip(ends, (_OPEN, _FRONT, _DONE), strict=True):
        if end:
            draw.rectangle((x, top, x + max(0, round(end * scale) - 1), top + _BAR - 1), fill=colour)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the first ``count`` numbers, the first and the last among them."""
    return sorted({round(float(at)) for at in np.linspace(0, count - 1, min(count, most))})


def _png(images: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    if len(images) == 1:
        images[0].save(buffer, format="PNG", optimize=True)
    else:
        times = [*[_STEADY] * (len(images) - 1), _LAST]
        images[0].save(buffer, format="PNG", save_all=True, append_images=images[1:], duration=times, loop=0)
    return buffer.getvalue()
