"""Transformers for images of many families, one or two classes each."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch

from . import add
from ._latents import call, control, embeddings, flow, image, images, net, pipeline, shifted, together, vae
from ._parts import randn, seeded

SQUARE: dict[str, Any] = {"height": 16, "width": 16, "guidance_scale": 3.0}
HEADS: dict[str, Any] = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
STREAMS: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
masked = embeddings(32, mask="attention_mask")


def dpm() -> Any:
    return diffusers.DPMSolverMultistepScheduler()


def flow_dpm() -> Any:
    return diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


# PixArt

SIZES: dict[str, Any] = HEADS | {"cross_attention_dim": 32, "caption_channels": 32, "sample_size": 8}
pixart = partial(net, "PixArtTransformer2DModel", **SIZES, in_channels=4, out_channels=8)
pixart_parts: dict[str, Any] = {"transformer": pixart, "scheduler": dpm, "vae": vae}
plain: dict[str, Any] = SQUARE | {"use_resolution_binning": False, "negative_prompt": None}
add("PixArtAlphaPipeline", "PixArt", pipeline("PixArtAlphaPipeline", **pixart_parts), call(masked, **plain))
add("PixArtSigmaPipeline", "PixArt", pipeline("PixArtSigmaPipeline", **pixart_parts), call(masked, **plain))
add("PixArtSigmaPAGPipeline", "PixArt", pipeline("PixArtSigmaPAGPipeline", **pixart_parts), call(masked, **plain))

# Sana

CROSS: dict[str, Any] = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 16}
SIZES = HEADS | CROSS | {"cross_attention_dim": 32, "caption_channels": 32, "sample_size": 8}
sana = partial(net, "SanaTransformer2DModel", **SIZES, in_channels=4, out_channels=4)
sprint = partial(
    net,
    "SanaTransformer2DModel",
    **SIZES,
    in_channels=4,
    out_channels=4,
    guidance_embeds=True,
    qk_norm="rms_norm_across_heads",
)
sana_controlnet = partial(net, "SanaControlNetModel", **SIZES, in_channels=4, out_channels=4)


def deep() -> Any:
    """A tiny deep-compression autoencoder."""
    shape: dict[str, Any] = {"latent_channels": 4, "attention_head_dim": 4, "scaling_factor": 0.6}
    for half in ("encoder", "decoder"):
        shape |= {f"{half}_block_types": "ResBlock", f"{half}_block_out_channels": (8, 8, 8)}
        shape |= {f"{half}_layers_per_block": (1, 1, 1), f"{half}_qkv_multiscales": ((), (), ())}
    return seeded(diffusers.AutoencoderDC, **shape)


def sprint_prompt(n: int) -> dict[str, Any]:
    return {name: value for name, value in masked(n).items() if not name.startswith("negative")}


sana_parts: dict[str, Any] = {"transformer": sana, "scheduler": flow_dpm, "vae": deep}
sprint_parts: dict[str, Any] = {"transformer": sprint, "scheduler": diffusers.SCMScheduler, "vae": deep}
controlled = sana_parts | {"controlnet": sana_controlnet}
plain = {"height": 32, "width": 32, "guidance_scale": 3.0, "use_resolution_binning": False, "negative_prompt": None}
quick = {name: value for name, value in plain.items() if name != "negative_prompt"} | {"intermediate_timesteps": None}
add("SanaPipeline", "Sana", pipeline("SanaPipeline", **sana_parts), call(masked, **plain))
add("SanaPAGPipeline", "Sana", pipeline("SanaPAGPipeline", **sana_parts), call(masked, **plain))
draw = together(masked, lambda n: {"control_image": images(n, 32)})
add("SanaControlNetPipeline", "Sana", pipeline("SanaControlNetPipeline", **controlled), call(draw, **plain))
add("SanaSprintPipeline", "Sana", pipeline("SanaSprintPipeline", **sprint_parts), call(sprint_prompt, **quick))
draw = together(sprint_prompt, lambda n: {"image": images(n, 32)})
kind = "SanaSprintImg2ImgPipeline"
add(kind, "Sana", pipeline(kind, **sprint_parts), call(draw, **quick, strength=0.7))

# Chroma

SIZES = STREAMS | {"joint_attention_dim": 32, "axes_dims_rope": (4, 4, 8)}
NARROW: dict[str, Any] = {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1}
chroma = partial(net, "ChromaTransformer2DModel", **SIZES, **NARROW, in_channels=16)
chroma_parts: dict[str, Any] = {"transformer": chroma, "scheduler": shifted, "vae": vae}
bools = embeddings(32, mask="attention_mask", dtype=torch.bool)
add("ChromaPipeline", "Chroma", pipeline("ChromaPipeline", **chroma_parts), call(bools, **SQUARE))
add(
    "ChromaImg2ImgPipeline",
    "Chroma",
    pipeline("ChromaImg2ImgPipeline", **chroma_parts),
    call(together(bools, image), **SQUARE),
)

# Lumina

ATTENTION: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "num_kv_heads": 2}
SIZES = ATTENTION | {"sample_size": 8, "multiple_of": 16, "in_channels": 4}
lumina = partial(net, "LuminaNextDiT2DModel", **SIZES, cross_attention_dim=32)
lumina2 = partial(
    net,
    "Lumina2Transformer2DModel",
    **SIZES,
    num_refiner_layers=1,
    cap_feat_dim=32,
    axes_dim_rope=(4, 4, 8),
    axes_lens=(32, 32, 32),
)
lumina_parts: dict[str, Any] = {"transformer": lumina, "scheduler": flow, "vae": vae}
lumina2_parts: dict[str, Any] = {"transformer": lumina2, "scheduler": shifted, "vae": vae}
FAR: dict[str, Any] = {"height": 64, "width": 64, "guidance_scale": 3.0}  # these count eight pixels to a latent
add("LuminaPipeline", "Lumina", pipeline("LuminaPipeline", **lumina_parts), call(masked, **FAR))
add("Lumina2Pipeline", "Lumina", pipeline("Lumina2Pipeline", **lumina2_parts), call(masked, **FAR))

# HiDream

SIZES = STREAMS | {"axes_dims_rope": (8, 4, 4), "max_resolution": (16, 16), "llama_layers": [0, 1]}
hidream = partial(
    net,
    "HiDreamImageTransformer2DModel",
    **SIZES,
    patch_size=2,
    in_channels=4,
    caption_channels=[32, 32],
    text_emb_dim=32,
    num_routed_experts=2,
    num_activated_experts=1,
    force_inference_output=True,
)


def hidream_prompt(n: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for seed, word in enumerate(("", "negative_")):
        made[f"{word}prompt_embeds_t5"] = randn(n, 6, 32, seed=seed)
        made[f"{word}prompt_embeds_llama3"] = randn(2, n, 6, 32, seed=seed + 2)
        made[f"{word}pooled_prompt_embeds"] = randn(n, 32, seed=seed + 4)
    return made


hidream_parts: dict[str, Any] = {"transformer": hidream, "scheduler": shifted, "vae": vae}


def hidream_pipeline() -> Any:
    pipe = pipeline("HiDreamImagePipeline", **hidream_parts)()
    pipe.default_sample_size = 8  # any size asked for is scaled to the area of this one
    return pipe


add("HiDreamImagePipeline", "HiDream", hidream_pipeline, call(hidream_prompt, **SQUARE))

# CogView

SIZES = HEADS | {"in_channels": 4, "out_channels": 4, "text_embed_dim": 32, "time_embed_dim": 16, "condition_dim": 8}
cogview3 = partial(net, "CogView3PlusTransformer2DModel", **SIZES, pos_embed_max_size=16, sample_size=8)
cogview4 = partial(net, "CogView4Transformer2DModel", **SIZES, sample_size=8, rope_axes_dim=(16, 16))
wide = partial(net, "CogView4Transformer2DModel", **SIZES | {"in_channels": 8}, sample_size=8, rope_axes_dim=(16, 16))


def zero_snr() -> Any:
    return diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)


prompt = embeddings(32)
cogview: dict[str, Any] = {"scheduler": shifted, "vae": vae}
draw = together(prompt, control)
add(
    "CogView3PlusPipeline",
    "CogView",
    pipeline("CogView3PlusPipeline", transformer=cogview3, scheduler=zero_snr, vae=vae),
    call(prompt, **SQUARE),
)
add(
    "CogView4Pipeline", "CogView", pipeline("CogView4Pipeline", transformer=cogview4, **cogview), call(prompt, **SQUARE)
)
add(
    "CogView4ControlPipeline",
    "CogView",
    pipeline("CogView4ControlPipeline", transformer=wide, **cogview),
    call(draw, **SQUARE),
)

# AuraFlow

SIZES = {"num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4}
aura = partial(
    net,
    "AuraFlowTransformer2DModel",
    **SIZES,
    sample_size=8,
    joint_attention_dim=32,
    caption_projection_dim=32,
    pos_embed_max_size=64,
)
add(
    "AuraFlowPipeline",
    "AuraFlow",
    pipeline("AuraFlowPipeline", transformer=aura, scheduler=flow, vae=vae),
    call(masked, **SQUARE),
)
