"""Pieces of the pipelines whose denoiser is a UNet: networks, schedules, pictures, prompt embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from . import add
from ._parts import alive, assemble, clip_text, randn, seeded

SHAPE = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 16 + 6 * 4,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def lively(network: Any) -> Any:
    """The network with larger weights: as they are first drawn, its output hardly depends on time and text."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                module.weight *= 1.5
    return network


def unet(**config: Any) -> Any:
    """A UNet for latents of 4 channels and 8 by 8 pixels, and for text embeddings of 16."""
    shape = SHAPE | {"sample_size": 8} | config
    shape.setdefault(
        "up_block_types", tuple(each.replace("Down", "Up") for each in reversed(shape["down_block_types"]))
    )
    return lively(alive(seeded(UNet2DConditionModel, **shape)))


def xl_unet(**config: Any) -> Any:
    """A UNet like the one of Stable Diffusion XL."""
    return unet(**(XL | config))


def controlnet(make: Any = ControlNetModel, **config: Any) -> Any:
    """A ControlNet for :func:`unet`, its zero convolutions with numbers in them."""
    shape = SHAPE | {"conditioning_embedding_out_channels": (8, 16)} | config
    return lively(alive(seeded(make, **shape), scale=0.2))


def vae(make: Any = AutoencoderKL, **config: Any) -> Any:
    """An autoencoder: 16 by 16 pixels to 8 by 8 latents of 4 channels."""
    shape = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}
    shape["down_block_types"] = ("DownEncoderBlock2D",) * 2
    shape["up_block_types"] = ("UpDecoderBlock2D",) * 2
    return alive(seeded(make, **(shape | {"sample_size": 16} | config)))


def schedule(make: Any, **config: Any) -> Any:
    """A scheduler with Stable Diffusion's noise levels."""
    takes = inspect.signature(make.__init__).parameters
    return make(**{name: value for name, value in (BETAS | config).items() if name in takes})


def picture(n: int, channels: int = 3, size: int = 16, seed: int = 5) -> torch.Tensor:
    """Smooth pictures within 0 and 1."""
    coarse = torch.sigmoid(randn(n, channels, 4, 4, seed=seed))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def mask(n: int, size: int = 16) -> torch.Tensor:
    """Masks whose right half is 1: to be painted."""
    half = torch.zeros(n, 1, size, size)
    half[..., size // 2 :] = 1
    return half


def embeds(n: int, negative: bool = True, pooled: int = 0, width: int = 16) -> dict[str, Any]:
    """Prompt embeddings for n prompts, with negative ones and pooled ones as asked for."""
    made = {"prompt_embeds": randn(n, 7, width, seed=11)}
    if pooled:
        made["pooled_prompt_embeds"] = randn(n, pooled, seed=13)
    if negative:
        made |= {f"negative_{name}": 0.5 * randn(*each.shape, seed=17) for name, each in made.items()}
    return made


def text(
    n: int, steps: int = 6, negative: bool = True, pooled: int = 0, width: int = 16, **more: Any
) -> dict[str, Any]:
    """Arguments of a call with prompt embeddings; callables among ``more`` take the number of prompts."""
    made = {"num_inference_steps": steps, "output_type": "np"} | embeds(n, negative, pooled, width)
    return made | {name: value(n) if callable(value) else value for name, value in more.items()}


def words(n: int, **more: Any) -> dict[str, Any]:
    """Arguments of a call with prompts in words."""
    more = {name: value(n) if callable(value) else value for name, value in more.items()}
    return {"prompt": ["a cat", "the dog"][:n], "num_inference_steps": 6, "output_type": "np"} | more


def build(pipeline: Any, scheduler: Any, network: dict[str, Any], **parts: Any) -> Any:
    """A pipeline with a UNet, an autoencoder, a scheduler and further parts, each made by a function."""
    usual = {"vae": vae, "unet": partial(unet, **network), "requires_safety_checker": bool, "add_watermarker": bool}
    return assemble(pipeline, scheduler=scheduler(), **{name: make() for name, make in (usual | parts).items()})


def pndm() -> Any:
    """The scheduler of Stable Diffusion 1."""
    return schedule(diffusers.PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=False)


def simple(
    family: str,
    name: str,
    call: Callable[[int], dict[str, Any]] = text,
    special: str = "",
    scheduler: Callable[[], Any] = pndm,
    network: dict[str, Any] | None = None,
    prompts: tuple[int, ...] = (1, 2),
    **parts: Callable[[], Any],
) -> None:
    """Add a class of diffusers by its name; ``parts`` make what it needs besides the usual."""
    made = partial(build, getattr(diffusers, name), scheduler, network or {}, **parts)
    add(f"{name} {special}".strip(), family, made, call, prompts=prompts)


def clip_vision(width: int = 16) -> Any:
    """A CLIP image encoder with a projection, for pictures of 8 by 8 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": width, "projection_dim": width, "intermediate_size": 24, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=8, patch_size=4)
    return alive(CLIPVisionModelWithProjection(config).eval())


def clip_projected(width: int = 16) -> Any:
    """A CLIP text encoder with a projection to 16."""
    from transformers import CLIPTextModelWithProjection

    return clip_text(CLIPTextModelWithProjection, width, projection_dim=16)


def prior() -> Any:
    """The network that finds an image embedding for a text's."""
    made = seeded(
        diffusers.PriorTransformer,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=16,
        num_embeddings=8,
    )
    return lively(alive(made))


def unclip() -> Any:
    """The scheduler of a prior."""
    return diffusers.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0)
