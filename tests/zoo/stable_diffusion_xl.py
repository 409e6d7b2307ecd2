"""Stable Diffusion XL and Kolors, with their tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
from diffusers import ControlNetUnionModel
from diffusers.utils import is_sentencepiece_available

from ._parts import clip_text, clip_tokenizer, randn
from ._unets import XL, clip_projected, controlnet, mask, picture, schedule, simple, text, words
from .controls import adapter, two

FAMILY = "Stable Diffusion XL"
euler = partial(schedule, diffusers.EulerDiscreteScheduler, timestep_spacing="leading")
edges = partial(picture, seed=6)
written = partial(text, pooled=16)
drawn = partial(written, image=picture)
painted = partial(drawn, mask_image=mask)
CONTROL = {"controlnet": partial(controlnet, **XL)}


def shelve(name: str, call: Any = written, special: str = "", family: str = FAMILY, **how: Any) -> None:
    """Add a pipeline of the family."""
    how["network"] = XL | how.get("network", {})
    simple(family, name, call, special, **({"scheduler": euler} | how))


def union() -> Any:
    """A ControlNet for pictures of three kinds."""
    sizes = {"num_control_type": 3, "num_trans_channel": 16, "num_trans_head": 2, "num_proj_channel": 16}
    return controlnet(ControlNetUnionModel, **XL, **sizes)


shelve("StableDiffusionXLPipeline")
shelve(
    "StableDiffusionXLPipeline",
    words,
    "prompt",
    text_encoder=partial(clip_text, width=8),
    text_encoder_2=partial(clip_projected, width=8),
    tokenizer=clip_tokenizer,
    tokenizer_2=clip_tokenizer,
)
shelve("StableDiffusionXLPipeline", partial(written, guidance_rescale=0.7), "rescaled guidance")
shelve("StableDiffusionXLPipeline", partial(written, denoising_end=0.6, output_type="latent"), "first part")
shelve("StableDiffusionXLPipeline", partial(written, crops_coords_top_left=(2, 0)), "cropped")
shelve("StableDiffusionXLPipeline", special="Heun", scheduler=partial(schedule, diffusers.HeunDiscreteScheduler))
shelve("StableDiffusionXLPipeline", special="EDM Euler", scheduler=diffusers.EDMEulerScheduler)
shelve("StableDiffusionXLPipeline", special="EDM DPMSolver", scheduler=diffusers.EDMDPMSolverMultistepScheduler)
guided = {"scheduler": partial(schedule, diffusers.LCMScheduler), "network": {"time_cond_proj_dim": 8}}
shelve("StableDiffusionXLPipeline", partial(written, negative=False), "LCM", **guided)

shelve("StableDiffusionXLImg2ImgPipeline", partial(drawn, strength=0.8))
later = partial(written, image=lambda n: randn(n, 4, 8, 8), denoising_start=0.4, steps=10)
shelve("StableDiffusionXLImg2ImgPipeline", later, "last part")
refined = {"network": {"projection_class_embeddings_input_dim": 16 + 5 * 4}, "requires_aesthetics_score": lambda: True}
shelve("StableDiffusionXLImg2ImgPipeline", partial(drawn, strength=0.8), "aesthetic score", **refined)
shelve("StableDiffusionXLInpaintPipeline", painted, "4 channels")
shelve("StableDiffusionXLInpaintPipeline", painted, "9 channels", network={"in_channels": 9})
shelve("StableDiffusionXLInstructPix2PixPipeline", drawn, network={"in_channels": 8})

shelve("StableDiffusionXLControlNetPipeline", drawn, **CONTROL)
shelve("StableDiffusionXLControlNetPipeline", partial(drawn, guess_mode=True), "guess mode", **CONTROL)
both = partial(written, image=lambda n: [edges(n), picture(n, seed=7)])
shelve("StableDiffusionXLControlNetPipeline", both, "two ControlNets", controlnet=partial(two, **XL))
shelve("StableDiffusionXLControlNetImg2ImgPipeline", partial(drawn, control_image=edges), **CONTROL)
shelve("StableDiffusionXLControlNetInpaintPipeline", partial(painted, control_image=edges), **CONTROL)

several = {"control_image": lambda n: [edges(n)], "control_mode": [1]}
UNION = {"controlnet": union}
shelve("StableDiffusionXLControlNetUnionPipeline", partial(written, **several), **UNION)
shelve("StableDiffusionXLControlNetUnionImg2ImgPipeline", partial(drawn, **several), **UNION)
shelve("StableDiffusionXLControlNetUnionInpaintPipeline", partial(painted, **several), **UNION)

shelve("StableDiffusionXLPAGPipeline")
shelve("StableDiffusionXLPAGImg2ImgPipeline", partial(drawn, strength=0.8))
shelve("StableDiffusionXLPAGInpaintPipeline", painted)
shelve("StableDiffusionXLControlNetPAGPipeline", drawn, **CONTROL)
shelve("StableDiffusionXLControlNetPAGImg2ImgPipeline", partial(drawn, control_image=edges), **CONTROL)
shelve(
    "StableDiffusionXLAdapterPipeline",
    drawn,
    adapter=partial(adapter, downscale_factor=4, adapter_type="full_adapter_xl"),
)

if is_sentencepiece_available():  # diffusers holds these pipelines back without it; Img2Img ignores pooled embeddings
    kolors = {"family": "Kolors", "network": {"encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj"}}
    shelve("KolorsPipeline", partial(written, width=24), **kolors)
    shelve("KolorsPAGPipeline", partial(written, width=24), **kolors)
