"""What the tests of metrics share: images, requests, and objects that settings name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn
from zoo._parts import clip_tokenizer

from paraflowkit.requests import Request


class Pixels(nn.Module):
    """Feature network of a third party: it inherits nothing of ours."""

    name, num_features = "pixels", 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :12].double()


class Wide(Pixels):
    name, num_features = "wide", 13


def some_images() -> Tensor:
    return draws(20, 3, 2, 2, seed=5).clamp(-1, 1)


def loud_images() -> Tensor:
    return 255 * torch.rand(4, 3, 2, 2)


def brightness(images: Tensor, requests: Sequence[Request]) -> dict[str, float]:
    assert len(images) == len(requests)
    return {"brightness": images.mean().item(), "broken": float("nan")}


def darkness(images: Tensor, requests: Sequence[Request]) -> dict[str, float]:
    if images.mean() < -0.9:
        raise RuntimeError("too dark\nto tell")
    return {"darkness": -images.mean().item()}


def clashing(images: Tensor, requests: Sequence[Request]) -> dict[str, float]:
    return {"fid": 0.0}


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def requested(count: int, prompt: str | None = None) -> list[Request]:
    return [Request(seed=i, prompt=prompt) for i in range(count)]


def by_scipy(a: Tensor, b: Tensor) -> float:
    """FID as its authors define it."""
    x, y = a.numpy(), b.numpy()
    covariances = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root))


def write_clip(folder: Path) -> Path:
    """A tiny CLIPModel of random weights, with its tokenizer and image processor."""
    import transformers
    from transformers import CLIPConfig, CLIPModel

    # Before transformers 5 the processor without torchvision had no name of its own.
    processor: Any = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    torch.manual_seed(0)
    tower: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    text = {**tower, "vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0}
    vision = {**tower, "image_size": 12, "patch_size": 4}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    size = {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}}
    processor(**size).save_pretrained(folder)
    return folder
