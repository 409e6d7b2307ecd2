"""Qwen-Image: image to image, inpainting, editing, layers, ControlNet."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch

from . import add
from ._latents import call, control, embeddings, hole, image, images, masks, net, pipeline, shifted, together
from ._parts import picture, seeded

SIZES: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}
prompt = embeddings(32, mask="embeds_mask")
transformer = partial(net, "QwenImageTransformer2DModel", **SIZES)
controlnet = partial(net, "QwenImageControlNetModel", **SIZES)
hole_controlnet = partial(net, "QwenImageControlNetModel", **SIZES, extra_condition_channels=4)
SHAPE: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False],
}
vae = partial(
    net, "AutoencoderKLQwenImage", **SHAPE, latents_mean=[0.1, -0.1, 0.0, 0.05], latents_std=[1.0, 1.2, 0.9, 1.1]
)


class Coarse(diffusers.AutoencoderKLQwenImage):
    """Halves the size seven times, because the editing pipelines scale every picture to a million pixels."""

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        return super().encode(torch.nn.functional.avg_pool3d(x, (1, 64, 64)), return_dict)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        (made,) = super().decode(z, return_dict=False)
        return (torch.nn.functional.interpolate(made, scale_factor=(1.0, 16.0, 16.0)),)


def coarse() -> Any:
    made = seeded(Coarse, **SHAPE, latents_mean=[0.1, -0.1, 0.0, 0.05], latents_std=[1.0, 1.2, 0.9, 1.1])
    made.temperal_downsample = [False] * 7
    return made


def photo(n: int) -> dict[str, Any]:
    return {"image": picture(32)}


def scratched(n: int) -> dict[str, Any]:
    return {"image": picture(32), "mask_image": masks(1, 32)}


def qwen(kind: str, **parts: Any) -> Any:
    return pipeline(kind, **{"scheduler": shifted, "vae": vae, "transformer": transformer} | parts)


def control_hole(n: int) -> dict[str, Any]:
    return {"control_image": images(n, seed=6), "control_mask": masks(n)}


SQUARE: dict[str, Any] = {"height": 16, "width": 16, "true_cfg_scale": 3.0}
BIG: dict[str, Any] = {"height": 1024, "width": 1024}
edited = {"vae": coarse}
for kind, parts, draws, more in (
    ("QwenImagePipeline", {}, (prompt,), {}),
    ("QwenImageImg2ImgPipeline", {}, (prompt, image), {"strength": 0.7}),
    ("QwenImageInpaintPipeline", {}, (prompt, hole), {"strength": 0.7}),
    ("QwenImageEditPipeline", edited, (prompt, photo), BIG),
    ("QwenImageEditPlusPipeline", edited, (prompt, photo), BIG),
    ("QwenImageEditInpaintPipeline", edited, (prompt, scratched), BIG | {"strength": 0.7}),
    ("QwenImageControlNetPipeline", {"controlnet": controlnet}, (prompt, control), {}),
    ("QwenImageControlNetInpaintPipeline", {"controlnet": hole_controlnet}, (prompt, control_hole), {}),
):
    prompts = (1,) if kind == "QwenImageEditPlusPipeline" else (1, 2)
    add(kind, "Qwen-Image", qwen(kind, **parts), call(together(*draws), **SQUARE | more), prompts=prompts)
