"""Stable Diffusion with more than text to steer it: ControlNets, adapters, perturbed attention, LoRA."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch

from ._parts import alive, randn, seeded
from ._unets import controlnet, mask, picture, schedule, simple, text, unet

shelve = partial(simple, "Stable Diffusion")
ddim = partial(schedule, diffusers.DDIMScheduler, clip_sample=False, set_alpha_to_one=False)
edges = partial(picture, seed=6)


def two(**config: Any) -> list[Any]:
    """Two ControlNets, the second one with other weights."""
    other = controlnet(**config)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.1
    return [controlnet(**config), other]


def adapter(**config: Any) -> Any:
    """A T2I adapter for the small UNet."""
    shape = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 2}
    return alive(seeded(diffusers.T2IAdapter, **(shape | config)))


def with_image_prompt() -> Any:
    """The UNet with an IP-Adapter in it."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

    network = unet()
    processors = dict(network.attn_processors)
    for name in [each for each in processors if "attn2" in each]:
        width = network.get_submodule(name.removesuffix(".processor")).to_q.in_features
        processors[name] = seeded(
            IPAdapterAttnProcessor2_0, hidden_size=width, cross_attention_dim=16, num_tokens=(4,), scale=[1.0]
        )
    network.set_attn_processor(processors)
    projection = seeded(ImageProjection, image_embed_dim=16, cross_attention_dim=16, num_image_text_embeds=4)
    network.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    network.register_to_config(encoder_hid_dim_type="ip_image_proj")
    return network


def with_lora() -> Any:
    """The UNet with a LoRA in it, whose weights are not zero."""
    from peft import LoraConfig

    network = unet()
    torch.manual_seed(1)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    network.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=targets))
    return network.eval()


SINGLE = {"controlnet": controlnet}
drawn = {"image": edges}
shelve("StableDiffusionControlNetPipeline", partial(text, **drawn), **SINGLE)
shelve("StableDiffusionControlNetPipeline", partial(text, **drawn), "DDIM", scheduler=ddim, **SINGLE)
shelve("StableDiffusionControlNetPipeline", partial(text, **drawn, guess_mode=True), "guess mode", **SINGLE)
part = {"control_guidance_start": 0.2, "control_guidance_end": 0.7}
shelve("StableDiffusionControlNetPipeline", partial(text, **drawn, **part), "part of the way", **SINGLE)
both = partial(text, image=lambda n: [edges(n), picture(n, seed=7)], controlnet_conditioning_scale=[1.0, 0.5])
shelve("StableDiffusionControlNetPipeline", both, "two ControlNets", controlnet=two)
redrawn = partial(text, image=picture, control_image=edges)
shelve("StableDiffusionControlNetImg2ImgPipeline", redrawn, **SINGLE)
painted = partial(redrawn, mask_image=mask)
shelve("StableDiffusionControlNetInpaintPipeline", painted, "4 channels", **SINGLE)
shelve("StableDiffusionControlNetInpaintPipeline", painted, "9 channels", network={"in_channels": 9}, **SINGLE)

shelve("StableDiffusionPAGPipeline")
shelve("StableDiffusionPAGPipeline", partial(text, pag_adaptive_scale=0.01), "adaptive")
shelve("StableDiffusionPAGPipeline", partial(text, negative=False, guidance_scale=0.0), "without guidance")
shelve("StableDiffusionPAGImg2ImgPipeline", partial(text, image=picture))
shelve("StableDiffusionPAGInpaintPipeline", partial(text, image=picture, mask_image=mask))
shelve("StableDiffusionControlNetPAGPipeline", partial(text, **drawn), **SINGLE)
shelve("StableDiffusionControlNetPAGInpaintPipeline", painted, **SINGLE)

shelve("StableDiffusionAdapterPipeline", partial(text, **drawn), adapter=adapter)
shelve(
    "StableDiffusionPipeline",
    partial(text, ip_adapter_image_embeds=lambda n: [randn(2 * n, 1, 16, seed=19)]),
    "IP-Adapter",
    unet=with_image_prompt,
)
shelve("StableDiffusionPipeline", partial(text), "LoRA", unet=with_lora)
