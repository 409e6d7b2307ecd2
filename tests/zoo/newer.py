"""Transformers for images whose autoencoders are those of videos: Qwen-Image 2.1, HunyuanImage's refiner."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import add
from ._latents import call, embeddings, flow, images, net, pipeline, shifted, together
from ._parts import tokenizer

prompt = embeddings(32, mask="embeds_mask")


class Reader:
    """Stands in for a processor, of which the pipeline asks how long its own instructions are when it is made."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()

    def apply_chat_template(self, conversation: Any, **how: Any) -> list[list[int]]:
        return [[1, 2, 3]]


SIZES: dict[str, Any] = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "context_in_dim": 32}
qwen = partial(net, "QwenImage21Transformer2DModel", **SIZES, in_channels=4, out_channels=4, axes_dims_rope=(4, 4, 8))
SHAPE: dict[str, Any] = {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1}
SHAPE |= {"temperal_downsample": [False], "latents_mean": [0.1] * 4, "latents_std": [1.1] * 4}
vae = partial(net, "AutoencoderKLQwenImage21", **SHAPE)
parts: dict[str, Any] = {"transformer": qwen, "vae": vae, "scheduler": shifted, "processor": Reader}
kind = "QwenImage21Pipeline"
arguments = call(prompt, height=128, width=128, true_cfg_scale=3.0, use_kv_cache=False)
add(kind, "Qwen-Image", pipeline(kind, **parts), arguments)
arguments = call(prompt, height=128, width=128, true_cfg_scale=3.0)
add(f"{kind} key-value cache", "Qwen-Image", pipeline(kind, **parts), arguments)

SIZES = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
SIZES |= {"num_refiner_layers": 1, "text_embed_dim": 32, "patch_size": (1, 1, 1), "rope_axes_dim": (4, 4, 8)}
refiner = partial(net, "HunyuanImageTransformer2DModel", **SIZES, in_channels=16, out_channels=8, guidance_embeds=True)
SHAPE = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 32)}
SHAPE |= {"layers_per_block": 1, "spatial_compression_ratio": 2, "temporal_compression_ratio": 1}
parts = {"transformer": refiner, "scheduler": flow}
parts["vae"] = partial(net, "AutoencoderKLHunyuanImageRefiner", **SHAPE, scaling_factor=0.6)
kind = "HunyuanImageRefinerPipeline"
arguments = call(together(prompt, lambda n: {"image": images(n)}), height=16, width=16)
add(kind, "HunyuanImage", pipeline(kind, **parts), arguments)
