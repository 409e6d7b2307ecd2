"""Flux and its relatives: image to image, inpainting, Fill, Kontext, Control and ControlNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import add
from ._latents import WORDS, call, control, hole, image, net, pipeline, shifted, t5, together, vae
from ._parts import clip_text, clip_tokenizer, randn, tokenizer

SIZES: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 4, 8),
}


def prompt(n: int) -> dict[str, Any]:
    return {"prompt_embeds": randn(n, 6, 32), "pooled_prompt_embeds": randn(n, 16, seed=2)}


def negative(n: int) -> dict[str, Any]:
    more = {"negative_prompt_embeds": randn(n, 6, 32, seed=4), "negative_pooled_prompt_embeds": randn(n, 16, seed=5)}
    return prompt(n) | more | {"true_cfg_scale": 3.0}


def lora() -> Any:
    """A transformer with an adapter whose matrices are not zero."""
    from peft import LoraConfig

    made = net("FluxTransformer2DModel", **SIZES, guidance_embeds=True)
    made.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]))
    return made.eval()


plain = partial(net, "FluxTransformer2DModel", **SIZES, guidance_embeds=True)


def flux(kind: str, transformer: Any = None, **parts: Any) -> Any:
    return pipeline(kind, scheduler=shifted, vae=vae, transformer=transformer or plain, **parts)


def wide(channels: int) -> Any:
    """A transformer that takes more channels than it gives."""
    sizes = SIZES | {"in_channels": channels, "out_channels": 16}
    return partial(net, "FluxTransformer2DModel", **sizes, guidance_embeds=True)


def encoders() -> dict[str, Any]:
    return {
        "text_encoder": clip_text,
        "tokenizer": clip_tokenizer,
        "text_encoder_2": t5,
        "tokenizer_2": tokenizer,
    }


SQUARE: dict[str, Any] = {"height": 16, "width": 16, "guidance_scale": 3.5}
controlnet = partial(net, "FluxControlNetModel", **SIZES, guidance_embeds=True)


def text(n: int) -> dict[str, Any]:
    return {"prompt": WORDS[n], "max_sequence_length": 8}


add("FluxPipeline", "Flux", flux("FluxPipeline"), call(prompt, **SQUARE))
add("FluxPipeline encoders", "Flux", flux("FluxPipeline", **encoders()), call(text, **SQUARE))
add("FluxPipeline true guidance", "Flux", flux("FluxPipeline"), call(negative, **SQUARE))
add("FluxPipeline LoRA", "Flux", flux("FluxPipeline", lora), call(prompt, **SQUARE))
for kind, parts, draws, more in (
    ("FluxImg2ImgPipeline", {}, (negative, image), {"strength": 0.7}),
    ("FluxInpaintPipeline", {}, (prompt, hole), {"strength": 0.7}),
    ("FluxFillPipeline", {"transformer": wide(48)}, (prompt, hole), {}),
    ("FluxKontextPipeline", {}, (prompt, image), {"_auto_resize": False, "max_area": 256}),
    ("FluxKontextInpaintPipeline", {}, (negative, hole), {"_auto_resize": False, "max_area": 256, "strength": 0.9}),
    ("FluxControlPipeline", {"transformer": wide(32)}, (prompt, control), {}),
    ("FluxControlImg2ImgPipeline", {"transformer": wide(32)}, (prompt, image, control), {"strength": 0.7}),
    ("FluxControlInpaintPipeline", {"transformer": wide(32)}, (prompt, hole, control), {"strength": 0.7}),
    ("FluxControlNetPipeline", {"controlnet": controlnet}, (negative, control), {}),
    ("FluxControlNetImg2ImgPipeline", {"controlnet": controlnet}, (prompt, image, control), {"strength": 0.7}),
    ("FluxControlNetInpaintPipeline", {"controlnet": controlnet}, (prompt, hole, control), {"strength": 0.7}),
):
    add(kind, "Flux", flux(kind, **parts), call(together(*draws), **SQUARE, **more))
