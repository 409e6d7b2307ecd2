"""Transformers for images whose pipelines take prompts in words alone, read by tiny language models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from . import add
from ._latents import WORDS, call, flow, net, pipeline, shifted, vae
from ._parts import alive, tokenizer
from .more_transformers import flux2_vae
from .qwen_image import vae as video_vae

STREAMS: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
ROPE: dict[str, Any] = {"axes_dims_rope": (4, 4, 8)}
SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "head_dim": 8}
SIZES |= {
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}


def speaker() -> Any:
    """A causal language model."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return alive(Qwen3ForCausalLM(Qwen3Config(**SIZES, num_hidden_layers=2)).eval())


def seer(layers: int = 36) -> Any:
    """A model of language and vision."""
    from transformers import Qwen3VLConfig, Qwen3VLModel

    torch.manual_seed(0)
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = SIZES | {"num_hidden_layers": layers, "rope_parameters": rope}
    return alive(Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)).eval())


def chat() -> Any:
    """A tokenizer that knows what to do with a conversation."""
    made = tokenizer(64)
    part = "{% for part in message.content %}{{ part.text }}{% endfor %}"
    made.chat_template = "<s> {% for message in messages %}" + part + " {% endfor %}</s>"
    return made


def text(n: int) -> dict[str, Any]:
    return {"prompt": WORDS[n]}


def both(n: int) -> dict[str, Any]:
    return {"prompt": WORDS[n], "negative_prompt": "bad" if n == 1 else ["bad", "ugly"]}


fibo = partial(
    net, "BriaFiboTransformer2DModel", **STREAMS | ROPE, in_channels=4, joint_attention_dim=32, text_encoder_dim=16
)
parts: dict[str, Any] = {"text_encoder": speaker, "tokenizer": tokenizer, "scheduler": shifted}
sized: dict[str, Any] = {"height": 128, "width": 128, "guidance_scale": 3.0}
kind = "BriaFiboPipeline"
add(kind, "Bria", pipeline(kind, transformer=fibo, vae=video_vae, **parts), call(both, **sized))

longcat = partial(
    net,
    "LongCatImageTransformer2DModel",
    **STREAMS | ROPE,
    in_channels=64,
    joint_attention_dim=16,
    pooled_projection_dim=16,
)
longcat_parts = parts | {"transformer": longcat, "vae": partial(vae, 16)}


def longcat_pipeline() -> Any:
    pipe = pipeline("LongCatImagePipeline", **longcat_parts)()
    pipe.tokenizer_max_length = 8
    return pipe


sized = {"height": 16, "width": 16, "guidance_scale": 3.0, "enable_prompt_rewrite": False}
add("LongCatImagePipeline", "LongCat-Image", longcat_pipeline, call(both, **sized))

ideogram = partial(
    net,
    "Ideogram4Transformer2DModel",
    in_channels=16,
    num_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    intermediate_size=32,
    adaln_dim=16,
    llm_features_dim=13 * 16,
    mrope_section=(4, 2, 2),
)
parts = {"text_encoder": seer, "tokenizer": chat, "scheduler": flow, "vae": flux2_vae}
parts |= {"transformer": ideogram, "unconditional_transformer": ideogram}
sized = {"height": 16, "width": 16, "guidance_scale": 3.0, "guidance_schedule": None, "max_sequence_length": 12}
add("Ideogram4Pipeline", "Ideogram 4", pipeline("Ideogram4Pipeline", **parts), call(text, **sized))
