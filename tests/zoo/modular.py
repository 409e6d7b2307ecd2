"""Modular pipelines, built from blocks of diffusers and the tiny networks of the classic ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
from diffusers.configuration_utils import FrozenDict
from diffusers.modular_pipelines import ComponentSpec

from . import _unets, add, flux, qwen_image, stable_diffusion_3, wan, z_image
from ._latents import WORDS, control, embeddings, flow, hole, image, shifted, together, vae
from ._parts import clip_text, clip_tokenizer, quiet, randn
from .more_transformers import ernie, flux2, flux2_vae, klein, krea, layered, listed

PLANES: dict[str, Any] = {"height": 16, "width": 16}
WORDLESS = ("text_encoder",)
SPEECHLESS = ("prompt_enhancer", "text_encoder")


def hush(blocks: Any) -> None:
    """Turn off the progress bars of loops within blocks."""
    for each in blocks.sub_blocks.values():
        if hasattr(each, "set_progress_bar_config"):
            each.set_progress_bar_config(disable=True)
        hush(each)


def blocks(kind: str, without: tuple[str, ...] = (), **parts: Callable[[], Any]) -> Callable[[], Any]:
    """How to build a modular pipeline from blocks by the name of their class, some blocks left out."""

    def build() -> Any:
        made = getattr(diffusers, kind)()
        for name in without:
            made.sub_blocks.pop(name)
        hush(made)
        pipe = made.init_pipeline()
        pipe.update_components(**{name: part() for name, part in parts.items()})
        return quiet(pipe)

    return build


def call(*draws: Any, output: str = "images", **more: Any) -> Callable[[int], dict[str, Any]]:
    """A call of six steps to a tensor of pictures."""
    return lambda n: {"num_inference_steps": 6, "output_type": "pt", "output": output} | more | together(*draws)(n)


def guider(make: Any = diffusers.ClassifierFreeGuidance, **config: Any) -> Callable[[], Any]:
    """How to make a guider, as a modular pipeline makes its own."""
    given = FrozenDict({"guidance_scale": 3.0} | config)
    return ComponentSpec("guider", make, config=given, default_creation_method="from_config").create


# Stable Diffusion XL


def text(n: int) -> dict[str, Any]:
    return {"prompt": WORDS[n], "negative_prompt": "bad" if n == 1 else ["bad"] * n}


xl: dict[str, Any] = {
    "text_encoder": partial(clip_text, width=8),
    "text_encoder_2": partial(_unets.clip_projected, width=8),
    "tokenizer": clip_tokenizer,
    "tokenizer_2": clip_tokenizer,
    "unet": partial(_unets.unet, **_unets.XL),
    "vae": _unets.vae,
    "scheduler": partial(_unets.schedule, diffusers.EulerDiscreteScheduler, timestep_spacing="leading"),
    "guider": guider(),
}
controlled = xl | {"controlnet": partial(_unets.controlnet, **_unets.XL)}
perturbed = xl | {
    "guider": guider(
        diffusers.PerturbedAttentionGuidance,
        perturbed_guidance_scale=2.0,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        perturbed_guidance_config=diffusers.LayerSkipConfig(
            indices=[0],
            fqn="down_blocks.1.attentions.0.transformer_blocks",
            skip_attention=False,
            skip_attention_scores=True,
            skip_ff=False,
        ),
    )
}
kind = "StableDiffusionXLAutoBlocks"
for special, parts, draws, more in (
    ("", xl, (text,), {}),
    (" image", xl, (text, image), {"strength": 0.7}),
    (" inpainting", xl, (text, hole), {"strength": 0.9}),
    (" ControlNet", controlled, (text, control), {}),
    (" perturbed attention", perturbed, (text,), {}),
):
    add(
        f"StableDiffusionXLModularPipeline{special}",
        "Stable Diffusion XL",
        blocks(kind, **parts),
        call(*draws, **PLANES, **more),
        modular=True,
    )

# Transformers

flux_parts: dict[str, Any] = {"transformer": flux.plain, "vae": vae, "scheduler": shifted, **flux.encoders()}
sd3: dict[str, Any] = stable_diffusion_3.ENCODERS | {
    "transformer": stable_diffusion_3.transformer,
    "vae": stable_diffusion_3.vae,
    "scheduler": shifted,
    "guider": guider(),
}
skip: dict[str, Any] = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
skip["skip_layer_config"] = diffusers.LayerSkipConfig(indices=[0], fqn="transformer_blocks")
skipping = sd3 | {"guider": guider(diffusers.SkipLayerGuidance, **skip)}
qwen: dict[str, Any] = {
    "transformer": qwen_image.transformer,
    "vae": qwen_image.vae,
    "scheduler": shifted,
    "guider": guider(),
}
qwen_controlled = qwen | {"controlnet": qwen_image.controlnet}
zed: dict[str, Any] = {"transformer": z_image.transformer, "vae": vae, "scheduler": shifted, "guider": guider()}
two: dict[str, Any] = {"transformer": flux2, "vae": flux2_vae, "scheduler": shifted}
small = two | {"transformer": klein, "guider": guider()}
creative: dict[str, Any] = qwen | {"transformer": krea}
earnest = two | {"transformer": ernie, "scheduler": partial(flow, shift=3.0), "guider": guider()}
one_text = {"max_sequence_length": 8}


def one(n: int) -> dict[str, Any]:
    return {"prompt": WORDS[n]}


def half(n: int) -> dict[str, Any]:
    return {"prompt_embeds": randn(n, 6, 32)}


for name, family, made, arguments in (
    ("FluxModularPipeline", "Flux", blocks("FluxAutoBlocks", **flux_parts), call(one, **one_text)),
    ("FluxModularPipeline image", "Flux", blocks("FluxAutoBlocks", **flux_parts), call(one, image, **one_text)),
    (
        "StableDiffusion3ModularPipeline",
        "Stable Diffusion 3",
        blocks("StableDiffusion3AutoBlocks", **sd3),
        call(text, **one_text),
    ),
    (
        "StableDiffusion3ModularPipeline image",
        "Stable Diffusion 3",
        blocks("StableDiffusion3AutoBlocks", **sd3),
        call(text, image, **one_text),
    ),
    (
        "StableDiffusion3ModularPipeline skipped layers",
        "Stable Diffusion 3",
        blocks("StableDiffusion3AutoBlocks", **skipping),
        call(text, **one_text),
    ),
    (
        "QwenImageModularPipeline",
        "Qwen-Image",
        blocks("QwenImageAutoBlocks", WORDLESS, **qwen),
        call(qwen_image.prompt),
    ),
    (
        "QwenImageModularPipeline image",
        "Qwen-Image",
        blocks("QwenImageAutoBlocks", WORDLESS, **qwen),
        call(qwen_image.prompt, image, strength=0.7),
    ),
    (
        "QwenImageModularPipeline ControlNet",
        "Qwen-Image",
        blocks("QwenImageAutoBlocks", WORDLESS, **qwen_controlled),
        call(qwen_image.prompt, control),
    ),
    ("ZImageModularPipeline", "Z-Image", blocks("ZImageAutoBlocks", WORDLESS, **zed), call(z_image.prompt)),
    (
        "ZImageModularPipeline image",
        "Z-Image",
        blocks("ZImageAutoBlocks", WORDLESS, **zed),
        call(z_image.prompt, image),
    ),
    ("Flux2ModularPipeline", "Flux 2", blocks("Flux2AutoBlocks", WORDLESS, **two), call(half)),
    (
        "Flux2KleinModularPipeline",
        "Flux 2",
        blocks("Flux2KleinBaseAutoBlocks", WORDLESS, **small),
        call(embeddings(32)),
    ),
    ("Krea2ModularPipeline", "Krea 2", blocks("Krea2AutoBlocks", WORDLESS, **creative), call(layered)),
    ("ErnieImageModularPipeline", "Ernie-Image", blocks("ErnieImageAutoBlocks", SPEECHLESS, **earnest), call(listed)),
):
    add(name, family, made, lambda n, arguments=arguments: PLANES | arguments(n), modular=True)

# Wan

unipc = partial(diffusers.UniPCMultistepScheduler, **wan.UNIPC)
film: dict[str, Any] = {"transformer": wan.network, "vae": wan.vae, "scheduler": unipc, "guider": guider()}
double = film | {"transformer_2": wan.network, "guider_2": guider(guidance_scale=2.0)}
played = call(embeddings(wan.TEXT), output="videos", **wan.SIZE)
add("WanModularPipeline", "Wan", blocks("WanBlocks", WORDLESS, **film), played, modular=True)
add("Wan22ModularPipeline", "Wan", blocks("Wan22Blocks", WORDLESS, **double), played, modular=True)
