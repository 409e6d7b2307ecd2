"""LTX Video and LTX 2, which makes sound with the picture."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import T5Config, T5EncoderModel

from . import add
from ._parts import alive, assemble, picture, randn, seeded, tokenizer

TEXT = 16
SIZE = {"height": 32, "width": 32, "num_frames": 9, "frame_rate": 25}


def vae(**more: Any) -> Any:
    """An LTX VAE that makes two frames of 4x4 latents of 32x32 pixels and nine frames."""
    config: dict[str, Any] = {
        "latent_channels": 8,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "spatio_temporal_scaling": (True, True, True, False),
        "decoder_spatio_temporal_scaling": (True, True, True, False),
        "patch_size": 1,
        "encoder_causal": True,
    }
    return alive(seeded(diffusers.AutoencoderKLLTXVideo, **config | more))


def network() -> Any:
    """An LTX transformer with two layers."""
    return alive(
        seeded(
            diffusers.LTXVideoTransformer3DModel,
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=2,
            caption_channels=TEXT,
        )
    )


def text_encoder() -> Any:
    """A T5 encoder with one layer."""
    return seeded(
        T5EncoderModel, config=T5Config(vocab_size=64, d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def build(make: Any, **parts: Any) -> Any:
    """An LTX pipeline; parts are made anew."""
    filled = {"vae": vae, "transformer": network, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler} | parts
    return assemble(make, **{name: part() for name, part in filled.items()})


def embeds(n: int, text: int = TEXT, **more: Any) -> dict[str, Any]:
    """Prompt embeddings with masks, guidance, and six steps."""
    mask = torch.ones(n, 6, dtype=torch.long)
    mask[-1, 4:] = 0
    return {
        "prompt_embeds": randn(n, 6, text, seed=1),
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": randn(n, 6, text, seed=2),
        "negative_prompt_attention_mask": torch.ones(n, 6, dtype=torch.long),
        "guidance_scale": 3.0,
        "num_inference_steps": 6,
        "output_type": "np",
        **SIZE,
        **more,
    }


def texts(n: int) -> dict[str, Any]:
    """Prompts as text, with rescaled guidance."""
    more = {"negative_prompt": ["bad", "ugly"][:n], "max_sequence_length": 8, "guidance_rescale": 0.5}
    rest = {"guidance_scale": 3.0, "num_inference_steps": 6, "output_type": "np"}
    return {"prompt": ["a red cat", "two blue boats"][:n], **more, **rest, **SIZE}


def with_image(n: int, **more: Any) -> dict[str, Any]:
    """As :func:`embeds`, with a first frame for every prompt."""
    return embeds(n, image=torch.stack([torch.sigmoid(randn(3, 32, 32, seed=i)) for i in range(n)]), **more)


def conditioned(n: int) -> dict[str, Any]:
    """As :func:`embeds`, with an image as the first frame and fresh noise on it at every step."""
    return embeds(n, image=torch.sigmoid(randn(1, 3, 32, 32)), strength=0.8)


def framed(n: int) -> dict[str, Any]:
    """As :func:`embeds` for LTX 2, with an image as the first frame."""
    condition = LTX2VideoCondition(frames=picture(32), index=0, strength=0.8, crf=0)
    return embeds(n, text=2 * TEXT, conditions=[condition], **plain_two)


def two_network() -> Any:
    """An LTX 2 transformer with two layers for picture and sound."""
    return alive(
        seeded(
            diffusers.LTX2VideoTransformer3DModel,
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=8,
            audio_out_channels=8,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            num_layers=2,
            caption_channels=TEXT,
            rope_double_precision=False,
        )
    )


def two_vae() -> Any:
    """An LTX 2 VAE with the same sizes as :func:`vae`."""
    return alive(
        seeded(
            diffusers.AutoencoderKLLTX2Video,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 16, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, True, True),
            decoder_spatio_temporal_scaling=(True, True, True),
            downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
            patch_size=1,
            decoder_spatial_padding_mode="zeros",
            spatial_compression_ratio=8,
            temporal_compression_ratio=8,
        )
    )


def sound() -> Any:
    """A VAE of spectrograms with 2 channels of 4 latent bins."""
    return alive(
        seeded(
            diffusers.AutoencoderKLLTX2Audio,
            base_channels=8,
            ch_mult=(1, 1, 1),
            num_res_blocks=1,
            resolution=16,
            latent_channels=2,
            mel_bins=16,
        )
    )


def connectors() -> Any:
    """What makes embeddings for picture and sound from those of the text encoder's layers."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": 2}
    both = {f"{kind}_connector_{name}": size for kind in ("video", "audio") for name, size in sizes.items()}
    more = {"connector_rope_base_seq_len": 32, "rope_double_precision": False}
    return alive(seeded(LTX2TextConnectors, caption_channels=TEXT, text_proj_in_factor=2, **both, **more))


def vocoder() -> Any:
    """A vocoder that makes four samples of every frame of a spectrogram."""
    sizes = {"upsample_kernel_sizes": [4, 4], "upsample_factors": [2, 2]}
    rest = {"resnet_kernel_sizes": [3], "resnet_dilations": [[1, 3]]}
    return seeded(LTX2Vocoder, in_channels=32, hidden_channels=8, out_channels=2, **sizes, **rest)


two = partial(build, vae=two_vae, transformer=two_network, audio_vae=sound, connectors=connectors, vocoder=vocoder)
plain_two = {"stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}
plain_two |= {"spatio_temporal_guidance_blocks": None}

add("LTXPipeline", "LTX Video", partial(build, diffusers.LTXPipeline), embeds)
add(
    "LTXPipeline text",
    "LTX Video",
    partial(build, diffusers.LTXPipeline, text_encoder=text_encoder, tokenizer=tokenizer),
    texts,
)
add("LTXImageToVideoPipeline", "LTX Video", partial(build, diffusers.LTXImageToVideoPipeline), with_image)
add("LTXConditionPipeline", "LTX Video", partial(build, diffusers.LTXConditionPipeline), conditioned)
add("LTX2Pipeline", "LTX 2", partial(two, diffusers.LTX2Pipeline), partial(embeds, text=2 * TEXT, **plain_two))
add(
    "LTX2Pipeline stg",
    "LTX 2",
    partial(two, diffusers.LTX2Pipeline),
    partial(embeds, text=2 * TEXT, spatio_temporal_guidance_blocks=[1]),
)
add(
    "LTX2ImageToVideoPipeline",
    "LTX 2",
    partial(two, diffusers.LTX2ImageToVideoPipeline),
    partial(with_image, text=2 * TEXT, image_crf=0, **plain_two),
)
add("LTX2ConditionPipeline", "LTX 2", partial(two, diffusers.LTX2ConditionPipeline), framed)
