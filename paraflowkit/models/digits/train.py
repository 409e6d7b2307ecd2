"""Training of the shipped digit networks, on devices that a Lightning Fabric provides.

Flow matching regresses the velocity of the straight path between noise and data [1]; the VP network regresses the
noise of the discrete DDPM process [2]. Labels are dropped at random for classifier-free guidance [3]; the weights that
are saved are an exponential moving average.

[1] Lipman et al., Flow Matching for Generative Modeling, ICLR 2023. [2] Ho et al., Denoising Diffusion Probabilistic
Models, NeurIPS 2020. [3] Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from paraflowkit.models.digits.data import CLASSES, SIZE, jitter, load_digits

if TYPE_CHECKING:
    from lightning.fabric import Fabric

#: Constructor arguments of the U-Net, in diffusers' words.
ARCHITECTURE: dict[str, Any] = {
    "sample_size": SIZE,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (24, 48, 64),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 8,
    "attention_head_dim": 16,
    "num_class_embeds": CLASSES + 1,
}


@dataclass(frozen=True)
class TrainSettings:
    """What a training run depends on.

    Attributes:
        process: ``flow`` (velocity) or ``vp`` (noise of a 1000-step DDPM process, linear betas).
        steps, batch: optimiser steps and images in each. learning_rate: its peak, reached after 5 % of the steps and
            falling to zero as a cosine. ema: decay of the weight average. drop: share of labels replaced by the null
            class. seed: of initial weights, batches, times and noise.
    """

    process: Literal["flow", "vp"]
    steps: int = 5000
    batch: int = 64
    learning_rate: float = 2e-3
    ema: float = 0.998
    drop: float = 0.15
    seed: int = 0


def make_scheduler(process: str) -> Any:
    """The diffusers scheduler whose configuration is saved beside the network."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    if process == "flow":
        return FlowMatchEulerDiscreteScheduler()
    return DDIMScheduler(clip_sample=False, timestep_spacing="trailing")


def make_network() -> Any:
    """A fresh U-Net of the shipped architecture."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    return UNet2DModel(**ARCHITECTURE)


def training_pair(process: str, data: Tensor, noise: Tensor, u: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy input, timestep as the network sees it, and regression target, for uniform draws ``u`` (n,)."""
    if process == "flow":
        sigma = u.view(-1, 1, 1, 1)
        return (1 - sigma) * data + sigma * noise, u * 1000, noise - data
    step = (u * len(betas)).long().clamp(max=len(betas) - 1)
    alpha = (1 - betas).cumprod(0)[step].view(-1, 1, 1, 1)
    return alpha.sqrt() * data + (1 - alpha).sqrt() * noise, step.float(), noise


def train(
    fabric: Fabric, settings: TrainSettings, folder: Path, log: Callable[[str], None] = print, log_every: int = 250
) -> float:
    """Train one network and save it with its scheduler, in diffusers' folder format.

    Args:
        fabric: a launched Fabric; with several devices each takes ``batch / world_size`` of the images.
        settings: see :class:`TrainSettings`.
        folder: receives ``unet/``, ``scheduler/`` and ``training.json``.
        log: called with a line of progress every ``log_every`` steps.

    Returns:
        The mean loss of the last ``log_every`` steps.

    Raises:
        FloatingPointError: the loss is no longer finite; a smaller learning rate is the usual remedy.
    """
    torch.manual_seed(settings.seed)
    network = make_network()
    average = make_network()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    module, opt = fabric.setup(network, optimizer)
    average.to(fabric.device)
    scheduler = make_scheduler(settings.process)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).float()
    (images, labels), _ = load_digits()
    draw = torch.Generator().manual_seed(settings.seed * 1009 + fabric.global_rank)
    batch = max(1, settings.batch // fabric.world_size)
    warm = max(1, settings.steps // 20)
    losses: list[float] = []
    for step in range(settings.steps):
        done = step / settings.steps
        scale = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * scale
        pick = torch.randint(len(images), (batch,), generator=draw)
        data = jitter(images[pick], draw, degrees=6, shift=0.5, scale=0.05)
        label = torch.where(torch.rand(batch, generator=draw) < settings.drop, CLASSES, labels[pick])
        noise = torch.randn(data.shape, generator=draw)
        # Stratified times: one draw in each of `batch` equal cells, which lowers the variance of the loss.
        u = (torch.arange(batch) + torch.rand(batch, generator=draw)) / batch
        x, t, target = (fabric.to_device(v) for v in training_pair(settings.process, data, noise, u, betas))
        loss = (module(x, t, class_labels=fabric.to_device(label)).sample - target).square().mean()
        opt.zero_grad()
        fabric.backward(loss)
        fabric.clip_gradients(module, opt, max_norm=1.0)
        opt.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"The loss of step {step} is not finite. Try a smaller learning rate.")
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        if (step + 1) % log_every == 0 or step + 1 == settings.steps:
            recent = losses[-log_every:]
            log(f"{settings.process}: step {step + 1}/{settings.steps}, loss {sum(recent) / len(recent):.4f}")
    recent = losses[-log_every:]
    if fabric.is_global_zero:
        average.save_pretrained(folder / "unet", safe_serialization=True)
        scheduler.save_pretrained(folder / "scheduler")
        note = {**asdict(settings), "images": len(images), "final_loss": sum(recent) / len(recent)}
        (folder / "training.json").write_text(json.dumps(note, indent=2) + "\n")
    fabric.barrier()
    return sum(recent) / len(recent)
