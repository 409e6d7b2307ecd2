"""Videos by transformers of smaller families: Mochi, Allegro, Latte, EasyAnimate."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from transformers import T5Config, T5EncoderModel

from . import add
from ._parts import alive, assemble, randn, seeded, tokenizer
from ._unets import vae as image_vae

TEXT = 16


def network(make: Any, **config: Any) -> Any:
    """A network whose weights are all in use."""
    return alive(seeded(make, **config))


def text_encoder() -> Any:
    """A T5 encoder with one layer."""
    return seeded(
        T5EncoderModel, config=T5Config(vocab_size=64, d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def build(make: Any, **parts: Any) -> Any:
    """A pipeline; parts are made anew."""
    return assemble(make, **{name: part() for name, part in parts.items()})


def embeds(n: int, masks: bool = True, **more: Any) -> dict[str, Any]:
    """Prompt embeddings, their masks, guidance, and six steps."""
    call: dict[str, Any] = {"prompt_embeds": randn(n, 6, TEXT), "negative_prompt_embeds": randn(n, 6, TEXT, seed=2)}
    if masks:
        call |= {f"{word}prompt_attention_mask": torch.ones(n, 6, dtype=torch.long) for word in ("", "negative_")}
        call["prompt_attention_mask"][-1, 4:] = 0
    return call | {"guidance_scale": 4.0, "num_inference_steps": 6, "output_type": "np"} | more


def texts(n: int, **more: Any) -> dict[str, Any]:
    """Prompts as text."""
    call = {"prompt": ["a red cat", "two blue boats"][:n], "negative_prompt": "bad", "guidance_scale": 4.0}
    return call | {"num_inference_steps": 6, "output_type": "np"} | more


mochi = partial(
    network,
    diffusers.MochiTransformer3DModel,
    num_attention_heads=2,
    attention_head_dim=8,
    num_layers=2,
    pooled_projection_dim=16,
    in_channels=12,
    text_embed_dim=TEXT,
    time_embed_dim=8,
    max_sequence_length=8,
)
mochi_vae = partial(
    network,
    diffusers.AutoencoderKLMochi,
    encoder_block_out_channels=(32, 32, 32, 32),
    decoder_block_out_channels=(32, 32, 32, 32),
    layers_per_block=(1, 1, 1, 1, 1),
)
allegro = partial(
    network,
    diffusers.AllegroTransformer3DModel,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    num_layers=2,
    cross_attention_dim=24,
    sample_width=8,
    sample_height=8,
    sample_frames=8,
    caption_channels=TEXT,
)
allegro_vae = partial(
    network,
    diffusers.AutoencoderKLAllegro,
    block_out_channels=(8, 8, 8, 8),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=2,
)
latte = partial(
    network,
    diffusers.LatteTransformer3DModel,
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    out_channels=8,
    num_layers=2,
    cross_attention_dim=16,
    attention_bias=True,
    sample_size=8,
    patch_size=2,
    activation_fn="gelu-approximate",
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    caption_channels=TEXT,
    video_length=3,
)
easy = partial(
    network,
    diffusers.EasyAnimateTransformer3DModel,
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    patch_size=2,
    num_layers=2,
    mmdit_layers=1,
    time_embed_dim=8,
    text_embed_dim=TEXT,
)
easy_vae = partial(
    network,
    diffusers.AutoencoderKLMagvit,
    latent_channels=4,
    block_out_channels=(8, 8, 8),
    down_block_types=("SpatialDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D"),
    up_block_types=("SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D"),
    layers_per_block=1,
    norm_num_groups=2,
    spatial_group_norm=False,
)
flow = diffusers.FlowMatchEulerDiscreteScheduler


def clip(n: int) -> torch.Tensor:
    """Videos of five frames of 16x16 pixels."""
    return torch.sigmoid(randn(n, 3, 5, 16, 16, seed=4))


def inpainted(n: int) -> dict[str, Any]:
    """As :func:`embeds`, with a video whose right half is to be made."""
    mask = torch.zeros(n, 1, 5, 16, 16)
    mask[..., 8:] = 255
    return embeds(n, video=clip(n), mask_video=mask, height=16, width=16, num_frames=5)


ddim = partial(diffusers.DDIMScheduler, clip_sample=False, beta_schedule="scaled_linear", beta_end=0.012)
words = {"text_encoder": text_encoder, "tokenizer": tokenizer}

add(
    "MochiPipeline",
    "Mochi",
    partial(
        build, diffusers.MochiPipeline, vae=mochi_vae, transformer=mochi, scheduler=partial(flow, invert_sigmas=True)
    ),
    partial(embeds, height=32, width=32, num_frames=7),
)
make = partial(build, diffusers.AllegroPipeline, vae=allegro_vae, transformer=allegro)
ancestral = partial(diffusers.EulerAncestralDiscreteScheduler, beta_schedule="scaled_linear", beta_end=0.012)
add(
    "AllegroPipeline",
    "Allegro",
    partial(make, scheduler=ancestral),
    partial(embeds, height=32, width=32, num_frames=8, negative_prompt=None, output_type="latent"),
)
add(
    "AllegroPipeline text",
    "Allegro",
    partial(make, scheduler=ddim, **words),
    partial(texts, height=32, width=32, num_frames=8, max_sequence_length=8, clean_caption=False, output_type="latent"),
)
add(
    "LattePipeline",
    "Latte",
    partial(
        build,
        diffusers.LattePipeline,
        vae=image_vae,
        transformer=latte,
        scheduler=ddim,
    ),
    partial(embeds, masks=False, height=16, width=16, video_length=3, clean_caption=False, negative_prompt=None),
)
add(
    "EasyAnimatePipeline",
    "EasyAnimate",
    partial(build, diffusers.EasyAnimatePipeline, vae=easy_vae, transformer=easy, scheduler=flow),
    partial(embeds, height=16, width=16, num_frames=5, guidance_rescale=0.3),
)
add(
    "EasyAnimateInpaintPipeline",
    "EasyAnimate",
    partial(
        build,
        diffusers.EasyAnimateInpaintPipeline,
        vae=easy_vae,
        transformer=partial(easy, in_channels=12, resize_inpaint_mask_directly=False),
        scheduler=flow,
    ),
    inpainted,
)
