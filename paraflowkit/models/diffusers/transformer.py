"""The model ``diffusers-transformer``."""

from __future__ import annotations

from paraflowkit.models.diffusers.unet import NetworkModel


class DiffusersTransformer(NetworkModel):
    """The transformers of Stable Diffusion 3, Flux, PixArt and DiT, with the process of the scheduler beside them.

    States of Flux are latents ``(16, h, w)``; they are packed to tokens on their way into the network.
    """

    kind = "diffusers-transformer"
