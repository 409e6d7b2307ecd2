"""Sound: Stable Audio, AudioLDM 2, MusicLDM, ACE-Step, LongCat AudioDiT."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    Qwen3Config,
    Qwen3Model,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
)

from . import add
from ._parts import alive, assemble, randn, seeded, tokenizer
from ._unets import lively, schedule
from .wan import text_encoder as umt5

TEXT = 16


def network(make: Any, **config: Any) -> Any:
    """A network whose weights are all in use."""
    return alive(seeded(make, **config))


def build(make: Any, **parts: Any) -> Any:
    """A pipeline; parts are made anew."""
    return assemble(make, **{name: part() for name, part in parts.items()})


def embeds(n: int, **more: Any) -> dict[str, Any]:
    """Prompt embeddings, their masks, guidance, and six steps."""
    call: dict[str, Any] = {"prompt_embeds": randn(n, 6, TEXT), "negative_prompt_embeds": randn(n, 6, TEXT, seed=2)}
    call |= {f"{word}attention_mask": torch.ones(n, 6, dtype=torch.long) for word in ("", "negative_")}
    call["attention_mask"][-1, 4:] = 0
    return call | {"guidance_scale": 3.0, "num_inference_steps": 6, "output_type": "np"} | more


def texts(n: int, **more: Any) -> dict[str, Any]:
    """Prompts as text."""
    call = {"prompt": ["a red cat", "two blue boats"][:n], "guidance_scale": 3.0}
    return call | {"num_inference_steps": 6, "output_type": "np"} | more


def t5() -> Any:
    """A T5 encoder with one layer."""
    return seeded(
        T5EncoderModel, config=T5Config(vocab_size=64, d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


oobleck = partial(
    network,
    diffusers.AutoencoderOobleck,
    encoder_hidden_size=4,
    downsampling_ratios=[2, 2],
    channel_multiples=[1, 1],
    decoder_channels=4,
    decoder_input_channels=4,
    sampling_rate=8,
)
stable = partial(
    network,
    diffusers.StableAudioDiTModel,
    sample_size=8,
    in_channels=4,
    num_layers=2,
    attention_head_dim=8,
    num_attention_heads=2,
    num_key_value_attention_heads=1,
    out_channels=4,
    cross_attention_dim=8,
    time_proj_dim=8,
    global_states_input_dim=2 * TEXT,
    cross_attention_input_dim=TEXT,
)
projection = partial(
    network, StableAudioProjectionModel, text_encoder_dim=TEXT, conditioning_dim=TEXT, min_value=0, max_value=8
)
edm = partial(
    diffusers.EDMDPMSolverMultistepScheduler,
    solver_order=2,
    prediction_type="v_prediction",
    sigma_data=1.0,
    sigma_schedule="exponential",
)
make = partial(
    build,
    diffusers.StableAudioPipeline,
    vae=oobleck,
    transformer=stable,
    scheduler=edm,
    projection_model=projection,
)
add("StableAudioPipeline", "Stable Audio", make, partial(embeds, audio_end_in_s=4.0))
add(
    "StableAudioPipeline text",
    "Stable Audio",
    partial(make, text_encoder=t5, tokenizer=tokenizer),
    partial(texts, audio_end_in_s=3.0),
)


def mel_vae() -> Any:
    """An autoencoder of spectrograms: 8 bins to 4."""
    config: dict[str, Any] = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4}
    config |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return network(diffusers.AutoencoderKL, in_channels=1, out_channels=1, **config)


def vocoder() -> Any:
    """A vocoder that makes four samples of every frame of eight bins."""
    sizes = {"upsample_initial_channel": 8, "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4]}
    rest = {
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3]],
        "normalize_before": False,
        "initializer_range": 0.3,
    }
    return seeded(SpeechT5HifiGan, config=SpeechT5HifiGanConfig(model_in_dim=8, sampling_rate=16, **sizes, **rest))


def unet(make: Any = diffusers.AudioLDM2UNet2DConditionModel, **more: Any) -> Any:
    """A UNet for latents of 4 bins."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": (8, TEXT),
        "attention_head_dim": 2,
        "sample_size": 8,
    }
    return lively(network(make, **config | more))


