"""The autoencoder: 64×64 images to 16×16 latents of four channels.

Reconstruction (absolute error of the image and of its differences between neighbours, so that edges stay sharp) with
a light pull of the latents towards a unit normal [1]. Most steps see crops around the objects, the last ones whole
images, whose group statistics are those of later use.

[1] Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraflowkit_scenes.draw import SIZE, Picture
from paraflowkit_scenes.training.batches import batch, generator
from paraflowkit_scenes.training.loop import Run, Settings

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SETTINGS = Settings(steps=1800, batch=48, learning_rate=2e-3, ema=0.995)
CROP = 32
KL = 1e-4

ARCHITECTURE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": SIZE,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def make_vae() -> Any:
    """A fresh autoencoder of the shipped architecture."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL(**ARCHITECTURE)


def crops(images: Tensor, pictures: list[Picture], draw: torch.Generator) -> Tensor:
    """One square of side :data:`CROP` from each image, with the middle of one of its things somewhere inside."""
    made: list[Tensor] = []
    for image, picture in zip(images, pictures, strict=True):
        one = picture.placed[int(torch.randint(len(picture.placed), (), generator=draw))]
        shift = torch.rand(2, generator=draw) * CROP
        left = min(max(0, int(one.x - float(shift[0]))), SIZE - CROP)
        top = min(max(0, int(one.y - float(shift[1]))), SIZE - CROP)
        made.append(image[:, top : top + CROP, left : left + CROP])
    return torch.stack(made)


def reconstruction(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of the image plus that of its differences to the right and downwards."""
    off = made - wanted
    edges = off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    return off.abs().mean() + edges


def train(fabric: Fabric, folder: Path, settings: Settings = SETTINGS, **options: Any) -> Any:
    """Train the autoencoder; returns it with averaged weights, and its latents' statistics in its configuration."""
    torch.manual_seed(settings.seed)
    run = Run(fabric, make_vae(), settings, folder, adam=("conv_in", "conv_out"))
    vae = run.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    whole = int(settings.steps * 0.75)

    def loss(step: int) -> Tensor:
        draw = generator(settings.seed, step, fabric.global_rank)
        size = settings.batch if step < whole else settings.batch // 4
        images, pictures = batch(settings.seed, step, size, fabric.global_rank, fabric.world_size)
        images = crops(images, pictures, draw) if step < whole else images
        images = fabric.to_device(images).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(images).latent_dist
        noise = torch.randn(latents.mean.shape, generator=draw)
        sample = latents.mean + latents.std * fabric.to_device(noise)
        kl = 0.5 * (latents.mean.square() + latents.var - 1 - latents.logvar).mean()
        return reconstruction(vae.decode(sample).sample, images) + KL * kl

    run.fit(loss, **options)
    vae.load_state_dict(run.average)
    latents = encoded(fabric, vae, settings.seed + 1, 512)
    vae.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
    return vae.eval()


@torch.no_grad()
def encoded(fabric: Fabric, vae: Any, seed: int, count: int) -> Tensor:
    """Latents (count, 4, 16, 16) of fresh scenes, unscaled."""
    made: list[Tensor] = []
    for step in range(count // 32):
        images, _ = batch(seed, step, 32)
        made.append(vae.encode(fabric.to_device(images)).latent_dist.mean.cpu())
    return torch.cat(made)
