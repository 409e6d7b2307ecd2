"""Two runs side by side: are their samples the same, and what differs in their settings?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.similarity import similarity
from paraflowkit.report.labels import KEYS, label
from paraflowkit.report.saved import SavedRun
from paraflowkit.report.settings import differing, explain
from paraflowkit.solution import relative_rmse

#: Images at least so near to each other are the same to the eye: PSNR in decibels, and SSIM where it can be told.
PSNR, SSIM = 40.0, 0.99
#: Samples that are no images count as alike up to this relative RMSE.
RMSE = 1e-2


@dataclass(frozen=True)
class Pair:
    """A sample of run A and one of run B that were asked for by the same request.

    Attributes:
        a, b: their rows in ``results.jsonl``. same: they are equal, bit for bit; where one of the runs stored no
            samples, their images are. rmse: relative to the data's standard deviation. largest: absolute difference of
            the samples. psnr: in decibels, of the images as they were written (8 bits); infinite if those are equal.
            ssim: likewise. None is what cannot be told.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    same: bool
    rmse: float | None = None
    largest: float | None = None
    psnr: float | None = None
    ssim: float | None = None

    @property
    def label(self) -> str:
        """The request in words."""
        return label(self.a)

    @property
    def name(self) -> str:
        """Its number in run A, and in run B if that is another one, with the request."""
        other = "" if self.a["index"] == self.b["index"] else f" (B: {self.b['index']})"
        return f"sample {self.a['index']}{other}, {self.label}"

    @property
    def alike(self) -> bool:
        """Whether nobody would see a difference."""
        if self.same or self.psnr is None:
            return self.same or (self.rmse is not None and self.rmse <= RMSE)
        return self.psnr >= PSNR and (self.ssim is None or self.ssim >= SSIM)

    @property
    def badness(self) -> tuple[float, float]:
        """Larger for pairs that are less alike; a number that is not finite is the worst."""
        rmse = 0.0 if self.rmse is None else self.rmse
        return (-math.inf if self.psnr is None else -self.psnr, rmse if math.isfinite(rmse) else math.inf)


@dataclass(frozen=True)
class Comparison:
    """Two runs, their common requests, and what differs in their settings.

    Attributes:
        a, b: the runs. pairs: in run A's order. settings: dotted name → both values. std: what relative errors are
            divided by. known: it is the data's standard deviation, not that of run A's samples in its place.
    """

    a: SavedRun
    b: SavedRun
    pairs: list[Pair]
    settings: dict[str, tuple[Any, Any]]
    std: float
    known: bool

    @property
    def worst(self) -> list[Pair]:
        """The pairs, the least alike first."""
        return sorted(self.pairs, key=lambda pair: pair.badness, reverse=True)

    @property
    def verdict(self) -> str:
        """What to think of it, in two sentences."""
        return f"{self._samples()} {explain(self.settings, all(pair.same for pair in self.pairs))}"

    def _samples(self) -> str:
        count, worst = len(self.pairs), self.worst[0]
        these = f"all {count} samples that both runs made" if count > 1 else "the sample that both runs made"
        if all(pair.same for pair in self.pairs):
            return f"Identical: {these} {'are' if count > 1 else 'is'} the same, bit for bit."
        figures = [] if worst.rmse is None else [f"relative RMSE {worst.rmse:.1e}"]
        if worst.psnr is not None:
            known = math.isfinite(worst.psnr)
            figures += [f"PSNR {worst.psnr:.1f} dB"] if known else ["as 8-bit images equal"]
            figures += [f"SSIM {worst.ssim:.4f}"] if known and worst.ssim is not None else []
        told = f"the worst is {worst.name} ({', '.join(figures)})."
        other = sum(not pair.alike for pair in self.pairs)
        if not other:
            how = "Nearly the same" if worst.psnr is None else "The same to the eye"
            return f"{how}: {these} {'agree' if count > 1 else 'agrees'}; {told}"
        limit = f"a relative RMSE above {RMSE:g}" if worst.psnr is None else f"less than {PSNR:g} dB or SSIM {SSIM:g}"
        return (
            f"Different: {other} of {count} sample{'s' * (count > 1)} {'have' if other > 1 else 'has'} {limit}; {told}"
        )


def decibels(psnr: float) -> str:
    """A PSNR in digits; of equal images it is infinite."""
    return f"{psnr:.1f}" if math.isfinite(psnr) else "∞"


