"""Stable Diffusion: larger pictures, depth, variations, image embeddings, few steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch

from ._parts import clip_text, clip_tokenizer, randn, seeded
from ._unets import clip_projected, clip_vision, picture, prior, schedule, simple, text, unclip, vae, words

shelve = partial(simple, "Stable Diffusion")
ddpm = partial(schedule, diffusers.DDPMScheduler)
towers = {"text_encoder": clip_text, "tokenizer": clip_tokenizer}


def small(n: int) -> torch.Tensor:
    """Pictures of 8 by 8 pixels."""
    return picture(n, size=8)


def varied(n: int) -> dict[str, Any]:
    """Pictures in place of prompts."""
    return {"image": small(n), "num_inference_steps": 6, "output_type": "np"}


def normalizer() -> Any:
    """The mean and the spread of image embeddings."""
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    return seeded(StableUnCLIPImageNormalizer, embedding_dim=16)


shelve(
    "StableDiffusionDepth2ImgPipeline",
    partial(text, image=picture, depth_map=lambda n: picture(n, 1)[:, 0]),
    network={"in_channels": 5},
)
shelve(
    "StableDiffusionUpscalePipeline",
    partial(text, image=small),
    network={"in_channels": 7, "num_class_embeds": 1000},
    low_res_scheduler=ddpm,
    max_noise_level=lambda: 350,
    vae=partial(vae, scaling_factor=0.08333),
)
shelve(
    "StableDiffusionLatentUpscalePipeline",
    partial(text, pooled=16, image=lambda n: randn(n, 4, 8, 8)),
    scheduler=partial(schedule, diffusers.EulerDiscreteScheduler),
    network={"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 128 + 16},
)
shelve("StableDiffusionImageVariationPipeline", varied, image_encoder=clip_vision)

labels = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 32}
noised = {"image_normalizer": normalizer, "image_noising_scheduler": ddpm, "network": labels}
pictured = partial(text, image_embeds=lambda n: randn(n, 16))
shelve("StableUnCLIPImg2ImgPipeline", pictured, image_encoder=clip_vision, **noised)
shelve(
    "StableUnCLIPPipeline",
    partial(words, prior_num_inference_steps=6),
    prior_tokenizer=clip_tokenizer,
    prior_text_encoder=clip_projected,
    prior=prior,
    prior_scheduler=unclip,
    **noised,
    **towers,
)

quick = {"scheduler": partial(schedule, diffusers.LCMScheduler), "network": {"time_cond_proj_dim": 8}}
simple("Latent Consistency", "LatentConsistencyModelPipeline", partial(text, negative=False), **quick)
simple(
    "Latent Consistency",
    "LatentConsistencyModelImg2ImgPipeline",
    partial(text, negative=False, image=picture),
    **quick,
)
