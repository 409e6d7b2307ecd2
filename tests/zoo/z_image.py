"""Z-Image, whose batches are Python lists: image to image, inpainting, ControlNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import add
from ._latents import call, control, hole, image, net, pipeline, shifted, together, vae
from ._parts import randn

SIZES: dict[str, Any] = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
AXES: dict[str, Any] = {"axes_dims": [4, 4, 8], "axes_lens": [64, 32, 32]}
transformer = partial(net, "ZImageTransformer2DModel", **SIZES, **AXES, in_channels=4, n_layers=2, cap_feat_dim=32)


PLACES: dict[str, Any] = {"control_layers_places": [0], "control_refiner_layers_places": [0]}
controlnet = partial(
    net, "ZImageControlNetModel", **SIZES, **PLACES, add_control_noise_refiner="control_noise_refiner", control_in_dim=4
)
hole_controlnet = partial(
    net, "ZImageControlNetModel", **SIZES, **PLACES, add_control_noise_refiner="control_noise_refiner", control_in_dim=9
)


def prompt(n: int) -> dict[str, Any]:
    """Prompts of different lengths."""
    names = ("prompt_embeds", "negative_prompt_embeds")
    return {name: [randn(6 + i - k, 32, seed=i + 5 * k) for i in range(n)] for k, name in enumerate(names)}


def z_image(kind: str, **parts: Any) -> Any:
    return pipeline(kind, **{"scheduler": shifted, "vae": vae, "transformer": transformer} | parts)


SQUARE: dict[str, Any] = {"height": 16, "width": 16, "guidance_scale": 3.0}
for kind, parts, draws, more in (
    ("ZImagePipeline", {}, (prompt,), {}),
    ("ZImageImg2ImgPipeline", {}, (prompt, image), {"strength": 0.7}),
    ("ZImageInpaintPipeline", {}, (prompt, hole), {"strength": 0.7}),
    ("ZImageControlNetPipeline", {"controlnet": controlnet}, (prompt, control), {}),
    ("ZImageControlNetInpaintPipeline", {"controlnet": hole_controlnet}, (prompt, hole, control), {}),
):
    add(kind, "Z-Image", z_image(kind, **parts), call(together(*draws), **SQUARE, **more))
