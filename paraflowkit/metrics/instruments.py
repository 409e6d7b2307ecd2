"""All metrics of a bench, built from its settings; what cannot be measured is said once, and the rest goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.clip_score import ClipScore
from paraflowkit.metrics.config import MetricsConfig
from paraflowkit.metrics.distances import KEYS as DISTANCES
from paraflowkit.metrics.distances import Distances
from paraflowkit.metrics.features import make_features, name_of
from paraflowkit.metrics.named import load_object
from paraflowkit.metrics.references import load_references
from paraflowkit.metrics.similarity import similarity
from paraflowkit.requests import Request

__all__ = ["KEYS", "Instruments", "MetricsConfig"]

Figures = dict[str, "float | None"]
_SIMILARITY = ("psnr", "ssim", "rmse", "identical")
#: What :meth:`Instruments.measure` returns, before the scores of the settings.
KEYS = (*DISTANCES, "clip_score", *_SIMILARITY)


@dataclass(frozen=True)
class _Score:
    setting: str
    value: str
    call: Callable[[Tensor, Sequence[Request]], Mapping[str, float]]


class Instruments:
    """Measures sets of images; it talks to no other process, so each that calls it gives all images.

    Attributes:
        missing: sentences: what is left out, which file it wants and which setting names it. about: what the distances
            are made of, for reports; empty where there are none.
    """

    def __init__(
        self,
        distances: Distances | None,
        clip: ClipScore | None,
        scores: Sequence[_Score] = (),
        log: Callable[[str], None] = print,
    ) -> None:
        self.missing: list[str] = []
        self._distances, self._clip, self._scores, self._log = distances, clip, tuple(scores), log
        self._score_keys: list[str] = []
        self.about = ""
        if distances is not None:
            seen = distances.references
            count = "mean and covariance" if seen.count is None else f"{seen.count} images"
            self.about = f"features: {name_of(distances.network)}; references: {seen.name}, {count}"

    @classmethod
    def build(
        cls, config: MetricsConfig, device: torch.device | str = "cpu", log: Callable[[str], None] = print
    ) -> Instruments:
        """Load what the settings name; what cannot be loaded is told and left out.

        Args:
            device: of the networks. log: called with each sentence of ``missing``.
        """
        problems: list[str] = []
        distances: Distances | None = None
        clip: ClipScore | None = None
        scores: list[_Score] = []
        if config.features is not None and config.references is not None:
            try:
                network = make_features(config.features, device)
                found = load_references(config.references, network, config.reference_size)
                distances = Distances(network, found, sync_on_compute=False).to(device)
            except ParaflowkitError as error:
                problems.append(f"No FID, KID, precision and recall: {error}")
        if config.clip is not None:
            try:
                clip = ClipScore(config.clip, sync_on_compute=False).to(device)
            except ParaflowkitError as error:
                problems.append(f"No CLIP score: {error}")
        for name, value in config.scores.items():
            setting = f"metrics.scores.{name}"
            try:
                scores.append(_Score(setting, value, load_object(setting, value)))
            except ParaflowkitError as error:
                problems.append(f"No score {name}: {error}")
        made = cls(distances, clip, scores, log)
        for problem in problems:
            made._leave_out(problem)
        return made

    def _leave_out(self, sentence: str) -> None:
        if sentence not in self.missing:
            self.missing = [*self.missing, sentence]  # a new list: rows of a report may hold the old one
            self._log(sentence)

    def measure(self, images: Tensor, requests: Sequence[Request], sequential: Tensor | None = None) -> Figures:
        """All figures of a set of images.

        Args:
            images: ``(n, c, h, w)`` in [-1, 1]; those that hold numbers that are not finite are left out.
            requests: one an image. sequential: the sequential sampler's images of the same requests.

        Returns:
            The same keys every time: :data:`KEYS`, then those that the scores returned so far. ``images`` and
            ``references`` are how many there were; ``psnr`` is the mean over the images that differ from their
            sequential ones, ``identical`` the number of those that do not. None is what cannot be said.

        Raises:
            ValueError: no images, or not as many requests or sequential images.
        """
        if images.ndim != 4 or len(images) != len(requests):
            raise ValueError(f"images {tuple(images.shape)} and {len(requests)} requests cannot be measured")
        if sequential is not None and sequential.shape != images.shape:
            raise ValueError(f"images {tuple(images.shape)} and sequential ones {tuple(sequential.shape)} do not match")
        whole = images.flatten(1).isfinite().all(1)
        if not whole.all():
            self._log(f"{int((~whole).sum())} of {len(whole)} images hold numbers that are not finite: not measured.")
        kept, wanted = images[whole], [request for request, fine in zip(requests, whole.tolist(), strict=True) if fine]
        figures: Figures = {**dict.fromkeys(KEYS), "images": len(kept)}
        figures |= self._measure_distances(kept)
        figures["clip_score"] = self._measure_clip(kept, wanted)
        if sequential is not None:
            plain = sequential[whole]
            both = plain.flatten(1).isfinite().all(1)
            found = similarity(kept[both], plain[both])
            figures |= {"psnr": found.mean_psnr, "ssim": found.mean_ssim, "rmse": found.mean_rmse}
            figures["identical"] = found.identical
        scored = self._measure_scores(kept, wanted)
        return figures | {key: scored.get(key) for key in self._score_keys}

    def _measure_distances(self, images: Tensor) -> Figures:
        if self._distances is None:
            return {}
        try:
            self._distances.update(images)
            return self._distances.compute()
        except Exception as error:  # a metric costs its own figures, never the run
            self._leave_out(f"No FID, KID, precision and recall: {_cause(error)}.")
            return {}
        finally:
            self._distances.reset()

    def _measure_clip(self, images: Tensor, requests: Sequence[Request]) -> float | None:
        """The mean over the images that have a prompt."""
        told = [i for i, request in enumerate(requests) if request.prompt is not None]
        if self._clip is None:
            if told and not any(sentence.startswith("No CLIP score") for sentence in self.missing):
                self._leave_out(
                    "No CLIP score: metrics.clip is not set; it wants a folder of a CLIPModel with its tokenizer and "
                    "image processor."
                )
            return None
        if not told:
            return None
        try:
            return self._clip.scores(images[told], [str(requests[i].prompt) for i in told]).mean().item()
        except Exception as error:
            self._leave_out(f"No CLIP score: {_cause(error)}.")
            return None

    def _measure_scores(self, images: Tensor, requests: Sequence[Request]) -> Figures:
        scored: Figures = {}
        for score in self._scores if len(images) else ():
            try:
                found = _checked(score.call(images, requests))
                clash = [name for name in found if name in KEYS or name in scored]
                if clash:
                    raise ValueError(f"{clash[0]!r} is the name of another figure")
            except Exception as error:
                self._leave_out(f"{score.setting}: {score.value} failed: {_cause(error)}.")
                continue
            scored |= found
        self._score_keys += [name for name in scored if name not in self._score_keys]
        return scored


def _cause(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if isinstance(error, (ParaflowkitError, ValueError)) else f"{type(error).__name__}: {text}"


def _checked(found: Any) -> Figures:
    """Numbers by name; those that are not finite become None."""
    if not isinstance(found, Mapping):
        raise ValueError(f"it must return numbers by name, got {type(found).__name__}")
    figures: Figures = {}
    for name, value in found.items():
        if value is not None and (isinstance(value, (str, bool)) or not isinstance(name, str)):
            raise ValueError(f"it must return numbers by name, got {name!r}: {value!r}")
        number = None if value is None else float(value)
        figures[name] = number if number is not None and math.isfinite(number) else None
    return figures
