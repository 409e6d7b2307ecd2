"""Transformers for images of more families, one or two classes each."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch

from . import add
from ._latents import call, embeddings, flow, hole, images, net, pipeline, shifted, together, vae
from ._parts import picture, randn, seeded
from .qwen_image import vae as video_vae

SQUARE: dict[str, Any] = {"height": 16, "width": 16, "guidance_scale": 3.0}
FAR: dict[str, Any] = {"height": 64, "width": 64, "guidance_scale": 3.0}
HEADS: dict[str, Any] = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
STREAMS: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
ROPE: dict[str, Any] = {"axes_dims_rope": (4, 4, 8), "joint_attention_dim": 32}
prompt = embeddings(32)
masked = embeddings(32, mask="attention_mask")
masked_embeds = embeddings(32, mask="embeds_mask")

# Flux 2: patches of the latents, normalised by the statistics of a batch norm

SIZES: dict[str, Any] = STREAMS | {"in_channels": 16, "joint_attention_dim": 32, "timestep_guidance_channels": 16}
flux2 = partial(net, "Flux2Transformer2DModel", **SIZES, axes_dims_rope=(4, 4, 4, 4))
klein = partial(net, "Flux2Transformer2DModel", **SIZES, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False)


def flux2_vae() -> Any:
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
    }
    return seeded(diffusers.AutoencoderKLFlux2, **levels, latent_channels=4, norm_num_groups=2)


def flux2_prompt(n: int) -> dict[str, Any]:
    return {"prompt_embeds": randn(n, 6, 32)}


parts: dict[str, Any] = {"scheduler": shifted, "vae": flux2_vae}
add("Flux2Pipeline", "Flux 2", pipeline("Flux2Pipeline", transformer=flux2, **parts), call(flux2_prompt, **SQUARE))
add("Flux2KleinPipeline", "Flux 2", pipeline("Flux2KleinPipeline", transformer=klein, **parts), call(prompt, **SQUARE))


def pictures(n: int) -> dict[str, Any]:
    return {"image": picture(64)}


draw = together(flux2_prompt, pictures)
add("Flux2Pipeline image", "Flux 2", pipeline("Flux2Pipeline", transformer=flux2, **parts), call(draw, **SQUARE))
draw = together(prompt, hole)
kind = "Flux2KleinInpaintPipeline"
add(kind, "Flux 2", pipeline(kind, transformer=klein, **parts), call(draw, **SQUARE, strength=0.7))
draw = together(flux2_prompt, pictures)
kind = "Flux2KleinKVPipeline"
add(kind, "Flux 2", pipeline(kind, transformer=klein, **parts), call(draw, height=16, width=16))

# Hunyuan-DiT

SIZES = {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 16, "hidden_size": 32, "patch_size": 2}
SIZES |= {"in_channels": 4, "sample_size": 8, "cross_attention_dim": 32, "cross_attention_dim_t5": 32}
SIZES |= {"pooled_projection_dim": 16, "text_len": 6, "text_len_t5": 6, "activation_fn": "gelu-approximate"}
hunyuan = partial(net, "HunyuanDiT2DModel", **SIZES)
SIZES = {name: size for name, size in SIZES.items() if name != "num_layers"} | {"transformer_num_layers": 4}
hunyuan_controlnet = partial(net, "HunyuanDiT2DControlNetModel", **SIZES)


def hunyuan_prompt(n: int) -> dict[str, Any]:
    made = masked(n)
    return made | {f"{name}_2": value.flip(1) for name, value in made.items()}


parts = {"transformer": hunyuan, "scheduler": diffusers.DDPMScheduler, "vae": partial(vae, levels=4)}
controlled = parts | {"controlnet": hunyuan_controlnet}
plain = FAR | {"use_resolution_binning": False, "original_size": (64, 64)}
draw = together(hunyuan_prompt, lambda n: {"control_image": images(n, 64)})
add("HunyuanDiTPipeline", "Hunyuan-DiT", pipeline("HunyuanDiTPipeline", **parts), call(hunyuan_prompt, **plain))
add("HunyuanDiTPAGPipeline", "Hunyuan-DiT", pipeline("HunyuanDiTPAGPipeline", **parts), call(hunyuan_prompt, **plain))
kind = "HunyuanDiTControlNetPipeline"
add(kind, "Hunyuan-DiT", pipeline(kind, **controlled), call(draw, **plain))

# HunyuanImage, guided by an object of its own

SIZES = STREAMS | {"in_channels": 4, "out_channels": 4, "num_refiner_layers": 1, "text_embed_dim": 32}
hunyuan_image = partial(net, "HunyuanImageTransformer2DModel", **SIZES, text_embed_2_dim=32, rope_axes_dim=(8, 8))


def hunyuan_image_vae() -> Any:
    levels: dict[str, Any] = {"block_out_channels": (32, 32), "layers_per_block": 1, "spatial_compression_ratio": 2}
    levels |= {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 16, "scaling_factor": 0.6}
    return seeded(diffusers.AutoencoderKLHunyuanImage, **levels)


def guider() -> Any:
    return diffusers.guiders.AdaptiveProjectedMixGuidance(guidance_scale=3.0)


def hunyuan_image_prompt(n: int) -> dict[str, Any]:
    made = masked_embeds(n)
    more = {
        name.replace("embeds", "embeds_2") if name.endswith("embeds") else f"{name}_2": value.flip(1)
        for name, value in made.items()
    }
    return made | more


parts = {"transformer": hunyuan_image, "scheduler": flow, "vae": hunyuan_image_vae}
small: dict[str, Any] = {"height": 16, "width": 16}
kind = "HunyuanImagePipeline"
add(kind, "HunyuanImage", pipeline(kind, **parts), call(hunyuan_image_prompt, **small))
add(
    f"{kind} guider",
    "HunyuanImage",
    pipeline(kind, **parts, guider=guider, ocr_guider=guider),
    call(hunyuan_image_prompt, **small),
)

# Bria, Ovis, PRX

bria = partial(net, "BriaTransformer2DModel", **STREAMS | ROPE, in_channels=16)
parts = {"transformer": bria, "scheduler": shifted, "vae": vae}
add("BriaPipeline", "Bria", pipeline("BriaPipeline", **parts), call(prompt, **SQUARE))
ovis = partial(net, "OvisImageTransformer2DModel", **STREAMS | ROPE, in_channels=16, out_channels=16)
parts = {"transformer": ovis, "scheduler": shifted, "vae": vae}
add(
    "OvisImagePipeline",
    "Ovis-Image",
    pipeline("OvisImagePipeline", **parts),
    call(prompt, **SQUARE, negative_prompt=None),
)
SIZES = {"context_in_dim": 32, "hidden_size": 32, "num_heads": 2, "depth": 2, "axes_dim": [8, 8]}
prx = partial(net, "PRXTransformer2DModel", **SIZES, in_channels=4)
parts = {"transformer": prx, "scheduler": partial(flow, shift=3.0), "vae": vae}
bools = embeddings(32, mask="attention_mask", dtype=torch.bool)
plain = SQUARE | {"use_resolution_binning": False}
add("PRXPipeline", "PRX", pipeline("PRXPipeline", **parts), call(bools, **plain), prompts=(1,))
pixels = partial(net, "PRXTransformer2DModel", **SIZES, in_channels=3)
parts = {"transformer": pixels, "scheduler": partial(flow, shift=3.0)}
add("PRXPixelPipeline", "PRX", pipeline("PRXPixelPipeline", **parts), call(bools, **plain), prompts=(1,))

# Kandinsky 5

SIZES = {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 32, "in_text_dim2": 16, "time_dim": 16}
SIZES |= {"model_dim": 32, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (4, 4, 8)}
kandinsky = partial(net, "Kandinsky5Transformer3DModel", **SIZES)


sighted = partial(net, "Kandinsky5Transformer3DModel", **SIZES, visual_cond=True)


def kandinsky_pipeline(kind: str, transformer: Any) -> Any:
    pipe = pipeline(kind, transformer=transformer, scheduler=partial(flow, shift=3.0), vae=partial(vae, levels=4))()
    pipe.resolutions = [(64, 64)]  # all that is asked for becomes one of these
    return pipe


def kandinsky_prompt(n: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for seed, word in enumerate(("", "negative_")):
        made[f"{word}prompt_embeds_qwen"] = randn(n, 6, 32, seed=seed)
        made[f"{word}prompt_embeds_clip"] = randn(n, 16, seed=seed + 2)
        made[f"{word}prompt_cu_seqlens"] = 6 * torch.arange(n + 1, dtype=torch.int32)
    return made


add(
    "Kandinsky5T2IPipeline",
    "Kandinsky 5",
    partial(kandinsky_pipeline, "Kandinsky5T2IPipeline", kandinsky),
    call(kandinsky_prompt, **FAR),
)
draw = together(kandinsky_prompt, lambda n: {"image": images(n, 64)})
add(
    "Kandinsky5I2IPipeline",
    "Kandinsky 5",
    partial(kandinsky_pipeline, "Kandinsky5I2IPipeline", sighted),
    call(draw, **FAR),
)

# Ernie-Image, whose prompts are lists

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 32, "text_in_dim": 32}
ernie = partial(net, "ErnieImageTransformer2DModel", **SIZES, in_channels=16, out_channels=16, rope_axes_dim=(4, 4, 8))


def listed(n: int) -> dict[str, Any]:
    names = ("prompt_embeds", "negative_prompt_embeds")
    return {name: [randn(6 + i - k, 32, seed=i + 5 * k) for i in range(n)] for k, name in enumerate(names)}


parts = {"transformer": ernie, "scheduler": partial(flow, shift=3.0), "vae": flux2_vae}
add("ErnieImagePipeline", "Ernie-Image", pipeline("ErnieImagePipeline", **parts), call(listed, **FAR))

# Krea 2: one embedding a token and layer of the language model

SIZES = HEADS | {"num_key_value_heads": 1, "intermediate_size": 32, "timestep_embed_dim": 16, "text_hidden_dim": 32}
SIZES |= {"num_text_layers": 2, "text_num_attention_heads": 2, "text_num_key_value_heads": 2}
SIZES |= {"text_intermediate_size": 32, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1}
krea = partial(net, "Krea2Transformer2DModel", **SIZES, in_channels=16, axes_dims_rope=(4, 4, 8))


def layered(n: int) -> dict[str, Any]:
    made = embeddings(64, mask="embeds_mask", dtype=torch.bool)(n)
    return {name: value if name.endswith("mask") else value.unflatten(2, (2, 32)) for name, value in made.items()}


parts = {"transformer": krea, "scheduler": shifted, "vae": video_vae}
add("Krea2Pipeline", "Krea 2", pipeline("Krea2Pipeline", **parts), call(layered, **SQUARE))

# Nucleus-Image: a mixture of experts

SIZES = HEADS | ROPE | {"in_channels": 16, "out_channels": 4, "num_experts": 4, "moe_intermediate_dim": 16}
SIZES |= {"capacity_factors": [2.0, 2.0], "dense_moe_strategy": "all_moe"}
nucleus = partial(net, "NucleusMoEImageTransformer2DModel", **SIZES)
parts = {"transformer": nucleus, "scheduler": shifted, "vae": video_vae}
add(
    "NucleusMoEImagePipeline",
    "Nucleus-Image",
    pipeline("NucleusMoEImagePipeline", **parts),
    call(masked_embeds, **SQUARE),
)

# GLM-Image

SIZES = HEADS | {"in_channels": 4, "out_channels": 4, "text_embed_dim": 32, "time_embed_dim": 16, "condition_dim": 8}
glm = partial(net, "GlmImageTransformer2DModel", **SIZES, prior_vq_quantizer_codebook_size=32)


def glm_prompt(n: int) -> dict[str, Any]:
    return prompt(n) | {"prior_token_ids": (torch.arange(16) * 7 % 32).expand(n, 16).clone()}


parts = {"transformer": glm, "scheduler": shifted, "vae": partial(vae, latents_mean=[0.1] * 4, latents_std=[1.1] * 4)}
add("GlmImagePipeline", "GLM-Image", pipeline("GlmImagePipeline", **parts), call(glm_prompt, **SQUARE))
