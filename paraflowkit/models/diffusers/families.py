"""The families of networks: what each is told beside state and time, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from paraflowkit.errors import ParaflowkitError


@dataclass(frozen=True)
class Call:
    """Rows for a network.

    Attributes:
        network: of diffusers. x: states ``(rows, channels, h, w)`` of the network's dtype.
        timestep: ``(rows,)``, in diffusers' count. tensors: ``(rows, …)``, of the rows' prompts or classes.
        guidance: told to networks that were distilled from guided ones. pixels: height and width of the image.
    """

    network: Any
    x: Tensor
    timestep: Tensor
    tensors: dict[str, Tensor]
    guidance: float
    pixels: tuple[int, int]


@dataclass(frozen=True)
class Family:
    """How the networks of a class are used.

    Attributes:
        wants: what a sample's condition is made of. call: evaluates rows.
        kind: the model adapter of the network. names: tensors of an encoded prompt. packed: 2 × 2 pixels of a state are
            one token of the network. listed: the pipeline lists a flow's levels itself.
    """

    wants: Literal["nothing", "classes", "prompts"]
    call: Callable[[Call], Tensor]
    kind: Literal["diffusers-unet", "diffusers-transformer"]
    names: tuple[str, ...] = ()
    packed: bool = False
    listed: bool = False


def _unet(c: Call) -> Tensor:
    return c.network(c.x, c.timestep, class_labels=c.tensors.get("class_labels"), return_dict=False)[0]


def _unet_condition(c: Call) -> Tensor:
    added = {name: c.tensors[name] for name in ("text_embeds", "time_ids") if name in c.tensors}
    text = c.tensors["encoder_hidden_states"]
    return c.network(c.x, c.timestep, text, added_cond_kwargs=added or None, return_dict=False)[0]


def _sd3(c: Call) -> Tensor:
    return c.network(hidden_states=c.x, timestep=c.timestep, **c.tensors, return_dict=False)[0]


def _dit(c: Call) -> Tensor:
    return c.network(c.x, timestep=c.timestep, class_labels=c.tensors["class_labels"], return_dict=False)[0]


def _pixart(c: Call) -> Tensor:
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if c.network.config.sample_size == 128:  # the one size whose networks are told it, as in the pipeline
        height, width = c.pixels
        sizes["resolution"] = c.x.new_tensor([[height, width]]).repeat(len(c.x), 1)
        sizes["aspect_ratio"] = c.x.new_tensor([[height / width]]).repeat(len(c.x), 1)
    return c.network(
        c.x,
        encoder_hidden_states=c.tensors["encoder_hidden_states"],
        encoder_attention_mask=c.tensors["encoder_attention_mask"],
        timestep=c.timestep,
        added_cond_kwargs=sizes,
        return_dict=False,
    )[0]


def pack(x: Tensor) -> Tensor:
    """``(rows, c, h, w)`` as tokens ``(rows, h w / 4, 4 c)``: 2 × 2 pixels each, as Flux's networks take them."""
    rows, channels, height, width = x.shape
    x = x.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(rows, (height // 2) * (width // 2), 4 * channels)


def unpack(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack`."""
    rows, _, channels = x.shape
    x = x.view(rows, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(rows, channels // 4, height, width)


def _flux(c: Call) -> Tensor:
    height, width = c.x.shape[-2:]
    text = c.tensors["encoder_hidden_states"]
    places = torch.zeros(height // 2, width // 2, 3, device=c.x.device, dtype=c.x.dtype)
    places[..., 1] += torch.arange(height // 2, device=c.x.device)[:, None]
    places[..., 2] += torch.arange(width // 2, device=c.x.device)[None]
    guided = c.network.config.guidance_embeds
    out = c.network(
        hidden_states=pack(c.x),
        timestep=c.timestep / 1000,
        guidance=torch.full((len(c.x),), c.guidance, device=c.x.device) if guided else None,
        pooled_projections=c.tensors["pooled_projections"],
        encoder_hidden_states=text,
        txt_ids=text.new_zeros(text.shape[1], 3),
        img_ids=places.view(-1, 3),
        return_dict=False,
    )[0]
    return unpack(out, height, width)


_TEXT = ("encoder_hidden_states",)
_UNET = Family("nothing", _unet, "diffusers-unet")
#: Class of the network -> its family.
FAMILIES = {
    "UNet2DModel": _UNET,
    "UNet2DConditionModel": Family("prompts", _unet_condition, "diffusers-unet", _TEXT),
    "SD3Transformer2DModel": Family("prompts", _sd3, "diffusers-transformer", (*_TEXT, "pooled_projections")),
    "FluxTransformer2DModel": Family(
        "prompts", _flux, "diffusers-transformer", (*_TEXT, "pooled_projections"), packed=True, listed=True
    ),
    "PixArtTransformer2DModel": Family("prompts", _pixart, "diffusers-transformer", (*_TEXT, "encoder_attention_mask")),
    "DiTTransformer2DModel": Family("classes", _dit, "diffusers-transformer"),
}


def family_of(network: Any, where: str) -> Family:
    """The family of a network.

    Raises:
        ParaflowkitError: it is of none, or an unusual member that wants more than its family is told.
    """
    name, c = type(network).__name__, network.config
    elsewhere = "paraflowkit.enable(pipe) accelerates such a pipeline inside its own loop."
    if name not in FAMILIES:
        raise ParaflowkitError(f"{where}: a {name} is none of {', '.join(FAMILIES)}: {elsewhere}")
    family = FAMILIES[name]
    if name == "UNet2DModel":
        classes = c.get("num_class_embeds") is not None or c.get("class_embed_type") is not None
        family = Family("classes", _unet, "diffusers-unet") if classes else _UNET
        if classes and c.get("num_class_embeds") is None:
            raise ParaflowkitError(f"{where}: class_embed_type {c['class_embed_type']!r} is not known: {elsewhere}")
    elif name == "UNet2DConditionModel":
        unknown = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
        odd = [key for key in unknown if c.get(key) is not None]
        if odd or c.get("addition_embed_type") not in (None, "text_time"):
            key = odd[0] if odd else "addition_embed_type"
            raise ParaflowkitError(f"{where}: the UNet has {key} {c[key]!r}, which is not known: {elsewhere}")
        if c.get("addition_embed_type") == "text_time":
            names = (*_TEXT, "text_embeds", "time_ids")
            family = Family("prompts", _unet_condition, "diffusers-unet", names)
    channels, out = c["in_channels"], c.get("out_channels") or c["in_channels"]
    if out not in (channels, 2 * channels):
        raise ParaflowkitError(
            f"{where}: the network takes {channels} channels and gives {out}, so it wants a picture or a mask beside "
            f"the state: {elsewhere}"
        )
    return family
