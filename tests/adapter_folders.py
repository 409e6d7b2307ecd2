"""Folders of tiny pipelines with random weights, text encoders included, for the adapters of diffusers' format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from zoo._latents import flow, net, shifted, t5
from zoo._latents import vae as shifted_vae
from zoo._parts import assemble, clip_text, clip_tokenizer, tokenizer
from zoo._unets import schedule, unet, vae, xl_unet
from zoo.unets import plain_unet

from paraflowkit import registry
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.solution import Solution
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding

SEEDS = [5, 6]
#: Divides the 1000 training steps: diffusers' DDIM steps by 1000 // N, which otherwise is not where its next time is.
STEPS = 5

ddim = partial(schedule, diffusers.DDIMScheduler, clip_sample=False, set_alpha_to_one=False)


def _projected() -> Any:
    from transformers import CLIPTextModelWithProjection

    return clip_text(CLIPTextModelWithProjection)


def _sd(scheduler: Any, **network: Any) -> Any:
    parts = {"text_encoder": clip_text(), "tokenizer": clip_tokenizer(), "unet": unet(**network), "vae": vae()}
    return assemble(diffusers.StableDiffusionPipeline, scheduler=scheduler, requires_safety_checker=False, **parts)


def _xl(scheduler: Any) -> Any:
    # The network's text embeddings are those of two encoders, side by side.
    network = xl_unet(cross_attention_dim=32)
    parts = {"text_encoder": clip_text(), "tokenizer": clip_tokenizer(), "unet": network, "vae": vae()}
    parts |= {"text_encoder_2": _projected(), "tokenizer_2": clip_tokenizer(), "force_zeros_for_empty_prompt": True}
    return assemble(diffusers.StableDiffusionXLPipeline, scheduler=scheduler, add_watermarker=False, **parts)


def _sd3(**scheduler: Any) -> Any:
    sizes = {"sample_size": 8, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2}
    sizes |= {"attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 32, "pos_embed_max_size": 16}
    network = net("SD3Transformer2DModel", **sizes, caption_projection_dim=32, pooled_projection_dim=32)
    parts = {"text_encoder": _projected(), "tokenizer": clip_tokenizer(), "text_encoder_2": _projected()}
    parts |= {"tokenizer_2": clip_tokenizer(), "text_encoder_3": t5(), "tokenizer_3": tokenizer(8)}
    made = partial(assemble, diffusers.StableDiffusion3Pipeline, transformer=network, vae=shifted_vae(16))
    return made(scheduler=flow(**scheduler), **parts)


def _flux(scheduler: Any, guided: bool = True) -> Any:
    sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
    sizes |= {"num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 16}
    network = net("FluxTransformer2DModel", **sizes, axes_dims_rope=(4, 4, 8), guidance_embeds=guided)
    parts = {"text_encoder": clip_text(), "tokenizer": clip_tokenizer(), "text_encoder_2": t5()}
    made = partial(assemble, diffusers.FluxPipeline, transformer=network, vae=shifted_vae(4), scheduler=scheduler)
    return made(tokenizer_2=tokenizer(8), **parts)


def _pixart(name: str) -> Any:
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32}
    network = net(
        "PixArtTransformer2DModel", **sizes, caption_channels=32, sample_size=8, in_channels=4, out_channels=8
    )
    parts = {"text_encoder": t5(), "tokenizer": tokenizer(8), "vae": vae()}
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2)
    return assemble(getattr(diffusers, name), transformer=network, scheduler=scheduler, **parts)


def _dit() -> Any:
    from zoo.unets import dit

    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False)
    return assemble(diffusers.DiTPipeline, transformer=dit(), vae=vae(), scheduler=scheduler)


def _pixels(scheduler: Any, name: str = "DDPMPipeline", **network: Any) -> Any:
    return assemble(getattr(diffusers, name), unet=plain_unet(**network), scheduler=scheduler)


V = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
BUILD = {
    "sd": lambda: _sd(ddim()),
    "sd-v": lambda: _sd(ddim(**V)),
    "sd-dpm": lambda: _sd(schedule(diffusers.DPMSolverMultistepScheduler, use_karras_sigmas=True)),
    "xl": lambda: _xl(schedule(diffusers.EulerDiscreteScheduler, timestep_spacing="leading")),
    "xl-edm": lambda: _xl(diffusers.EDMDPMSolverMultistepScheduler(sigma_max=20.0, sigma_data=0.5)),
    "sd3": lambda: _sd3(shift=3.0),
    "sd3-dynamic": lambda: _sd3(use_dynamic_shifting=True, max_shift=1.16),
    "flux": lambda: _flux(shifted()),
    "flux-schnell": lambda: _flux(flow(shift=1.0), guided=False),
    "pixart": lambda: _pixart("PixArtAlphaPipeline"),
    "pixart-sigma": lambda: _pixart("PixArtSigmaPipeline"),
    "dit": _dit,
    "ddpm": lambda: _pixels(diffusers.DDPMScheduler(clip_sample=False)),
    "ddim-clipped": lambda: _pixels(diffusers.DDIMScheduler(clip_sample=True), "DDIMPipeline"),
    "classes": lambda: _pixels(diffusers.DDPMScheduler(clip_sample=False), num_class_embeds=11),
    "edm": lambda: _pixels(diffusers.EDMEulerScheduler(sigma_max=20.0, sigma_data=0.5)),
}


def save(name: str, root: Path) -> Path:
    """The folder of a pipeline, made where it is not there yet."""
    folder = root / name
    if not folder.is_dir():
        with torch.random.fork_rng():
            BUILD[name]().save_pretrained(folder)
    return folder


def load(root: Path, name: str, kind: str = "diffusers-pipeline", **settings: Any) -> Any:
    """The model of a folder."""
    config = registry.config_class("model", kind)(folder=str(save(name, root)), **settings)
    return registry.get("model", kind)(config)


def problem_of(model: VelocityModel, stepper: str, steps: int, **more: Any) -> Problem:
    """Two samples on the model's own grid."""
    name, _, options = stepper.partition(" ")
    given = dict(part.split("=") for part in options.split())
    made = registry.get("stepper", name)(registry.config_class("stepper", name).model_validate(given))
    grid = make_grid(model.noise, steps, **model.grid_settings(steps))
    return make_problem(model, made, grid, SEEDS, **more)


def solved(problem: Problem, solver: str, window: int) -> Solution:
    """The problem's solution at tolerance 0."""
    made = registry.get("solver", solver)(registry.config_class("solver", solver)(tolerance=0.0))
    return solve(problem, made, Sliding(SlidingConfig(size=window)))


def sequential(problem: Problem) -> Tensor:
    return solved(problem, "sequential", 1).x


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())
