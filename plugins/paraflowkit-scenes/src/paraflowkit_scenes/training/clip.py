"""Training of the contrastive model: each image with its own caption against all others of the batch [1].

[1] Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from paraflowkit_scenes.clip import MEAN, STD, Clip, features
from paraflowkit_scenes.draw import SIZE
from paraflowkit_scenes.sample import example
from paraflowkit_scenes.training.batches import batch, generator
from paraflowkit_scenes.training.detector import spoil
from paraflowkit_scenes.training.loop import Run, Settings
from paraflowkit_scenes.training.text import make_tokenizer, text_config, tokens, write_tokenizer

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SETTINGS = Settings(steps=500, batch=96, learning_rate=1.5e-3, ema=0.995)
WIDTH = 128


def make_clip(tokenizer: Any) -> Any:
    """A fresh ``CLIPModel`` of the shipped architecture."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "projection_dim": WIDTH,
    }
    text = text_config(tokenizer, WIDTH, 3)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def train(fabric: Fabric, folder: Path, settings: Settings = SETTINGS, **options: Any) -> Any:
    """Train the contrastive model; returns it with averaged weights."""
    torch.manual_seed(settings.seed)
    tokenizer = make_tokenizer()
    adam = ("embedding", "projection", "logit_scale")
    run = Run(fabric, make_clip(tokenizer), settings, folder, adam=adam)
    model: Any = run.network

    def loss(step: int) -> Tensor:
        images, pictures = batch(settings.seed + 13, step, settings.batch, fabric.global_rank, fabric.world_size)
        images = fabric.to_device(spoil(images, generator(settings.seed, step, fabric.global_rank)))
        ids = fabric.to_device(tokens(tokenizer, [picture.scene.caption for picture in pictures]))
        seen = normalize(features(model.get_image_features(pixel_values=images)), dim=-1)
        said = normalize(features(model.get_text_features(input_ids=ids)), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * seen @ said.T
        own = torch.arange(len(images), device=logits.device)
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2

    run.fit(loss, **options)
    model.load_state_dict(run.average)
    return model.eval()


def save(model: Any, folder: Path) -> None:
    """Write the model (float16), its tokenizer and the settings of its image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    model.float()
    write_tokenizer(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def retrieval(clip: Clip, count: int = 200, seed: int = 99) -> float:
    """Share of fresh held-out scenes whose caption is the nearest of ``count`` captions."""
    made = [example(seed, index, "held-out") for index in range(count)]
    images = torch.stack([torch.from_numpy(image) for image, _ in made])
    likeness = clip.images(images) @ clip.texts([picture.scene.caption for _, picture in made]).T
    return float((likeness.argmax(1) == torch.arange(count)).float().mean())
