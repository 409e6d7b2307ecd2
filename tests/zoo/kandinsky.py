"""Kandinsky 2.1, 2.2 and 3: priors that find an image embedding, decoders that draw it."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, VQModel

from . import add
from ._parts import alive, assemble, clip_tokenizer, picture, randn, seeded, tokenizer
from ._unets import clip_projected, clip_vision, lively, prior, schedule, unclip, unet, vae
from ._unets import picture as pictures
from .unets import PIXELS

OURS = {"in_channels": 4, "out_channels": 8, "encoder_hid_dim_type": "image_proj", "addition_embed_type": "image"}
FIRST = {"encoder_hid_dim_type": "text_image_proj", "addition_embed_type": "text_image"}
learned = partial(schedule, DDPMScheduler, beta_schedule="linear", clip_sample=False, variance_type="learned_range")
deterministic = partial(schedule, DDIMScheduler, beta_schedule="linear", clip_sample=False)


def movq() -> Any:
    """The autoencoder of Kandinsky, which bears the large latents of an untrained denoiser."""
    from diffusers.models.attention_processor import SpatialNorm

    made = vae(VQModel, num_vq_embeddings=16, vq_embed_dim=4, norm_type="spatial", block_out_channels=(32, 32))
    with torch.no_grad():
        for norm in made.modules():
            if isinstance(norm, SpatialNorm):
                norm.conv_y.weight *= 0.1
                norm.conv_b.weight *= 0.1
    return made


def drawer(name: str, scheduler: Any = learned, network: dict[str, Any] | None = None, **more: Any) -> Any:
    """A pipeline that draws an image embedding."""
    network = PIXELS | OURS | (network or {})
    parts = {"unet": unet(**network), "movq": movq(), "scheduler": scheduler()}
    return assemble(getattr(diffusers, name), **parts, **{key: make() for key, make in more.items()})


def embedded(n: int, **more: Any) -> dict[str, Any]:
    """Image embeddings to draw; callables take the number of prompts."""
    made = {"image_embeds": randn(n, 16, seed=11), "negative_image_embeds": randn(n, 16, seed=17)}
    made |= {"num_inference_steps": 6, "output_type": "np", "height": 16, "width": 16}
    return made | {key: value(n) if callable(value) else value for key, value in more.items()}


def photos(n: int) -> list[Any]:
    """PIL images, which is all that these pipelines take."""
    return [picture(16, seed=seed) for seed in range(n)]


def hints(n: int) -> torch.Tensor:
    """Depth maps, eight times as large as the latents."""
    return pictures(n, size=64)


def half(n: int) -> Any:
    """A mask whose right half is to be painted."""
    import numpy as np

    made = np.zeros((16, 16), dtype=np.float32)
    made[:, 8:] = 1
    return [made] * n if n > 1 else made


def shelve(task: str, call: Any, special: str = "", **how: Any) -> None:
    """Add a pipeline of Kandinsky 2.2."""
    name = f"KandinskyV22{task}Pipeline"
    prompts = {"prompts": how.pop("prompts")} if "prompts" in how else {}
    add(f"{name} {special}".strip(), "Kandinsky 2.2", partial(drawer, name, **how), call, **prompts)


shelve("", embedded)
shelve("", embedded, "DDIM", scheduler=deterministic)
shelve("Img2Img", partial(embedded, image=photos, strength=0.8))
shelve("Inpaint", partial(embedded, image=photos, mask_image=half), network={"in_channels": 9})
hinted = {"in_channels": 8, "addition_embed_type": "image_hint"}
shelve("Controlnet", partial(embedded, hint=hints), network=hinted)
shelve("ControlnetImg2Img", partial(embedded, hint=hints, image=photos, strength=0.8), network=hinted)


def prior_parts() -> dict[str, Any]:
    """What a prior consists of."""
    parts = {"prior": prior, "image_encoder": clip_vision, "text_encoder": clip_projected, "tokenizer": clip_tokenizer}
    return {name: make() for name, make in parts.items()} | {"scheduler": unclip()}


def prior_pipeline(name: str) -> Any:
    """A pipeline that finds image embeddings."""
    return assemble(getattr(diffusers, name), **prior_parts())


def described(n: int, **more: Any) -> dict[str, Any]:
    """Prompts in words."""
    made = {"prompt": ["a cat", "the dog"][:n], "num_inference_steps": 6}
    return made | {key: value(n) if callable(value) else value for key, value in more.items()}


def combined(task: str, network: dict[str, Any] | None = None) -> Any:
    """A prior and a drawer in one pipeline."""
    parts = {f"prior_{name}": lambda part=part: part for name, part in prior_parts().items()}
    return drawer(f"KandinskyV22{task}CombinedPipeline", network=network, **parts)


start = partial(described, image=lambda n: randn(n, 16, seed=23), strength=0.8)
for version in ("V22", ""):
    family = "Kandinsky 2.2" if version else "Kandinsky 2.1"
    name = f"Kandinsky{version}PriorPipeline"
    add(name, family, partial(prior_pipeline, name), partial(described, output_type="np"))
name = "KandinskyV22PriorEmb2EmbPipeline"
add(name, "Kandinsky 2.2", partial(prior_pipeline, name), partial(start, output_type="np"))
both = partial(described, prior_num_inference_steps=6, output_type="np", height=16, width=16)
add("KandinskyV22CombinedPipeline", "Kandinsky 2.2", partial(combined, ""), both)
redrawn = partial(both, image=photos, strength=0.8)
add("KandinskyV22Img2ImgCombinedPipeline", "Kandinsky 2.2", partial(combined, "Img2Img"), redrawn)
painted = partial(both, image=photos, mask_image=half)
inpaint = partial(combined, "Inpaint", {"in_channels": 9})
add("KandinskyV22InpaintCombinedPipeline", "Kandinsky 2.2", inpaint, painted)


def multilingual() -> Any:
    """The text encoder of Kandinsky 2.1."""
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    torch.manual_seed(0)
    config = MCLIPConfig(16, 16, vocab_size=32, max_position_embeddings=80, pad_token_id=0, **sizes)
    return alive(MultilingualCLIP(config).eval())


def first(name: str, scheduler: Any, **network: Any) -> Any:
    """A drawer of Kandinsky 2.1."""
    parts = {"text_encoder": multilingual, "tokenizer": partial(tokenizer, 77)}
    return drawer(name, scheduler, FIRST | network, **parts)


told = partial(embedded, prompt=lambda n: ["a red cat", "two blue boats"][:n])
clipped = partial(learned, thresholding=True)
add("KandinskyPipeline", "Kandinsky 2.1", partial(first, "KandinskyPipeline", clipped), told)
redrawn = partial(told, image=photos, strength=0.8)
add("KandinskyImg2ImgPipeline", "Kandinsky 2.1", partial(first, "KandinskyImg2ImgPipeline", deterministic), redrawn)
inpaint = partial(first, "KandinskyInpaintPipeline", deterministic, in_channels=9)
add("KandinskyInpaintPipeline", "Kandinsky 2.1", inpaint, partial(told, image=photos, mask_image=half))


def third(name: str) -> Any:
    """A pipeline of Kandinsky 3."""
    sizes = {"time_embedding_dim": 16, "groups": 4, "attention_head_dim": 8, "layers_per_block": 2}
    sizes |= {"block_out_channels": (16, 16), "cross_attention_dim": 16, "encoder_hid_dim": 16}
    network = lively(alive(seeded(diffusers.Kandinsky3UNet, **sizes)))
    return assemble(getattr(diffusers, name), unet=network, movq=movq(), scheduler=squared())


def squared() -> Any:
    """The scheduler of Kandinsky 3."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True, thresholding=False, clip_sample_range=3.0)


def masked(n: int, **more: Any) -> dict[str, Any]:
    """Prompt embeddings with masks: the second prompt and the negative ones are shorter."""
    lengths = torch.tensor([7, 5][:n])[:, None]
    made = {"prompt_embeds": randn(n, 7, 16, seed=11), "negative_prompt_embeds": randn(n, 7, 16, seed=17)}
    made["attention_mask"] = (torch.arange(7) < lengths).long()
    made["negative_attention_mask"] = (torch.arange(7) < 3).long().expand(n, 7).clone()
    made |= {key: value(n) if callable(value) else value for key, value in more.items()}
    return made | {"num_inference_steps": 6, "output_type": "np"}


plain = partial(masked, height=64, width=64)
add("Kandinsky3Pipeline", "Kandinsky 3", partial(third, "Kandinsky3Pipeline"), plain)
painted = partial(masked, image=pictures, strength=0.8)
add("Kandinsky3Img2ImgPipeline", "Kandinsky 3", partial(third, "Kandinsky3Img2ImgPipeline"), painted)
