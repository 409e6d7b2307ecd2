"""CogVideoX."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from transformers import T5Config, T5EncoderModel

from . import add
from ._parts import alive, assemble, picture, randn, seeded, tokenizer

TEXT = 16
SIZE = {"height": 32, "width": 32, "num_frames": 5}


def vae() -> Any:
    """A VAE that makes two frames of 4x4 latents of 32x32 pixels and five frames."""
    return alive(
        seeded(
            diffusers.AutoencoderKLCogVideoX,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
            sample_height=32,
            sample_width=32,
        )
    )


def network(make: Any = diffusers.CogVideoXTransformer3DModel, **more: Any) -> Any:
    """A transformer with two layers and learned positions."""
    config: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": TEXT,
        "num_layers": 2,
        "sample_width": 4,
        "sample_height": 4,
        "sample_frames": 5,
        "max_text_seq_length": 8,
    }
    return alive(seeded(make, **config | more))


def text_encoder() -> Any:
    """A T5 encoder with one layer."""
    return seeded(
        T5EncoderModel, config=T5Config(vocab_size=64, d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def build(make: Any, **parts: Any) -> Any:
    """A pipeline; parts are made anew."""
    filled = {"vae": vae, "transformer": network, "scheduler": ddim} | parts
    return assemble(make, **{name: part() for name, part in filled.items()})


ddim = partial(diffusers.CogVideoXDDIMScheduler, prediction_type="v_prediction", rescale_betas_zero_snr=True)
dpm = partial(diffusers.CogVideoXDPMScheduler, prediction_type="v_prediction", rescale_betas_zero_snr=True)
trailing = {"timestep_spacing": "trailing"}


def embeds(n: int, **more: Any) -> dict[str, Any]:
    """Prompt embeddings, guidance, and six steps."""
    return {
        "prompt_embeds": randn(n, 8, TEXT, seed=1),
        "negative_prompt_embeds": randn(n, 8, TEXT, seed=2),
        "guidance_scale": 4.0,
        "num_inference_steps": 6,
        "output_type": "np",
        **SIZE,
        **more,
    }


def texts(n: int) -> dict[str, Any]:
    """Prompts as text, with guidance that changes with time."""
    more = {"use_dynamic_cfg": True, "max_sequence_length": 8, "guidance_scale": 4.0}
    rest = {"num_inference_steps": 6, "output_type": "np"}
    return {
        "prompt": ["a red cat", "two blue boats"][:n],
        "negative_prompt": ["bad", "ugly"][:n],
        **more,
        **rest,
        **SIZE,
    }


def with_image(n: int, **more: Any) -> dict[str, Any]:
    """As :func:`embeds`, with a first frame for every prompt."""
    return embeds(n, image=torch.sigmoid(randn(n, 3, 32, 32)), **more)


def with_video(n: int, name: str = "video", **more: Any) -> dict[str, Any]:
    """As :func:`embeds`, with a video instead of a number of frames."""
    call = embeds(n, **{name: [picture(32, seed=i) for i in range(5)]}, **more)
    del call["num_frames"]
    return call


rotary = partial(network, use_rotary_positional_embeddings=True)
to_video = diffusers.CogVideoXImageToVideoPipeline
words = {"text_encoder": text_encoder, "tokenizer": tokenizer}

add("CogVideoXPipeline", "CogVideoX", partial(build, diffusers.CogVideoXPipeline), embeds)
add(
    "CogVideoXPipeline text",
    "CogVideoX",
    partial(build, diffusers.CogVideoXPipeline, scheduler=partial(dpm, **trailing), transformer=rotary, **words),
    texts,
)
add(
    "CogVideoXImageToVideoPipeline",
    "CogVideoX",
    partial(build, to_video, scheduler=partial(ddim, **trailing), transformer=partial(rotary, in_channels=8)),
    with_image,
)
add(
    "CogVideoXVideoToVideoPipeline",
    "CogVideoX",
    partial(build, diffusers.CogVideoXVideoToVideoPipeline, scheduler=dpm),
    partial(with_video, strength=0.8),
)
add(
    "CogVideoXFunControlPipeline",
    "CogVideoX",
    partial(build, diffusers.CogVideoXFunControlPipeline, transformer=partial(rotary, in_channels=8)),
    partial(with_video, name="control_video"),
    prompts=(1,),
)
