"""The CLIP score [1]: how well images show their prompts, by a CLIP model of a local folder.

[1] Hessel et al., CLIPScore: A Reference-free Evaluation Metric for Image Captioning, EMNLP 2021; the factor is 100 and
not 2.5, as in torchmetrics and in the papers on samplers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from paraflowkit.errors import ParaflowkitError
from paraflowkit.report.images import to_image

_ROWS = 32


class ClipScore(Metric):
    """100 · max(cos, 0) between images and their prompts; ``compute()`` returns the mean over all processes, or None.

    The images go through the folder's own processor, as their PNG files would. A prompt with more tokens than the text
    encoder takes is cut.

    Args:
        folder: of a ``CLIPModel`` with its tokenizer and image processor, as ``save_pretrained`` writes them.
        options: of torchmetrics.

    Raises:
        ParaflowkitError: transformers is missing, or the folder, its weights or a part of them.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, folder: Path | str, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.tokenizer, self.processor = _load(Path(folder))
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors ``(n, d)`` float64 of images ``(n, 1 or 3, h, w)`` in [-1, 1]."""
        made: list[Tensor] = []
        for part in images.split(_ROWS):
            seen = [to_image(image).convert("RGB") for image in part]
            pixels = self.processor(images=seen, return_tensors="pt")["pixel_values"]
            made.append(_unit(self.model.get_image_features(pixel_values=pixels.to(self.model.device))))
        return torch.cat(made)

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors ``(n, d)`` float64 of prompts."""
        length = self.model.config.text_config.max_position_embeddings
        made: list[Tensor] = []
        for at in range(0, len(prompts), _ROWS):
            part = list(prompts[at : at + _ROWS])
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt")
            tokens = tokens.to(self.model.device)
            made.append(_unit(self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"])))
        return torch.cat(made)

    def scores(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score of each image with its prompt ``(n,)`` float64; it changes nothing of what ``compute`` returns.

        Raises:
            ValueError: not as many prompts as images, or none.
        """
        if len(images) != len(prompts) or not prompts:
            raise ValueError(f"{len(images)} images and {len(prompts)} prompts have no CLIP score")
        return 100 * (self.embed_images(images) * self.embed_prompts(prompts)).sum(1).clamp(min=0)

    def update(self, images: Tensor, prompts: Sequence[str]) -> None:
        """Add images ``(n, 1 or 3, h, w)`` in [-1, 1] with their prompts; n may be 0."""
        if len(images) or prompts:
            found = self.scores(images, prompts)
            self.total += found.sum().to(self.total.device)
            self.count += len(found)

    def compute(self) -> float | None:
        """The mean score, None without images."""
        return (self.total / self.count).item() if self.count > 0 else None


def _unit(made: Any) -> Tensor:
    """Of the projected features: transformers 5 wraps them in an output, 4 returns the tensor."""
    found: Tensor = made if isinstance(made, Tensor) else made.pooler_output
    return torch.nn.functional.normalize(found.double(), dim=-1)


def _load(folder: Path) -> tuple[Any, Any, Any]:
    setting = "metrics.clip"
    wants = "a folder of a CLIPModel with its tokenizer and image processor, as save_pretrained writes it"
    if not (folder / "config.json").is_file():
        raise ParaflowkitError(f"{setting}: there is no file {str(folder / 'config.json')!r}; it wants {wants}.")
    try:
        import transformers
    except ImportError as error:
        raise ParaflowkitError(
            f"{setting}: the CLIP score needs the package transformers: install it with pip install transformers."
        ) from error
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ParaflowkitError(f"{setting}: {folder / 'config.json'} cannot be read ({error}).") from error
    if kind != "clip":
        raise ParaflowkitError(f"{setting}: {folder} holds a model of the type {kind!r}; it wants {wants}.")
    # The processor that needs no torchvision, so that a score does not depend on whether that is installed.
    processor: Any = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    try:
        with _quiet(transformers):
            made: Any = transformers.CLIPModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
            tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            pictures = processor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise ParaflowkitError(f"{setting}: {folder} cannot be loaded ({cause}); it wants {wants}.") from error
    model, told = made
    absent = sorted(told["missing_keys"])
    if absent:
        raise ParaflowkitError(f"{setting}: the weights of {folder} lack {len(absent)} tensors, {absent[0]} for one.")
    return model.float().eval().requires_grad_(False), tokenizer, pictures


@contextmanager
def _quiet(transformers: Any) -> Generator[None]:
    """Without transformers' bars and reports: what is wrong is said in a sentence."""
    words: Any = transformers.utils.logging
    bars, level = words.is_progress_bar_enabled(), words.get_verbosity()
    words.disable_progress_bar()
    words.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        words.set_verbosity(level)
        if bars:
            words.enable_progress_bar()
