"""Parts of the tiny transformer pipelines: autoencoder, schedulers, images, language models, calls on embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch

from ._parts import alive, assemble, randn, seeded

WORDS = {1: "a cat", 2: ["a cat", "red"]}


def images(n: int, size: int = 16, seed: int = 3) -> torch.Tensor:
    """Noise pictures between 0 and 1, [n, 3, size, size]."""
    return torch.sigmoid(randn(n, 3, size, size, seed=seed))


def masks(n: int, size: int = 16) -> torch.Tensor:
    """One in the right half of each picture, zero in the left, [n, 1, size, size]."""
    return (torch.arange(size) >= size // 2).float().expand(n, 1, size, size).clone()


def vae(channels: int = 4, levels: int = 2, **config: Any) -> Any:
    """An autoencoder of this many latent channels that halves the size ``levels - 1`` times."""
    shape: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": (8,) * levels,
        "latent_channels": channels,
        "norm_num_groups": 2,
        "scaling_factor": 0.6,
        "shift_factor": 0.05,
        "force_upcast": False,
    }
    return seeded(diffusers.AutoencoderKL, **shape | config)


def flow(**config: Any) -> Any:
    """A flow-matching Euler scheduler."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def shifted() -> Any:
    """A flow-matching Euler scheduler whose times shift with the size of the latents."""
    return flow(shift=3.0, use_dynamic_shifting=True)


def net(kind: str, **config: Any) -> Any:
    """A network of diffusers by the name of its class, its matrices of unit gain and none of its weights all zeros."""
    made = alive(seeded(getattr(diffusers, kind), **config))
    with torch.no_grad():
        for each in made.modules():
            if isinstance(each, torch.nn.Linear):
                each.weight.mul_(each.in_features**-0.5 / each.weight.std())
        for name, each in made.named_parameters():
            if name.endswith(("pad_token", "experts.gate_up_proj", "experts.down_proj")):  # not initialised at all
                each.copy_(each.shape[-1] ** -0.5 * randn(*each.shape))
    return made


def pipeline(kind: str, **parts: Callable[[], Any]) -> Callable[[], Any]:
    """How to build a pipeline by the name of its class from those parts that it takes."""

    def build() -> Any:
        return assemble(getattr(diffusers, kind), **{name: part() for name, part in parts.items()})

    return build


def call(draw: Callable[[int], dict[str, Any]], **more: Any) -> Callable[[int], dict[str, Any]]:
    """A call of six steps to numpy pictures, with what ``draw`` gives for the number of prompts."""
    return lambda n: {"num_inference_steps": 6, "output_type": "np"} | more | draw(n)


def t5(width: int = 32) -> Any:
    """A T5 encoder for the words of the zoo's tokenizer."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 32}
    return T5EncoderModel(T5Config(**sizes)).eval()


def together(*draws: Callable[[int], dict[str, Any]]) -> Callable[[int], dict[str, Any]]:
    """What several draws give, in one."""
    return lambda n: {name: value for draw in draws for name, value in draw(n).items()}


def image(n: int) -> dict[str, Any]:
    return {"image": images(n)}


def hole(n: int) -> dict[str, Any]:
    return {"image": images(n), "mask_image": masks(n)}


def control(n: int) -> dict[str, Any]:
    return {"control_image": images(n, seed=6)}


def embeddings(
    width: int, pooled: int = 0, mask: str = "", length: int = 6, dtype: Any = torch.long
) -> Callable[[int], dict[str, Any]]:
    """Draws prompt and negative prompt embeddings [n, length, width], if asked also pooled ones and masks.

    ``mask`` is how the class names a mask after ``prompt_``; the last token of the negative prompt is masked.
    """

    def draw(n: int) -> dict[str, Any]:
        made = {"prompt_embeds": randn(n, length, width), "negative_prompt_embeds": randn(n, length, width, seed=4)}
        if pooled:
            made["pooled_prompt_embeds"] = randn(n, pooled, seed=2)
            made["negative_pooled_prompt_embeds"] = randn(n, pooled, seed=5)
        if mask:
            made[f"prompt_{mask}"] = torch.ones(n, length, dtype=dtype)
            made[f"negative_prompt_{mask}"] = (torch.arange(length) < length - 1).to(dtype).expand(n, length).clone()
        return made

    return draw
