"""Stable Diffusion 1 and 2: text to image with several schedulers, and the tasks that share its networks."""

from __future__ import annotations

from functools import partial

import diffusers
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from ._parts import clip_text, clip_tokenizer
from ._unets import mask, picture, schedule, simple, text, words

SCHEDULERS = {
    "DDIM": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "DDPM": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "DPMSolver++(2M)": (diffusers.DPMSolverMultistepScheduler, {}),
    "DPMSolver++(2M) SDE": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "DPMSolver singlestep": (diffusers.DPMSolverSinglestepScheduler, {}),
    "Euler": (EulerDiscreteScheduler, {}),
    "EulerAncestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "UniPC": (diffusers.UniPCMultistepScheduler, {}),
    "LMS": (diffusers.LMSDiscreteScheduler, {}),
    "Heun": (diffusers.HeunDiscreteScheduler, {}),
    "KDPM2": (diffusers.KDPM2DiscreteScheduler, {}),
    "KDPM2Ancestral": (diffusers.KDPM2AncestralDiscreteScheduler, {}),
    "DEIS": (diffusers.DEISMultistepScheduler, {}),
    "LCM": (diffusers.LCMScheduler, {}),
    "SASolver": (diffusers.SASolverScheduler, {}),
    "IPNDM": (diffusers.IPNDMScheduler, {}),
    "PNDM with Runge-Kutta": (diffusers.PNDMScheduler, {"set_alpha_to_one": False}),
    "TCD": (diffusers.TCDScheduler, {}),
}


towers = {"text_encoder": clip_text, "tokenizer": clip_tokenizer}
shelve = partial(simple, "Stable Diffusion")
shelve("StableDiffusionPipeline")
shelve("StableDiffusionPipeline", partial(words, negative_prompt=lambda n: ["bad"] * n), "prompt", **towers)
shelve("StableDiffusionPipeline", partial(text, guidance_scale=1.0, negative=False), "without guidance")
shelve("StableDiffusionPipeline", partial(text, guidance_rescale=0.7), "rescaled guidance")
shelve("StableDiffusionPipeline", partial(text, num_images_per_prompt=2), "two images per prompt")
for special, (make, config) in SCHEDULERS.items():
    shelve("StableDiffusionPipeline", partial(text), special, scheduler=partial(schedule, make, **config))
ddim = partial(schedule, *SCHEDULERS["DDIM"][:1], **SCHEDULERS["DDIM"][1])
shelve("StableDiffusionPipeline", partial(text, eta=1.0), "DDIM eta=1", scheduler=ddim)
velocity = partial(ddim, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
shelve("StableDiffusionPipeline", partial(text), "v-prediction, zero terminal SNR", scheduler=velocity)
karras = partial(schedule, diffusers.DPMSolverMultistepScheduler, use_karras_sigmas=True)
shelve("StableDiffusionPipeline", partial(text), "DPMSolver++(2M) Karras", scheduler=karras)

shelve("StableDiffusionImg2ImgPipeline", partial(text, image=picture))
shelve("StableDiffusionImg2ImgPipeline", partial(text, image=picture, strength=1.0), "DDIM", scheduler=ddim)
shelve("StableDiffusionInpaintPipeline", partial(text, image=picture, mask_image=mask), "4 channels")
nine = partial(text, image=picture, mask_image=mask)
shelve("StableDiffusionInpaintPipeline", nine, "9 channels", network={"in_channels": 9})
edit = {"call": partial(text, image=picture), "network": {"in_channels": 8}}
shelve("StableDiffusionInstructPix2PixPipeline", **edit)
euler = partial(schedule, EulerDiscreteScheduler)
shelve("StableDiffusionInstructPix2PixPipeline", **edit, special="Euler", scheduler=euler)