def clap() -> Any:
    """A CLAP text encoder, of which only the type of its numbers is asked for."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return seeded(ClapTextModelWithProjection, config=ClapTextConfig(vocab_size=64, projection_dim=TEXT, **sizes))


def generated(n: int) -> dict[str, Any]:
    """AudioLDM 2: embeddings of the T5 encoder and of the language model."""
    both = {f"{word}generated_prompt_embeds": randn(n, 3, TEXT, seed=5 + len(word)) for word in ("", "negative_")}
    return embeds(n, audio_length_in_s=4.0, **both)


def pooled(n: int) -> dict[str, Any]:
    """AudioLDM and MusicLDM: one vector for every prompt."""
    call = {"prompt_embeds": randn(n, TEXT), "negative_prompt_embeds": randn(n, TEXT, seed=2), "guidance_scale": 2.0}
    return call | {"num_inference_steps": 6, "output_type": "np", "audio_length_in_s": 4.0}


ddim = partial(schedule, diffusers.DDIMScheduler, clip_sample=False)
classes = partial(
    unet,
    diffusers.UNet2DConditionModel,
    cross_attention_dim=(None, None),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    class_embed_type="simple_projection",
    projection_class_embeddings_input_dim=TEXT,
    class_embeddings_concat=True,
)
for make in (diffusers.AudioLDMPipeline, diffusers.MusicLDMPipeline):
    parts = {"vae": mel_vae, "unet": classes, "scheduler": ddim, "vocoder": vocoder, "text_encoder": clap}
    add(make.__name__, "AudioLDM", partial(build, make, **parts), pooled)

ace = partial(
    network,
    diffusers.AceStepTransformer1DModel,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    in_channels=12,
    audio_acoustic_hidden_dim=4,
)
condition = partial(
    network,
    AceStepConditionEncoder,
    hidden_size=16,
    intermediate_size=24,
    text_hidden_dim=TEXT,
    timbre_hidden_dim=4,
    num_lyric_encoder_hidden_layers=1,
    num_timbre_encoder_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)


def qwen() -> Any:
    """A Qwen 3 with one layer."""
    sizes = {"hidden_size": TEXT, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return seeded(Qwen3Model, config=Qwen3Config(vocab_size=64, num_key_value_heads=1, head_dim=8, **sizes))


add(
    "AceStepPipeline",
    "ACE-Step",
    partial(
        build,
        diffusers.AceStepPipeline,
        vae=oobleck,
        transformer=ace,
        condition_encoder=condition,
        text_encoder=qwen,
        tokenizer=tokenizer,
        scheduler=partial(diffusers.FlowMatchEulerDiscreteScheduler, num_train_timesteps=1),
    ),
    lambda n: texts(n, lyrics=["in the night", "of the boats"][:n], audio_duration=4.0, max_lyric_length=8),
)

longcat = partial(
    network,
    diffusers.LongCatAudioDiTTransformer,
    dit_dim=16,
    dit_depth=2,
    dit_heads=2,
    dit_text_dim=TEXT,
    latent_dim=4,
    ff_mult=2.0,
)
longcat_vae = partial(
    network,
    diffusers.LongCatAudioDiTVae,
    channels=4,
    c_mults=[1, 2],
    strides=[2, 2],
    latent_dim=4,
    encoder_latent_dim=8,
    downsampling_ratio=4,
    sample_rate=16,
)
add(
    "LongCatAudioDiTPipeline",
    "LongCat AudioDiT",
    partial(
        build,
        diffusers.LongCatAudioDiTPipeline,
        vae=longcat_vae,
        transformer=longcat,
        text_encoder=umt5,
        tokenizer=tokenizer,
    ),
    partial(texts, audio_duration_s=2.0),
)
add(
    "AudioLDM2Pipeline",
    "AudioLDM 2",
    partial(
        build,
        diffusers.AudioLDM2Pipeline,
        vae=mel_vae,
        unet=unet,
        scheduler=ddim,
        vocoder=vocoder,
        text_encoder_2=t5,
        language_model=t5,
    ),
    generated,
)
