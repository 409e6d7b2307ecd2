"""Drawing of scenes: signed distances for shapes, the fonts that matplotlib ships for letters.

Shapes are drawn from their signed distance, so that edges are smooth without supersampling [1].

[1] Green, Improved Alpha-Tested Magnification for Vector Textures and Special Effects, SIGGRAPH Courses 2007.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paraflowkit_scenes.scene import Scene, Thing
from paraflowkit_scenes.vocabulary import COLORS, SHAPES

#: Side of an image, in pixels.
SIZE = 64
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf", "STIXGeneralBol.ttf")

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Placed:
    """A thing at its place.

    Attributes:
        x, y: centre, pixels from the left and the top. radius: of its bounding circle, pixels.
        angle: rotation, radians. font: index into ``FONTS``, for letters. tint: added to its colour, 0 … 255 units.
    """

    thing: Thing
    x: float
    y: float
    radius: float
    angle: float = 0.0
    font: int = 0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Picture:
    """A scene with everything that a caption leaves open.

    Attributes:
        backdrop: colour of the background, 0 … 255 units.
        slope: change of its brightness from the middle to the right and the bottom edge, 0 … 255 units.
    """

    scene: Scene
    placed: tuple[Placed, ...]
    backdrop: tuple[float, float, float]
    slope: tuple[float, float] = (0.0, 0.0)


_GRID = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5


def _polygon(u: Array, v: Array, points: list[tuple[float, float]]) -> Array:
    """Signed distance to a closed polygon with corners in order: negative inside."""
    near = np.full(u.shape, np.inf, np.float32)
    inside = np.zeros(u.shape, bool)
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        ex, ey, px, py = bx - ax, by - ay, u - ax, v - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        near = np.minimum(near, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        crosses = (ay > v) != (by > v)
        if ay != by:
            inside ^= crosses & (px < (v - ay) * ex / ey)
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(near)


def _corners(count: int, turn: float, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners of a regular polygon in the unit circle, or of a star with inner radius ``inner``."""
    total = count if inner is None else 2 * count
    angles = turn + 2 * np.pi * np.arange(total) / total
    radii = np.ones(total) if inner is None else np.where(np.arange(total) % 2 == 0, 1.0, inner)
    return [(float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]


_ARM = 0.34
_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(s * 0.8, t * 0.8) for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
    "triangle": _corners(3, -np.pi / 2),
    "star": _corners(5, -np.pi / 2, 0.42),
    "diamond": [(0, -1.0), (0.68, 0), (0, 1.0), (-0.68, 0)],
    "hexagon": _corners(6, 0.0),
    "cross": [
        *((-_ARM, -0.95), (_ARM, -0.95), (_ARM, -_ARM), (0.95, -_ARM), (0.95, _ARM), (_ARM, _ARM)),
        *((_ARM, 0.95), (-_ARM, 0.95), (-_ARM, _ARM), (-0.95, _ARM), (-0.95, -_ARM), (-_ARM, -_ARM)),
    ],
}


def _distance(kind: str, u: Array, v: Array) -> Array:
    """Signed distance of a shape inside the unit circle at the points (u, v), in units of its radius."""
    if kind in _POLYGONS:
        return _polygon(u, v, _POLYGONS[kind])
    r = np.hypot(u, v)
    if kind == "circle":
        return r - 0.95
    if kind == "ring":
        return np.abs(r - 0.72) - 0.25
    if kind == "crescent":
        return np.maximum(r - 0.98, 0.74 - np.hypot(u - 0.42, v))
    # Heart: two discs over the wedge that touches them.
    discs = np.hypot(np.abs(u) - 0.46, v + 0.3) - 0.5
    wedge = np.maximum(np.abs(u) * 0.72 + v * 0.694 - 0.655, -v - 0.3)
    return np.minimum(discs, np.maximum(wedge, np.abs(u) - 0.96))


