"""Stable Audio 3, with plain and stochastic steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder

from . import add
from .audio import TEXT, build, embeds, network


def third(n: int) -> dict[str, Any]:
    """Stable Audio 3: embeddings with masks."""
    call = embeds(n, duration=4.0, output_type="latent")
    return {name.replace("attention_mask", "encoder_attention_mask"): value for name, value in call.items()}


same = partial(
    network,
    diffusers.AutoencoderSAME,
    patch_size=2,
    encoder_channels=8,
    encoder_c_mults=[1],
    encoder_strides=[2],
    encoder_transformer_depths=[1],
    latent_dim=4,
    dim_heads=8,
    ff_mult=1,
    sampling_rate=8,
)
stable_3 = partial(
    network,
    diffusers.StableAudio3DiTModel,
    io_channels=4,
    embed_dim=16,
    depth=2,
    num_heads=2,
    cond_token_dim=TEXT,
    global_cond_dim=TEXT,
    local_add_cond_dim=5,
    timestep_features_dim=8,
    ff_mult=1.0,
    num_memory_tokens=2,
)
duration = partial(network, StableAudio3DurationEmbedder, output_dim=TEXT, fourier_dim=8, max_val=8.0)
for word, stochastic in (("", False), (" stochastic", True)):
    flow = partial(diffusers.FlowMatchEulerDiscreteScheduler, stochastic_sampling=stochastic)
    parts = {"vae": same, "transformer": stable_3, "duration_embedder": duration, "scheduler": flow}
    name = "StableAudio3Pipeline"
    add(f"{name}{word}", "Stable Audio 3", partial(build, diffusers.StableAudio3Pipeline, **parts), third)