def compare(first: Path, second: Path) -> Comparison:
    """Compare two predict runs.

    Args:
        first, second: their folders, A and B.

    Raises:
        ParaflowkitError: a folder holds no finished run, the runs share no request, or their samples have other shapes.
    """
    a, b = SavedRun.read(first), SavedRun.read(second)
    rows = list(_shared(a, b))
    if not rows:
        raise ParaflowkitError(
            f"The runs share no request: {a.path} begins with {label(a.rows[0])}, {b.path} with {label(b.rows[0])}. "
            "Samples are compared that have the same class or prompt, seed and guidance."
        )
    ours, theirs = _Samples(a), _Samples(b)
    told = a.summary.get("data_std")
    std = float(told) if isinstance(told, (int, float)) and told > 0 else None
    scale = ours.std() if std is None else std
    pairs = [_pair(a, b, one, other, ours[one["index"]], theirs[other["index"]], scale) for one, other in rows]
    return Comparison(a, b, pairs, differing(a.settings, b.settings), scale, std is not None)


def images(a: SavedRun, b: SavedRun, pair: tuple[dict[str, Any], dict[str, Any]]) -> tuple[Tensor, Tensor] | None:
    """Both images of a pair, uint8 ``(height, width, 1 or 3)``, or None where one was not written.

    Raises:
        ParaflowkitError: they have other sizes.
    """
    found = [run.image(row) for run, row in zip((a, b), pair, strict=True)]
    one, other = found
    if one is None or other is None:
        return None
    if one.size != other.size:
        raise ParaflowkitError(
            f"The images have other sizes: {one.width} × {one.height} pixels in {a.path}, {other.width} × "
            f"{other.height} in {b.path}. Compare runs of one size."
        )
    mode = "L" if one.mode == other.mode == "L" else "RGB"
    return _pixels(one.convert(mode)), _pixels(other.convert(mode))


def _pixels(image: Image.Image) -> Tensor:
    held = torch.from_numpy(np.asarray(image).copy())
    return held[..., None] if held.ndim == 2 else held


def _shared(a: SavedRun, b: SavedRun) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of the same request; of one that was asked for twice, the first goes with the first."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    for row in b.rows:
        waiting.setdefault(_key(row), []).append(row)
    for row in a.rows:
        if waiting.get(_key(row)):
            yield row, waiting[_key(row)].pop(0)


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row.get(key) for key in KEYS])


class _Samples:
    """The stored samples of a run, one at a time; None where there are none."""

    def __init__(self, run: SavedRun) -> None:
        self._path = run.path / "samples.safetensors"
        try:
            with safe_open(self._path, "pt") as file:
                self.count = int(file.get_slice("samples").get_shape()[0])
        except (OSError, SafetensorError):
            self.count = 0

    def __getitem__(self, index: int) -> Tensor | None:
        if not 0 <= index < self.count:
            return None
        with safe_open(self._path, "pt") as file:
            return file.get_slice("samples")[index : index + 1]

    def std(self) -> float:
        """Over the first hundred samples."""
        if not self.count:
            return 1.0
        with safe_open(self._path, "pt") as file:
            return float(file.get_slice("samples")[:100].double().std(correction=0)) or 1.0


def _pair(
    a: SavedRun, b: SavedRun, one: dict[str, Any], other: dict[str, Any], x: Tensor | None, y: Tensor | None, std: float
) -> Pair:
    shown = images(a, b, (one, other))
    numbers: dict[str, Any] = {}
    if x is not None and y is not None and x.shape != y.shape and shown is None:
        raise ParaflowkitError(
            f"The samples have other shapes: {tuple(x.shape[1:])} in {a.path}, {tuple(y.shape[1:])} in {b.path}."
        )
    if x is not None and y is not None and x.shape == y.shape:
        x, y = x.double(), y.double()
        numbers = {"rmse": float(relative_rmse(x, y, std)), "largest": float((x - y).abs().max())}
        same = torch.equal(x, y)
    elif shown is not None:
        same = torch.equal(*shown)
    else:
        raise ParaflowkitError(f"{a.path} or {b.path} holds neither samples nor images of {label(one)}: make it again.")
    if shown is not None:
        found = similarity(*(image.permute(2, 0, 1)[None].double() / 127.5 - 1 for image in shown))
        psnr = found.psnr[0]
        numbers |= {"psnr": math.inf if psnr is None else psnr, "ssim": found.ssim[0]}
    return Pair(one, other, same, **numbers)
