"""Networks of published sizes with random weights, for device_curves.py: nothing is downloaded.

The settings are those that the published models come with. The networks whose names begin with ``tiny`` have the same
blocks with fewer channels and layers, for tests on a CPU.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from paraflowkit import registry
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.models.configs import DigitsConfig, NetworkConfig
from paraflowkit.models.diffusers.network import DiffusersModel
from paraflowkit.models.diffusers.prompts import Encoded, Wish
from paraflowkit.models.diffusers.schedule import read_schedule
from paraflowkit.models.digits.adapter import DigitsFlow
from paraflowkit.spacing import make_grid


@dataclass(frozen=True)
class Architecture:
    """A network and how it is sampled.

    Attributes:
        network: class in diffusers. config: its settings. size: height and width of the states.
        scheduler: of the published pipeline. text: shapes of the tensors of an encoded prompt, without a batch.
        stepper: of the solves. guidance: 1 where the network is not guided, or was distilled from a guided one.
        null_class: of a network with classes. shipped: the trained digits network of this repository.
    """

    network: str
    config: dict[str, Any]
    size: int
    scheduler: dict[str, Any]
    text: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stepper: str = "euler"
    guidance: float = 1.0
    null_class: int | None = None
    shipped: bool = False


# Stable Diffusion 2, the version for images of 768 × 768 pixels, which predicts v.
_SD2 = {
    "sample_size": 96,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_VP = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
# FLUX.1-dev. It was distilled from guided samples, so a sample is one row.
_FLUX = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
_SHIFTED = {**_FLOW, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}

_TEXT, _POOLED = "encoder_hidden_states", "pooled_projections"
_SD3_TEXT = {_TEXT: (77 + 256, 4096), _POOLED: (2048,)}  # tokens of CLIP, and of T5
_FLUX_TEXT = {_TEXT: (512, 4096), _POOLED: (768,)}

_TINY_SD2 = {
    **_SD2,
    "sample_size": 16,
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": (1, 1, 2, 2),
    "cross_attention_dim": 16,
}
_TINY_SD3 = {
    **_SD3,
    "sample_size": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 16,
    "pos_embed_max_size": 8,
}
_TINY_FLUX = {
    **_FLUX,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 4, 8),
}
_TINY_DIGITS = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "num_class_embeds": 11,
}
_TINY_TEXT = {_TEXT: (5, 16), _POOLED: (16,)}

_UNET, _SD3_NET, _FLUX_NET = "UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel"
#: By name. The size of states is in the name where there are several; 128 × 128 are 1024 × 1024 pixels.
ARCHITECTURES = {
    "digits": Architecture("UNet2DModel", {}, 16, _FLOW, guidance=3.0, shipped=True),
    "sd2": Architecture(_UNET, _SD2, 96, _VP, {_TEXT: (77, 1024)}, stepper="ddim", guidance=7.5),
    "sd3-medium": Architecture(_SD3_NET, _SD3, 128, _FLOW, _SD3_TEXT, guidance=7.0),
    "sd3-medium-64": Architecture(_SD3_NET, _SD3, 64, _FLOW, _SD3_TEXT, guidance=7.0),
    "flux": Architecture(_FLUX_NET, _FLUX, 128, _SHIFTED, _FLUX_TEXT),
    "flux-64": Architecture(_FLUX_NET, _FLUX, 64, _SHIFTED, _FLUX_TEXT),
    "tiny-digits": Architecture("UNet2DModel", _TINY_DIGITS, 16, _FLOW, guidance=3.0, null_class=10),
    "tiny-sd2": Architecture(_UNET, _TINY_SD2, 16, _VP, {_TEXT: (5, 16)}, stepper="ddim", guidance=7.5),
    "tiny-sd3-medium": Architecture(_SD3_NET, _TINY_SD3, 8, _FLOW, _TINY_TEXT, guidance=7.0),
    "tiny-flux": Architecture(_FLUX_NET, _TINY_FLUX, 8, _SHIFTED, _TINY_TEXT),
}


class Untrained(DiffusersModel):
    """A network whose prompts are encoded as random numbers, for there is no text encoder."""

    def __init__(self, network: Any, a: Architecture, name: str) -> None:
        config = NetworkConfig(folder=name, height=a.size, width=a.size)
        super().__init__(network, read_schedule(a.scheduler, name), config, name, null_class=a.null_class)
        self.shapes = a.text

    @property
    def encodes(self) -> bool:
        return True

    def encode(self, wish: Wish) -> Encoded:
        weights, generator = next(self.network.parameters()), torch.Generator().manual_seed(int(wish.negative))
        return {name: torch.randn(shape, generator=generator).to(weights) for name, shape in self.shapes.items()}


@contextmanager
def _making(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New tensors are made on the device in the precision, so that the host never holds a large network."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)


def make_network(a: Architecture, device: torch.device, dtype: torch.dtype) -> Any:
    """The network with random weights; on the device ``meta`` without any."""
    import diffusers

    with _making(device, dtype):
        network = getattr(diffusers, a.network)(**a.config)
    # What was made in another precision all the same, such as tables of positions. Diffusers' own `to` warns of modules
    # to be kept in float32 even where there are none.
    return torch.nn.Module.to(network, device=device, dtype=dtype).eval().requires_grad_(False)


class Loaded:
    """A model on a device, whose network may be exchanged for its compiled self, with the same weights.

    Attributes:
        name, a: the architecture. model, parameters: and their number. problem: one sample on N steps.
        networks: by mode, ``eager`` and, where it was asked for, ``compiled``.
    """

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype, steps: int) -> None:
        self.name, self.a = name, ARCHITECTURES[name]
        if self.a.shipped:
            self.model: VelocityModel = DigitsFlow(DigitsConfig()).to(device=device, dtype=dtype)
        else:
            self.model = Untrained(make_network(self.a, device, dtype), self.a, name).eval()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self._place = "unet" if self.a.shipped else "network"
        self.networks: dict[str, Any] = {"eager": getattr(self.model, self._place)}
        self.problem = self._problem(device, dtype, steps)

    def compile(self, backend: str) -> None:
        """Add the mode ``compiled``, in which every number of rows is compiled for itself."""
        self.networks["compiled"] = torch.compile(self.networks["eager"], dynamic=False, backend=backend)

    def use(self, mode: str) -> None:
        """Let the model call the network of that mode."""
        setattr(self.model, self._place, self.networks[mode])

    def _problem(self, device: torch.device, dtype: torch.dtype, steps: int) -> Problem:
        """One sample; states are float32, and are cast on their way into the network, which times never are."""
        model, a = self.model, self.a
        stepper = registry.get("stepper", a.stepper)(registry.config_class("stepper", a.stepper)())
        grid = make_grid(model.noise, steps, **model.grid_settings(steps))
        times = stepper.nodes(grid, model.noise).t.to(device)

        def evaluate(x: torch.Tensor, node: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
            return model(x.to(dtype), times[node], cond).to(x.dtype)

        shown: dict[str, Any] = {"prompts": ["a prompt"]} if a.text else {"classes": [0]}
        return make_problem(
            model, stepper, grid, [1000], guidance=a.guidance, device=device, evaluate=evaluate, **shown
        )


def clear(device: torch.device) -> None:
    """Give the memory of what is no longer used back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def exhausted(error: Exception) -> bool:
    """Whether it means that memory was exhausted; a compiler may have wrapped it."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


@contextmanager
def many_shapes() -> Iterator[None]:
    """torch.compile gives up after a few recompilations; here each number of rows is one."""
    from torch._dynamo import config

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    torch.compiler.reset()
    try:
        with config.patch(**{limit: 256}):
            yield
    finally:
        torch.compiler.reset()