@cache
def _glyph(letter: str, font: int) -> Array:
    """A letter's mask (96, 96), fitted into the square around the unit circle."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / FONTS[font]), 120)
    left, top, right, bottom = face.getbbox(letter.upper())
    mask = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), letter.upper(), fill=255, font=face)
    scale = 84 / max(mask.size)
    mask = mask.resize((round(mask.width * scale), round(mask.height * scale)), Image.Resampling.LANCZOS)
    whole = Image.new("L", (96, 96))
    whole.paste(mask, ((96 - mask.width) // 2, (96 - mask.height) // 2))
    return np.asarray(whole, np.float32) / 255


def _letter(letter: str, font: int, u: Array, v: Array) -> Array:
    """Coverage of a letter at the points (u, v), by bilinear look-up in its mask."""
    mask = _glyph(letter, font)
    side = mask.shape[0]
    x, y = (u + 1) * side / 2 - 0.5, (v + 1) * side / 2 - 0.5
    inside = (x >= 0) & (y >= 0) & (x < side - 1) & (y < side - 1)
    x, y = np.clip(x, 0, side - 2), np.clip(y, 0, side - 2)
    i, j = y.astype(np.int64), x.astype(np.int64)
    fy, fx = y - i, x - j
    top = mask[i, j] * (1 - fx) + mask[i, j + 1] * fx
    return (inside * (top * (1 - fy) + (mask[i + 1, j] * (1 - fx) + mask[i + 1, j + 1] * fx) * fy)).astype(np.float32)


def _coverage(placed: Placed, dx: Array, dy: Array) -> Array:
    """The share of each pixel that a thing covers, 0 … 1, at offsets from its centre in pixels."""
    cos, sin = np.cos(placed.angle) / placed.radius, np.sin(placed.angle) / placed.radius
    u, v = (cos * dx + sin * dy).astype(np.float32), (cos * dy - sin * dx).astype(np.float32)
    if placed.thing.kind in SHAPES:
        return np.clip(0.5 - _distance(placed.thing.kind, u, v) * placed.radius, 0, 1)
    return _letter(placed.thing.kind[-1], placed.font, u, v)


def _paint(placed: Placed, dx: Array, dy: Array) -> Array:
    """The colour of a thing at offsets from its centre in pixels, (3, …), 0 … 255 units."""
    color = np.asarray(COLORS[placed.thing.color], np.float32) + np.asarray(placed.tint, np.float32)
    color = color[:, None, None]
    cos, sin = np.cos(placed.angle + 0.6), np.sin(placed.angle + 0.6)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    texture = placed.thing.texture
    if texture == "striped":
        return color * (0.3 + 0.7 * np.clip(0.5 + 1.2 * np.cos(2 * np.pi * u / 6.5), 0, 1))
    if texture == "dotted":
        near = np.hypot((u + 3) % 6 - 3, (v + 3) % 6 - 3)
        return color + (255 - color) * np.clip(2.2 - near, 0, 1)
    if texture == "checkered":
        return color * (0.3 + 0.7 * np.clip(0.5 + 1.6 * np.sin(np.pi * dx / 5) * np.sin(np.pi * dy / 5), 0, 1))
    return color


def draw(picture: Picture) -> Array:
    """The image (3, 64, 64), float32 in −1 … 1, things painted in the order of the caption."""
    ramp = picture.slope[0] * (2 * _GRID[1] / SIZE - 1) + picture.slope[1] * (2 * _GRID[0] / SIZE - 1)
    image = np.asarray(picture.backdrop, np.float32)[:, None, None] + ramp[None]
    for placed in picture.placed:
        reach = placed.radius * 1.45 + 1  # the corners of a turned letter's square lie outside the circle
        rows = slice(max(0, int(placed.y - reach)), int(placed.y + reach) + 2)
        columns = slice(max(0, int(placed.x - reach)), int(placed.x + reach) + 2)
        dx, dy = _GRID[1, rows, columns] - placed.x, _GRID[0, rows, columns] - placed.y
        alpha = _coverage(placed, dx, dy)[None]
        image[:, rows, columns] += alpha * (_paint(placed, dx, dy) - image[:, rows, columns])
    return (np.clip(image, 0, 255) / 127.5 - 1).astype(np.float32)
