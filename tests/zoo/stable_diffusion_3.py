"""Stable Diffusion 3: image to image, inpainting, ControlNet, perturbed attention."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import add
from ._latents import WORDS, call, control, embeddings, flow, hole, image, images, masks, net, pipeline, t5, together
from ._latents import vae as autoencoder
from ._parts import clip_text, clip_tokenizer, tokenizer

SIZES: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 32,
    "pos_embed_max_size": 16,
}
prompt = embeddings(32, pooled=32)
transformer = partial(net, "SD3Transformer2DModel", **SIZES, out_channels=16, qk_norm="rms_norm")
dual = partial(net, "SD3Transformer2DModel", **SIZES, out_channels=16, qk_norm="rms_norm", dual_attention_layers=(0,))
controlnet = partial(net, "SD3ControlNetModel", **SIZES)
hole_controlnet = partial(net, "SD3ControlNetModel", **SIZES, extra_conditioning_channels=1)
vae = partial(autoencoder, 16)


def sd3(kind: str, **parts: Any) -> Any:
    return pipeline(kind, **{"transformer": transformer, "scheduler": partial(flow, shift=3.0), "vae": vae} | parts)


def encoder() -> Any:
    from transformers import CLIPTextModelWithProjection

    return clip_text(CLIPTextModelWithProjection)


def text(n: int) -> dict[str, Any]:
    return {"prompt": WORDS[n], "negative_prompt": "bad" if n == 1 else ["bad"] * n, "max_sequence_length": 8}


def control_hole(n: int) -> dict[str, Any]:
    return {"control_image": images(n, seed=6), "control_mask": masks(n)}


ENCODERS: dict[str, Any] = {
    "text_encoder": encoder,
    "tokenizer": clip_tokenizer,
    "text_encoder_2": encoder,
    "tokenizer_2": clip_tokenizer,
    "text_encoder_3": t5,
    "tokenizer_3": tokenizer,
}
SQUARE: dict[str, Any] = {"height": 16, "width": 16, "guidance_scale": 5.0}
FAMILY = "Stable Diffusion 3"

for name, parts, draws, more in (
    ("StableDiffusion3Pipeline", {}, (prompt,), {}),
    ("StableDiffusion3Pipeline encoders", ENCODERS, (text,), {}),
    ("StableDiffusion3Pipeline skipped layers", {"transformer": dual}, (prompt,), {"skip_guidance_layers": [1]}),
    ("StableDiffusion3Img2ImgPipeline", {}, (prompt, image), {"strength": 0.7}),
    ("StableDiffusion3InpaintPipeline", {}, (prompt, hole), {"strength": 0.7}),
    ("StableDiffusion3ControlNetPipeline", {"controlnet": controlnet}, (prompt, control), {}),
    ("StableDiffusion3ControlNetInpaintingPipeline", {"controlnet": hole_controlnet}, (prompt, control_hole), {}),
    ("StableDiffusion3PAGPipeline", {}, (prompt,), {}),
    ("StableDiffusion3PAGImg2ImgPipeline", {}, (prompt, image), {"strength": 0.7}),
):
    add(name, FAMILY, sd3(name.split()[0], **parts), call(together(*draws), **SQUARE, **more))
