"""Wan 2.1 and 2.2 and the pipelines built on its network: VACE, Lucy, ChronoEdit, SkyReels V2."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from . import add
from ._parts import alive, picture, quiet, randn, seeded, tokenizer

TEXT = 16
SIZE = {"height": 16, "width": 16, "num_frames": 5}
UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def vae(**more: Any) -> Any:
    """A Wan VAE that makes 4x4 latents with 4 channels and two frames of 16x16 pixels and five frames."""
    config: dict[str, Any] = {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "latents_mean": [-0.2, 0.1, 0.3, -0.1],
        "latents_std": [1.1, 0.9, 1.3, 0.8],
        "scale_factor_temporal": 4,
        "scale_factor_spatial": 4,
    }
    made = alive(seeded(diffusers.AutoencoderKLWan, **config | more))
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
                module.weight *= 1.5  # or else biases say more than latents
    return made


def network(make: Any = diffusers.WanTransformer3DModel, **more: Any) -> Any:
    """A Wan transformer with two layers and two heads."""
    config: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": TEXT,
        "freq_dim": 16,
        "ffn_dim": 24,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }
    return alive(seeded(make, **config | more))


def flow(**more: Any) -> Any:
    """An Euler scheduler for flow matching."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | more)


def text_encoder() -> Any:
    """A UMT5 encoder with one layer."""
    config = UMT5Config(vocab_size=64, d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return seeded(UMT5EncoderModel, config=config)


def eye() -> Any:
    """A CLIP vision encoder."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    return seeded(CLIPVisionModel, config=CLIPVisionConfig(num_hidden_layers=2, **sizes))


def build(make: Any, **parts: Any) -> Any:
    """A pipeline of these parts; those that every one has are filled in unless given."""
    filled = {"vae": vae, "tokenizer": None, "text_encoder": None, "scheduler": flow, "transformer": network} | parts
    return quiet(make(**{name: part() if callable(part) else part for name, part in filled.items()}))


def embeds(n: int, **more: Any) -> dict[str, Any]:
    """Prompt embeddings, guidance, and six steps."""
    return {
        "prompt_embeds": randn(n, 6, TEXT, seed=1),
        "negative_prompt_embeds": randn(n, 6, TEXT, seed=2),
        "guidance_scale": 4.0,
        "num_inference_steps": 6,
        "output_type": "np",
        **SIZE,
        **more,
    }


def texts(n: int) -> dict[str, Any]:
    """Prompts as text."""
    call = embeds(
        n, prompt=["a red cat", "two blue boats"][:n], negative_prompt=["bad", "ugly"][:n], max_sequence_length=8
    )
    del call["prompt_embeds"], call["negative_prompt_embeds"]
    return call


def with_image(n: int, **more: Any) -> dict[str, Any]:
    """As :func:`embeds`, with a first frame."""
    return embeds(n, image=picture(16), **more)


def with_video(n: int, **more: Any) -> dict[str, Any]:
    """As :func:`embeds`, with a video of five frames."""
    return embeds(n, video=[picture(16, seed=i) for i in range(5)], **more)


def transferred(n: int) -> dict[str, Any]:
    """Video to video: no number of frames, part of the way."""
    call = with_video(n, strength=0.7)
    del call["num_frames"]
    return call


def controlled(n: int) -> dict[str, Any]:
    """VACE: a video with a mask and a reference image."""
    masks = [picture(16, seed=i).convert("L") for i in range(5)]
    return with_video(n, mask=masks, reference_images=[picture(16, seed=9)])


def forced(n: int, **more: Any) -> dict[str, Any]:
    """Diffusion forcing: every block of frames has its own noise level."""
    return embeds(n, prompt=None, base_num_frames=13, ar_step=1, causal_block_size=2, **more) | {"num_frames": 13}


def longer(n: int, **more: Any) -> dict[str, Any]:
    """Diffusion forcing of a video longer than the window of frames."""
    return forced(n, overlap_history=5, **more) | {"num_frames": 21}


def pictured(n: int) -> dict[str, Any]:
    """Diffusion forcing from a first frame."""
    return forced(n, image=picture(16))


unipc = partial(diffusers.UniPCMultistepScheduler, **UNIPC)
second = partial(network, num_layers=1)
words = {"text_encoder": text_encoder, "tokenizer": tokenizer}
resize = partial(CLIPImageProcessorPil, size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
vision = {"image_encoder": eye, "image_processor": resize}
blind = {"image_encoder": None, "image_processor": None}
seeing = partial(network, in_channels=12, image_dim=8, added_kv_proj_dim=24)
vace = partial(network, diffusers.WanVACETransformer3DModel, vace_layers=[0, 1], vace_in_channels=24)
chrono = partial(seeing, diffusers.ChronoEditTransformer3DModel)
sky = partial(network, diffusers.SkyReelsV2Transformer3DModel)
seeing_sky = partial(seeing, diffusers.SkyReelsV2Transformer3DModel)


def entry(word: str, family: str, call: Any, prompts: tuple[int, ...] = (1, 2), **parts: Any) -> None:
    """Add a pipeline of these parts."""
    add(word, family, partial(build, getattr(diffusers, word.split()[0]), **parts), call, prompts=prompts)


two = {"transformer_2": second, "boundary_ratio": 0.9}
entry("WanPipeline", "Wan", embeds, scheduler=unipc)
entry("WanPipeline text", "Wan", texts, **words)
entry("WanPipeline two", "Wan", partial(embeds, guidance_scale_2=3.0), **two)
entry("WanPipeline expand", "Wan", embeds, scheduler=unipc, expand_timesteps=True)
entry("WanImageToVideoPipeline", "Wan", with_image, transformer=seeing, **vision)
concat = {"transformer": partial(network, in_channels=12), "transformer_2": partial(second, in_channels=12)}
entry("WanImageToVideoPipeline two", "Wan", with_image, scheduler=unipc, **two | concat, **blind)
entry("WanImageToVideoPipeline expand", "Wan", with_image, expand_timesteps=True, **blind)
entry("WanVideoToVideoPipeline", "Wan", transferred, scheduler=unipc)
entry("WanVACEPipeline", "Wan", controlled, (1,), transformer=vace)
entry("LucyEditPipeline", "Lucy", with_video, (1,), transformer=partial(network, in_channels=8))
entry("ChronoEditPipeline", "ChronoEdit", with_image, transformer=chrono, **vision)
reason = partial(with_image, enable_temporal_reasoning=True, num_temporal_reasoning_steps=3, num_frames=9)
entry("ChronoEditPipeline reasoning", "ChronoEdit", reason, scheduler=unipc, transformer=chrono, **vision)
entry("SkyReelsV2Pipeline", "SkyReels V2", embeds, scheduler=unipc, transformer=sky)
entry("SkyReelsV2ImageToVideoPipeline", "SkyReels V2", with_image, scheduler=unipc, transformer=seeing_sky, **vision)
name = "SkyReelsV2DiffusionForcingPipeline"
entry(name, "SkyReels V2", forced, scheduler=unipc, transformer=sky)
entry(f"{name} long", "SkyReels V2", longer, scheduler=unipc, transformer=sky)
extended = partial(longer, video=[picture(16, seed=i) for i in range(9)])
kinds = (("ImageToVideo", pictured), ("VideoToVideo", extended))
for kind, call in kinds:
    name = f"SkyReelsV2DiffusionForcing{kind}Pipeline"
    entry(name, "SkyReels V2", call, (1,), scheduler=unipc, transformer=sky)
anyflow = partial(network, diffusers.AnyFlowTransformer3DModel)
flow_map = partial(diffusers.FlowMapEulerDiscreteScheduler, shift=5.0)
entry("AnyFlowPipeline", "AnyFlow", embeds, scheduler=flow_map, transformer=anyflow)
