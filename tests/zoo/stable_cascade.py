"""Stable Cascade: a prior that finds small feature maps, a decoder that draws them."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet

from . import add
from ._parts import alive, assemble, clip_tokenizer, randn, seeded
from ._unets import clip_projected, lively


def network(**config: Any) -> Any:
    """One of the two networks."""
    sizes = {"in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 8, "conditioning_dim": 16}
    sizes |= {"block_out_channels": (16, 16), "num_attention_heads": (2, 2), "clip_text_pooled_in_channels": 16}
    sizes |= {"down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1), "clip_seq": 2}
    return lively(alive(seeded(StableCascadeUNet, **(sizes | config)), scale=0.2))


def prior() -> Any:
    """The first network."""
    return network(clip_text_in_channels=16, clip_image_in_channels=16, switch_level=(False,))


def decoder() -> Any:
    """The second network."""
    return network(effnet_in_channels=4, patch_size=2, timestep_conditioning_type=("sca",))


def quantizer() -> Any:
    """The autoencoder."""
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

    # The noise schedule starts so high that an untrained network's features come out a hundred times too large.
    sizes = {"bottleneck_blocks": 1, "embed_dim": 16, "num_vq_embeddings": 16, "scale_factor": 0.004}
    made = alive(seeded(PaellaVQModel, **sizes), scale=0.2)
    with torch.no_grad():
        made.out_block[0].bias += 0.5  # grey, where the pipeline cuts off below black
    return made


def text() -> dict[str, Any]:
    """The text encoder and its tokenizer."""
    return {"text_encoder": clip_projected(), "tokenizer": clip_tokenizer()}


def embeds(n: int, **more: Any) -> dict[str, Any]:
    """Prompt embeddings."""
    made = {"prompt_embeds": randn(n, 7, 16, seed=11), "prompt_embeds_pooled": randn(n, 1, 16, seed=13)}
    made |= {f"negative_{name}": randn(*each.shape, seed=17) for name, each in made.items()}
    return made | {"num_inference_steps": 6, "guidance_scale": 4.0, "output_type": "np"} | more


def build_prior() -> Any:
    """The pipeline of the prior; it has text encoders only for their data type."""
    parts = {"prior": prior(), "scheduler": DDPMWuerstchenScheduler(), "resolution_multiple": 4.0}
    return assemble(diffusers.StableCascadePriorPipeline, **parts, **text())


def build_decoder() -> Any:
    """The pipeline of the decoder."""
    parts = {
        "decoder": decoder(),
        "scheduler": DDPMWuerstchenScheduler(),
        "vqgan": quantizer(),
        "latent_dim_scale": 2.0,
    }
    return assemble(diffusers.StableCascadeDecoderPipeline, **parts, **text())


def build_both() -> Any:
    """The two in one pipeline."""
    parts = {"decoder": decoder(), "scheduler": DDPMWuerstchenScheduler(), "vqgan": quantizer(), "prior_prior": prior()}
    parts |= {f"prior_{name}": part for name, part in text().items()} | text()
    return assemble(diffusers.StableCascadeCombinedPipeline, prior_scheduler=DDPMWuerstchenScheduler(), **parts)


def call_prior(n: int) -> dict[str, Any]:
    """Prompt embeddings for 8 by 8 features."""
    return embeds(n, height=32, width=32)


def call_decoder(n: int) -> dict[str, Any]:
    """Features to draw, with prompts in words."""
    words = {"prompt": ["a cat", "the dog"][:n], "num_inference_steps": 6, "output_type": "np"}
    return words | {"image_embeddings": randn(n, 4, 4, 4, seed=21), "guidance_scale": 4.0}


def call_both(n: int) -> dict[str, Any]:
    """Both stages from prompts in words."""
    steps = {"num_inference_steps": 6, "prior_num_inference_steps": 6, "decoder_guidance_scale": 1.1}
    return {"prompt": ["a cat", "the dog"][:n], "height": 128, "width": 128, "output_type": "np"} | steps


add("StableCascadePriorPipeline", "Stable Cascade", build_prior, call_prior)
add("StableCascadeDecoderPipeline", "Stable Cascade", build_decoder, call_decoder)
add("StableCascadeCombinedPipeline", "Stable Cascade", build_both, call_both)
