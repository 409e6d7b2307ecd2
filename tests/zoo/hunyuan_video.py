"""HunyuanVideo, its image to video and SkyReels variants, FramePack, and HunyuanVideo 1.5."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from transformers import (
    LlamaConfig,
    LlamaModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from . import add
from ._parts import alive, assemble, clip_text, clip_tokenizer, picture, randn, seeded, tokenizer

TEXT = 16
SIZE = {"height": 16, "width": 16, "num_frames": 5}


def vae() -> Any:
    """A VAE that makes two frames of 4x4 latents of 16x16 pixels and five frames."""
    return alive(
        seeded(
            diffusers.AutoencoderKLHunyuanVideo,
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 3,
            up_block_types=("HunyuanVideoUpBlock3D",) * 3,
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
            mid_block_add_attention=True,
        )
    )


def network(make: Any = diffusers.HunyuanVideoTransformer3DModel, **more: Any) -> Any:
    """A transformer with one layer of either kind."""
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 2,
        "text_embed_dim": TEXT,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 4),
    }
    return alive(seeded(make, **config | more))


def build(make: Any, **parts: Any) -> Any:
    """A pipeline; parts are made anew."""
    filled = {"vae": vae, "transformer": network, "scheduler": flow} | parts
    return assemble(make, **{name: part() for name, part in filled.items()})


flow = partial(diffusers.FlowMatchEulerDiscreteScheduler, shift=7.0)


def embeds(n: int, **more: Any) -> dict[str, Any]:
    """Prompt embeddings with masks, and six steps."""
    mask = torch.ones(n, 6, dtype=torch.long)
    mask[-1, 4:] = 0
    return {
        "prompt_embeds": randn(n, 6, TEXT, seed=1),
        "pooled_prompt_embeds": randn(n, 8, seed=2),
        "prompt_attention_mask": mask,
        "num_inference_steps": 6,
        "output_type": "np",
        **SIZE,
        **more,
    }


def guided(n: int, **more: Any) -> dict[str, Any]:
    """As :func:`embeds`, with true guidance."""
    return embeds(
        n,
        negative_prompt_embeds=randn(n, 6, TEXT, seed=3),
        negative_pooled_prompt_embeds=randn(n, 8, seed=4),
        negative_prompt_attention_mask=torch.ones(n, 6, dtype=torch.long),
        true_cfg_scale=3.0,
        **more,
    )


def with_image(n: int, frames: int = 5) -> dict[str, Any]:
    """As :func:`guided`, with a first frame for every prompt."""
    return guided(n, image=torch.sigmoid(randn(n, 3, 16, 16))) | {"num_frames": frames}


def texts(n: int) -> dict[str, Any]:
    """Prompts as text."""
    template = {"template": "in the night {}", "crop_start": 2}
    more = {"prompt_template": template, "max_sequence_length": 6, "num_inference_steps": 6, "output_type": "np"}
    return {"prompt": ["a red cat", "two blue boats"][:n], **more, **SIZE}


def llama() -> Any:
    """A Llama with four layers, of which the pipeline skips the last two."""
    sizes = {"hidden_size": TEXT, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    return seeded(LlamaModel, config=LlamaConfig(vocab_size=64, **sizes))


def framed(n: int, **more: Any) -> dict[str, Any]:
    """FramePack: the network sees frames made before."""
    more |= {
        "image": torch.sigmoid(randn(n, 3, 32, 32)),
        "height": 32,
        "width": 32,
        "num_frames": 13,
        "latent_window_size": 3,
    }
    return embeds(n, **more)


def siglip(width: int = 8) -> Any:
    """A vision encoder with four tokens."""
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    return alive(seeded(SiglipVisionModel, config=SiglipVisionConfig(num_hidden_layers=1, **sizes)))


small = partial(SiglipImageProcessorPil, size={"height": 8, "width": 8})
vision = {"image_encoder": siglip, "feature_extractor": small}


def newer_vae() -> Any:
    """The VAE of HunyuanVideo 1.5, with the sizes of :func:`vae`."""
    sizes = {"block_out_channels": (8, 8, 8), "layers_per_block": 1, "latent_channels": 4}
    ratios = {"spatial_compression_ratio": 4, "temporal_compression_ratio": 4}
    made = alive(seeded(diffusers.AutoencoderKLHunyuanVideo15, **sizes, **ratios))
    made.enable_slicing()  # its attention mask does not fit more than one video
    return made


def newer_network(**more: Any) -> Any:
    """The transformer of HunyuanVideo 1.5 with two layers."""
    config: dict[str, Any] = {
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": TEXT,
        "text_embed_2_dim": 8,
        "image_embed_dim": 8,
        "rope_axes_dim": (2, 4, 4),
        "target_size": 16,
    }
    return alive(seeded(diffusers.HunyuanVideo15Transformer3DModel, **config | more))


def newer_embeds(n: int, **more: Any) -> dict[str, Any]:
    """Embeddings of two encoders, with and without prompt."""
    call: dict[str, Any] = {"num_inference_steps": 6, "output_type": "np", **SIZE, **more}
    for seed, word in enumerate(("", "negative_")):
        for width, name in ((TEXT, ""), (8, "_2")):
            call[f"{word}prompt_embeds{name}"] = randn(n, 6, width, seed=seed)
            call[f"{word}prompt_embeds_mask{name}"] = torch.ones(n, 6, dtype=torch.long)
            call[f"{word}prompt_embeds_mask{name}"][-1, 4 + seed :] = 0
    return call


def newer_image(n: int) -> dict[str, Any]:
    """As :func:`newer_embeds`, with a first frame that sets the size."""
    call = newer_embeds(n, image=picture(16))
    del call["height"], call["width"]
    return call


guider = partial(diffusers.ClassifierFreeGuidance, guidance_scale=4.0)
newer = partial(build, vae=newer_vae, transformer=newer_network, guider=guider)

words = {"text_encoder": llama, "tokenizer": tokenizer, "tokenizer_2": partial(clip_tokenizer, 77)}
words["text_encoder_2"] = partial(clip_text, width=8, max_position_embeddings=77)

add("HunyuanVideoPipeline", "HunyuanVideo", partial(build, diffusers.HunyuanVideoPipeline), guided)
add("HunyuanVideoPipeline text", "HunyuanVideo", partial(build, diffusers.HunyuanVideoPipeline, **words), texts)
add(
    "HunyuanVideoImageToVideoPipeline",
    "HunyuanVideo",
    partial(
        build,
        diffusers.HunyuanVideoImageToVideoPipeline,
        transformer=partial(network, in_channels=9, image_condition_type="latent_concat", guidance_embeds=False),
    ),
    partial(with_image, frames=9),
)
add(
    "HunyuanVideoImageToVideoPipeline replace",
    "HunyuanVideo",
    partial(
        build,
        diffusers.HunyuanVideoImageToVideoPipeline,
        transformer=partial(network, image_condition_type="token_replace"),
    ),
    with_image,
)
add(
    "HunyuanSkyreelsImageToVideoPipeline",
    "HunyuanVideo",
    partial(build, diffusers.HunyuanSkyreelsImageToVideoPipeline, transformer=partial(network, in_channels=8)),
    with_image,
)
add(
    "HunyuanVideoFramepackPipeline",
    "HunyuanVideo",
    partial(
        build,
        diffusers.HunyuanVideoFramepackPipeline,
        transformer=partial(
            network,
            diffusers.HunyuanVideoFramepackTransformer3DModel,
            has_image_proj=True,
            image_proj_dim=8,
            has_clean_x_embedder=True,
        ),
        **vision,
    ),
    framed,
)
add("HunyuanVideo15Pipeline", "HunyuanVideo 1.5", partial(newer, diffusers.HunyuanVideo15Pipeline), newer_embeds)
add(
    "HunyuanVideo15ImageToVideoPipeline",
    "HunyuanVideo 1.5",
    partial(newer, diffusers.HunyuanVideo15ImageToVideoPipeline, **vision),
    newer_image,
)
