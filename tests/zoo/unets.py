"""Smaller families with a UNet, and DiT: DDPM, DDIM, consistency, latent diffusion, DeepFloyd IF, Marigold."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DModel, VQModel

from . import add
from ._parts import alive, assemble, clip_text, clip_tokenizer, seeded, tokenizer
from ._unets import lively, mask, picture, schedule, simple, text, unet, vae


def plain_unet(**config: Any) -> Any:
    """A UNet without text, for 3 channels and 8 by 8 pixels."""
    shape = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    shape |= {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 8}
    return lively(alive(seeded(UNet2DModel, **(shape | {"attention_head_dim": 8} | config))))


def without_text(name: str, scheduler: Any, special: str = "", network: Any = plain_unet, **more: Any) -> None:
    """Add a pipeline that takes a number of pictures to draw."""

    def make() -> Any:
        return assemble(getattr(diffusers, name), unet=network(), scheduler=scheduler())

    def call(n: int) -> dict[str, Any]:
        made = {key: value(n) if callable(value) else value for key, value in more.items()}
        return {"batch_size": n, "num_inference_steps": 6, "output_type": "np"} | made

    add(f"{name} {special}".strip(), name.removesuffix("Pipeline").removesuffix("Model"), make, call)


without_text("DDPMPipeline", DDPMScheduler)
free = {"clip_sample": False, "beta_end": 0.001}  # few betas: an untrained network makes large numbers of many
without_text("DDPMPipeline", partial(DDPMScheduler, **free), "without clipping")
without_text("DDIMPipeline", DDIMScheduler)
without_text("DDIMPipeline", partial(DDIMScheduler, **free), "eta=0.5 without clipping", eta=0.5)
consistent = diffusers.CMStochasticIterativeScheduler
without_text("ConsistencyModelPipeline", consistent)
classes = partial(plain_unet, num_class_embeds=10)
without_text("ConsistencyModelPipeline", consistent, "classes", classes, class_labels=lambda n: [3, 7][:n])


def dit() -> Any:
    """A diffusion transformer with ImageNet's thousand classes, which the pipeline counts on."""
    network = seeded(
        diffusers.DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        norm_num_groups=4,
    )
    return lively(alive(network, scale=0.2))


def dit_pipeline(scheduler: Any) -> Any:
    """The pipeline of DiT."""
    return assemble(diffusers.DiTPipeline, transformer=dit(), vae=vae(), scheduler=scheduler())


def labelled(n: int, **more: Any) -> dict[str, Any]:
    """Classes in place of prompts."""
    return {"class_labels": [207, 360][:n], "num_inference_steps": 6, "output_type": "np"} | more


straight = {"beta_schedule": "linear", "clip_sample": False}
add("DiTPipeline", "DiT", partial(dit_pipeline, partial(DDIMScheduler, **straight)), labelled)
multistep = partial(dit_pipeline, partial(diffusers.DPMSolverMultistepScheduler, beta_schedule="linear"))
add("DiTPipeline DPMSolver++(2M)", "DiT", multistep, labelled)
bare = partial(labelled, guidance_scale=1.0)
add("DiTPipeline without guidance", "DiT", partial(dit_pipeline, partial(DDIMScheduler, **straight)), bare)


def bert() -> Any:
    """The text encoder of latent diffusion."""
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    sizes = {"encoder_layers": 1, "encoder_ffn_dim": 24, "encoder_attention_heads": 2, "head_dim": 8, "d_model": 16}
    torch.manual_seed(0)
    return alive(LDMBertModel(LDMBertConfig(vocab_size=32, **sizes)).eval())


def deep_vae(make: Any = AutoencoderKL) -> Any:
    """An autoencoder that makes pictures eight times as small, as some pipelines take for granted."""
    levels = {"block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4}
    return vae(make, up_block_types=("UpDecoderBlock2D",) * 4, **levels)


def drawn(n: int) -> dict[str, Any]:
    """Prompts in words."""
    made = {"prompt": ["a red cat", "two blue boats"][:n], "guidance_scale": 4.0}
    return made | {"num_inference_steps": 6, "output_type": "np"}


def ldm() -> Any:
    """The pipeline of latent diffusion."""
    parts = {"vqvae": deep_vae(), "bert": bert(), "tokenizer": tokenizer(), "unet": unet()}
    return assemble(diffusers.LDMTextToImagePipeline, scheduler=schedule(DDIMScheduler, clip_sample=False), **parts)


def ldm_larger() -> Any:
    """The pipeline of latent diffusion for larger pictures."""
    quantizer = vae(VQModel, latent_channels=3, num_vq_embeddings=16, vq_embed_dim=3)
    parts = {"vqvae": quantizer, "unet": plain_unet(in_channels=6, out_channels=3)}
    return assemble(diffusers.LDMSuperResolutionPipeline, scheduler=schedule(DDIMScheduler, clip_sample=False), **parts)


def enlarged(n: int) -> dict[str, Any]:
    """Small pictures."""
    return {"image": 2 * picture(n, size=8) - 1, "num_inference_steps": 6, "output_type": "np"}


add("LDMTextToImagePipeline", "Latent Diffusion", ldm, drawn)
add("LDMSuperResolutionPipeline", "Latent Diffusion", ldm_larger, enlarged)

PIXELS = {
    "in_channels": 3,
    "out_channels": 6,
    "encoder_hid_dim": 16,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 8,
}
LARGER = {"in_channels": 6, "class_embed_type": "timestep", "sample_size": 16}
cosine = partial(DDPMScheduler, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True)
noising = {"image_noising_scheduler": partial(DDPMScheduler, beta_schedule="squaredcos_cap_v2")}
small = partial(picture, size=8)


def signed(n: int, size: int = 8) -> torch.Tensor:
    """Pictures within -1 and 1."""
    return 2 * picture(n, size=size) - 1


def shelve(task: str, network: dict[str, Any] | None = None, **more: Any) -> None:
    """Add a pipeline of DeepFloyd IF."""
    network = PIXELS | (network or {})
    parts = noising if "Super" in task else {}
    simple("DeepFloyd IF", f"IF{task}Pipeline", partial(text, **more), scheduler=cosine, network=network, **parts)


shelve("")
shelve("Img2Img", image=signed)
shelve("Inpainting", image=signed, mask_image=partial(mask, size=8))
shelve("SuperResolution", LARGER, image=signed)
original = partial(signed, size=16)
shelve("Img2ImgSuperResolution", LARGER, image=signed, original_image=original)
shelve("InpaintingSuperResolution", LARGER, image=signed, original_image=original, mask_image=mask)


def measured(n: int, batch: int | None = None, **more: Any) -> dict[str, Any]:
    """Pictures to be measured."""
    made = {"image": picture(n), "num_inference_steps": 6, "processing_resolution": 0, "batch_size": batch or n}
    return made | more


eight = {"in_channels": 8}
look = {"text_encoder": clip_text, "tokenizer": clip_tokenizer, "network": eight}
look |= {"scheduler": partial(schedule, DDIMScheduler, clip_sample=False, prediction_type="v_prediction")}
simple("Marigold", "MarigoldDepthPipeline", measured, **look)
simple("Marigold", "MarigoldDepthPipeline", partial(measured, batch=1), "one at a time", **look)
simple("Marigold", "MarigoldNormalsPipeline", measured, **look)
look["network"] = {"in_channels": 12, "out_channels": 8}
targets = {"target_names": ["albedo", "material"], "albedo": {"prediction_space": "srgb"}, "material": {}}
simple("Marigold", "MarigoldIntrinsicsPipeline", measured, **look, target_properties=lambda: targets)
