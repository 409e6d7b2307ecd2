"""Videos by transformers on Wan's or HunyuanVideo's VAE: Cosmos, Kandinsky 5, Sana Video, Motif Video, Helios."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch

from . import add
from ._parts import alive, assemble, picture, randn, seeded
from .hunyuan_video import vae as hunyuan_vae
from .wan import vae

TEXT = 16
SIZE = {"height": 16, "width": 16, "num_frames": 5}


class Guard:
    """A safety checker that finds nothing, in place of one that has to be downloaded."""

    def to(self, device: Any) -> Guard:
        """Itself: there is nothing to move."""
        return self

    def check_text_safety(self, text: str) -> bool:
        """Whether the text may be used."""
        return bool(text)

    def check_video_safety(self, video: Any) -> Any:
        """The video, with what may not be seen made unrecognisable."""
        return video


def network(make: Any, **config: Any) -> Any:
    """A network whose weights are all in use."""
    return alive(seeded(make, **config))


def build(make: Any, **parts: Any) -> Any:
    """A pipeline; parts are made anew."""
    filled = {"vae": vae, "scheduler": flow, "safety_checker": Guard} | parts
    return assemble(make, **{name: part() for name, part in filled.items()})


def embeds(n: int, drop: tuple[str, ...] = (), masks: bool = False, **more: Any) -> dict[str, Any]:
    """Prompt embeddings, guidance, and six steps; ``drop`` names what the class does not take."""
    call: dict[str, Any] = {"prompt_embeds": randn(n, 6, TEXT), "negative_prompt_embeds": randn(n, 6, TEXT, seed=2)}
    if masks:
        call |= {f"{word}prompt_attention_mask": torch.ones(n, 6, dtype=torch.long) for word in ("", "negative_")}
        call["prompt_attention_mask"][-1, 4:] = 0
    call |= {"guidance_scale": 4.0, "num_inference_steps": 6, "output_type": "np"} | SIZE | more
    return {name: value for name, value in call.items() if name not in drop}


def frames() -> list[Any]:
    """Five images of 16x16 pixels."""
    return [picture(16, seed=i) for i in range(5)]


flow = partial(diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0)
karras = partial(diffusers.FlowMatchEulerDiscreteScheduler, use_karras_sigmas=True)
edm = partial(
    diffusers.EDMEulerScheduler, sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, final_sigmas_type="sigma_min"
)
unipc = partial(
    diffusers.UniPCMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
)


def cosmos(**more: Any) -> Any:
    """A Cosmos transformer with two layers."""
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "mlp_ratio": 2.0,
        "text_embed_dim": TEXT,
        "adaln_lora_dim": 4,
        "max_size": (4, 8, 8),
        "patch_size": (1, 2, 2),
        "rope_scale": (2.0, 1.0, 1.0),
        "concat_padding_mask": False,  # adding it takes torchvision
        "extra_pos_embed_type": "learnable",
    }
    return network(diffusers.CosmosTransformer3DModel, **config | more)


def cosmos_vae() -> Any:
    """The VAE of Cosmos 1: two frames of 4x4 latents of 32x32 pixels and nine frames."""
    made = network(
        diffusers.AutoencoderKLCosmos,
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=32,
        num_layers=1,
        patch_size=4,
        latents_mean=None,
        latents_std=None,
    )
    list(made.decoder.conv_out.parameters())[-2].data *= 0.4  # or else most pixels are black or white
    return made


large = {"height": 32, "width": 32, "num_frames": 9}
conditioned = partial(cosmos, in_channels=5)
second = {"extra_pos_embed_type": None}
one = partial(build, vae=cosmos_vae, scheduler=edm)
add(
    "CosmosTextToWorldPipeline",
    "Cosmos",
    partial(one, diffusers.CosmosTextToWorldPipeline, transformer=cosmos),
    partial(embeds, **large),
)
add(
    "CosmosVideoToWorldPipeline",
    "Cosmos",
    partial(one, diffusers.CosmosVideoToWorldPipeline, transformer=partial(cosmos, in_channels=5)),
    partial(embeds, image=picture(32), **large),
)
add(
    "Cosmos2TextToImagePipeline",
    "Cosmos",
    partial(build, diffusers.Cosmos2TextToImagePipeline, transformer=partial(cosmos, **second), scheduler=karras),
    partial(embeds, drop=("num_frames",)),
)
add(
    "Cosmos2VideoToWorldPipeline",
    "Cosmos",
    partial(build, diffusers.Cosmos2VideoToWorldPipeline, transformer=partial(conditioned, **second), scheduler=karras),
    partial(embeds, image=picture(16)),
)
add(
    "Cosmos2_5_PredictBasePipeline",
    "Cosmos",
    partial(
        build,
        diffusers.Cosmos2_5_PredictBasePipeline,
        transformer=partial(conditioned, use_crossattn_projection=False, **second),
        scheduler=unipc,
    ),
    embeds,
)


def kandinsky(**more: Any) -> Any:
    """A Kandinsky 5 transformer with one layer for text and two for pictures."""
    return network(
        diffusers.Kandinsky5Transformer3DModel,
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=TEXT,
        in_text_dim2=8,
        time_dim=8,
        model_dim=24,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 4, 4),
        **more,
    )


def doubled(n: int, **more: Any) -> dict[str, Any]:
    """Embeddings of two encoders, with the bounds of every prompt."""
    call: dict[str, Any] = {"guidance_scale": 4.0, "num_inference_steps": 6, "output_type": "np"}
    for seed, word in enumerate(("", "negative_")):
        call[f"{word}prompt_embeds_qwen"] = randn(n, 6, TEXT, seed=seed)
        call[f"{word}prompt_embeds_clip"] = randn(n, 8, seed=seed + 2)
        call[f"{word}prompt_cu_seqlens"] = torch.arange(n + 1, dtype=torch.int32) * 6
    return call | SIZE | more


add(
    "Kandinsky5T2VPipeline",
    "Kandinsky 5",
    partial(build, diffusers.Kandinsky5T2VPipeline, vae=hunyuan_vae, transformer=kandinsky),
    doubled,
)
add(
    "Kandinsky5I2VPipeline",
    "Kandinsky 5",
    partial(build, diffusers.Kandinsky5I2VPipeline, vae=hunyuan_vae, transformer=partial(kandinsky, visual_cond=True)),
    partial(doubled, image=picture(16), num_frames=17),
    prompts=(1,),
)

sana = partial(
    network,
    diffusers.SanaVideoTransformer3DModel,
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=12,
    cross_attention_dim=24,
    caption_channels=TEXT,
    rope_max_seq_len=32,
)
solver = partial(
    diffusers.DPMSolverMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
)
short = {"drop": ("num_frames",), "frames": 5, "use_resolution_binning": False, "masks": True, "negative_prompt": None}
short |= {"height": 32, "width": 32}
add(
    "SanaVideoPipeline",
    "Sana Video",
    partial(build, diffusers.SanaVideoPipeline, transformer=sana, scheduler=solver),
    partial(embeds, **short),
)
add(
    "SanaImageToVideoPipeline",
    "Sana Video",
    partial(build, diffusers.SanaImageToVideoPipeline, transformer=sana),
    partial(embeds, image=picture(16), **short),
)

motif = partial(
    network,
    diffusers.MotifVideoTransformer3DModel,
    in_channels=9,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=10,
    num_layers=1,
    num_single_layers=2,
    num_decoder_layers=1,
    text_embed_dim=TEXT,
    rope_axes_dim=(2, 4, 4),
    enable_text_cross_attention_dual=True,
    enable_text_cross_attention_single=True,
)
guider = partial(diffusers.AdaptiveProjectedGuidance, guidance_scale=4.0, adaptive_projected_guidance_momentum=-0.5)
plain = partial(diffusers.ClassifierFreeGuidance, guidance_scale=4.0)
masked = partial(embeds, masks=True, drop=("guidance_scale",))
add(
    "MotifVideoPipeline",
    "Motif Video",
    partial(build, diffusers.MotifVideoPipeline, transformer=motif, guider=plain),
    masked,
)
add(
    "MotifVideoPipeline momentum",
    "Motif Video",
    partial(build, diffusers.MotifVideoPipeline, transformer=motif, guider=guider),
    masked,
)

chunks = {"num_frames": 10, "num_latent_frames_per_chunk": 2, "history_sizes": [4, 2, 1], "height": 32, "width": 32}
helios = partial(
    network,
    diffusers.HeliosTransformer3DModel,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=TEXT,
    freq_dim=16,
    ffn_dim=16,
    num_layers=2,
    rope_dim=(4, 4, 4),
)
add(
    "HeliosPipeline",
    "Helios",
    partial(
        build,
        diffusers.HeliosPipeline,
        transformer=helios,
        scheduler=partial(diffusers.HeliosScheduler, stages=1, stage_range=[0, 1]),
    ),
    partial(embeds, **chunks),
)
stages = {"pyramid_num_inference_steps_list": [2, 2, 2], "drop": ("num_inference_steps",)}
add(
    "HeliosPyramidPipeline",
    "Helios",
    partial(
        build,
        diffusers.HeliosPyramidPipeline,
        transformer=helios,
        scheduler=partial(diffusers.HeliosScheduler, gamma=0.3),
    ),
    partial(embeds, **chunks, **stages),
)
