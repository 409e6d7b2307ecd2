"""A comparison to look at: images of both runs beside each other and what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from paraflowkit.report.compare import PSNR, RMSE, SSIM, Comparison, Pair, decibels, images
from paraflowkit.report.drawing import INK, SOFT, cut, fitted, font
from paraflowkit.report.html import Cell, Page, Picture
from paraflowkit.report.images import png_bytes
from paraflowkit.report.saved import shrunk
from paraflowkit.report.settings import show

#: Pairs on the sheet, rows of the page's table, and the largest amplification of a difference.
_PAIRS, _ROWS, _MOST = 6, 50, 64
_TILE, _GAP, _LINE = 160, 10, 20


@dataclass(frozen=True)
class _Seen:
    """A pair of images and their amplified difference, of the worst pairs."""

    pair: Pair
    tiles: tuple[Image.Image, Image.Image, Image.Image]


def compare_files(found: Comparison) -> dict[str, bytes]:
    """``compare.html`` and, of runs that wrote images, ``compare.png``, by their names."""
    seen, factor = _look(found, found.worst[:_ROWS])
    files: dict[str, bytes] = {}
    if seen:
        files["compare.png"] = png_bytes(_sheet(found, seen[:_PAIRS], factor))
    return {**files, "compare.html": _page(found, seen, factor).to_html().encode()}


def _look(found: Comparison, pairs: Sequence[Pair]) -> tuple[list[_Seen], int]:
    """The images of pairs, and by how much their differences are amplified: all alike, a power of 2.

    It is the largest that leaves 99 % of the numbers in the range of an image.
    """
    shown: list[tuple[Pair, Tensor, Tensor]] = []
    counts = np.zeros(256)
    for pair in pairs:
        both = images(found.a, found.b, (pair.a, pair.b))
        if both is not None:
            counts += np.bincount((both[0].int() - both[1].int()).abs().flatten().numpy(), minlength=256)
            shown.append((pair, *both))
    large = int((counts.cumsum() < 0.99 * counts.sum()).sum())
    factor = 1
    while factor < _MOST and 2 * factor * large <= 255:
        factor *= 2
    return [_Seen(pair, _tiles(one, other, factor)) for pair, one, other in shown], factor


def _tiles(one: Tensor, other: Tensor, factor: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    gap = ((one.int() - other.int()).abs() * factor).clamp(max=255).to(torch.uint8)
    made = [Image.fromarray((x[..., 0] if x.shape[2] == 1 else x).numpy()) for x in (one, other, gap)]
    return made[0], made[1], made[2]


def _sheet(found: Comparison, seen: Sequence[_Seen], factor: int) -> Image.Image:
    """A row a pair: run A, run B, difference; the least alike first."""
    row, width = _LINE + _TILE + _GAP, _GAP + 3 * (_TILE + _GAP)
    sheet = Image.new("RGB", (width, _GAP + _LINE + len(seen) * row), "white")
    draw = ImageDraw.Draw(sheet)
    heads = (f"A: {found.a.name}", f"B: {found.b.name}", f"difference × {factor}")
    for column, words in enumerate(heads):
        draw.text((_GAP + column * (_TILE + _GAP), _GAP), cut(words, _TILE, 12), SOFT, font(12))
    for number, one in enumerate(seen):
        top = _GAP + _LINE + number * row
        said = f"{decibels(one.pair.psnr)} dB, " if one.pair.psnr is not None else ""
        draw.text((_GAP, top), cut(f"{said}{one.pair.label}", width - 2 * _GAP, 12), INK, font(12))
        for column, tile in enumerate(one.tiles):
            sheet.paste(fitted(tile, _TILE).convert("RGB"), (_GAP + column * (_TILE + _GAP), top + _LINE))
    return sheet


def _page(found: Comparison, seen: Sequence[_Seen], factor: int) -> Page:
    a, b, pairs = found.a, found.b, found.worst
    page = Page(f"{a.name} and {b.name}")
    page.paragraph(f"A is `{a.path}`, B is `{b.path}`. {matched(found)}")
    page.verdict(found.verdict)
    page.table(
        ["", "A", "B"],
        [[name, *(_figure(run.summary, key) for run in (a, b))] for name, key in _COSTS],
        "What the whole runs cost, a sample.",
    )
    page.heading("Samples, the least alike first")
    tiles = {id(one.pair): one.tiles for one in seen}
    columns = ["request", "relative RMSE", "largest", "PSNR, dB", "SSIM"]
    rows: list[list[Cell]] = []
    for pair in pairs[:_ROWS]:
        small = min(tiles[id(pair)][0].size) <= 64 if id(pair) in tiles else False
        shown = (Picture(shrunk(tile, 192), f"{pair.label}", 88, small) for tile in tiles.get(id(pair), ()))
        cells: list[Cell] = [*shown] if id(pair) in tiles else [None] * 3
        rows.append([*(cells if seen else []), pair.name, *figures(pair)])
    heads = [*(["A", "B", f"difference\u00a0×\u00a0{factor}"] if seen else []), *columns]
    more = f"The first {_ROWS} of {len(pairs)}. " if len(pairs) > _ROWS else ""
    page.table(heads, rows, more)
    of = "the data's standard deviation" if found.known else "the standard deviation of A's samples"
    page.paragraph(
        f"Relative RMSE: root mean squared difference of the samples over {of} ({found.std:.3g}). Largest: of their "
        "numbers. PSNR and SSIM: of the images as they were written, 8 bits a channel. Images of at least "
        f"{PSNR:g} dB and an SSIM of {SSIM:g} count as the same to the eye, samples without images up to a relative "
        f"RMSE of {RMSE:g}."
    )
    page.heading("Settings that differ")
    if not found.settings:
        return page.paragraph("None.")
    return page.table(["setting", "A", "B"], [[name, show(x), show(y)] for name, (x, y) in found.settings.items()])


_COSTS = (
    ("network calls one after the other", "iterations"),
    ("network evaluations", "evaluations"),
    ("seconds", "steady_seconds"),
)


def matched(found: Comparison) -> str:
    """How many requests both runs have, in a sentence."""
    count = len(found.pairs)
    rest = [f"{len(run.rows) - count} only {name}" for run, name in ((found.a, "A"), (found.b, "B"))]
    left = [words for words in rest if not words.startswith("0 ")]
    what = "request was" if count == 1 else "requests were"
    return f"{count} {what} made by both" + (f", {' and '.join(left)}." if left else ".")


def figures(pair: Pair) -> list[str | None]:
    """Relative RMSE, largest difference, PSNR and SSIM of a pair, in digits."""
    return [
        None if pair.rmse is None else f"{pair.rmse:.1e}" if pair.rmse else "0",
        None if pair.largest is None else f"{pair.largest:.1e}" if pair.largest else "0",
        None if pair.psnr is None else decibels(pair.psnr),
        None if pair.ssim is None else f"{pair.ssim:.4f}",
    ]


def _figure(summary: dict[str, object], key: str) -> str | None:
    """A figure of a summary, a sample."""
    value, count = summary.get(key, summary.get("seconds")), summary.get("samples")
    if not isinstance(value, (int, float)) or not isinstance(count, int):
        return None
    return f"{value / count if key == 'steady_seconds' else value:.2f}"
