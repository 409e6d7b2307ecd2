"""The shipped digit networks as models: they load a folder in diffusers' format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.data import CLASSES, DATA_STD, SIZE
from paraflowkit.noise import VP, FlowMatching, NoiseSchedule
from paraflowkit.prediction import Prediction

KINDS = {"epsilon": Prediction.NOISE, "sample": Prediction.DATA, "v_prediction": Prediction.V}
#: Where the shipped folders lie.
WEIGHTS = Path(__file__).parent / "weights"


def _read_scheduler(folder: Path) -> dict[str, Any]:
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file() or not (folder / "unet").is_dir():
        raise ParaflowkitError(
            f"{folder} is no folder of a trained digits network: it must hold unet/ and scheduler/, "
            "as 'paraflowkit train-digits' writes them."
        )
    return json.loads(path.read_text())


class _Digits(VelocityModel):
    """What the two networks share: loading, classes and the call."""

    config_cls = DigitsConfig
    shape = (1, SIZE, SIZE)
    data_std = DATA_STD
    default: str
    scheduler_class: str

    def __init__(self, config: DigitsConfig) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d import UNet2DModel

        self.config = config
        folder = WEIGHTS / self.default if config.folder is None else Path(config.folder)
        scheduler = _read_scheduler(folder)
        if scheduler.get("_class_name") != self.scheduler_class:
            raise ParaflowkitError(
                f"{folder} holds a network for {scheduler.get('_class_name')}, but {self.default} wants "
                f"{self.scheduler_class}: use the other digits model."
            )
        self.noise = self.schedule(scheduler)
        # use_safetensors refuses pickled weights; local_files_only refuses the network.
        self.unet: Any = UNet2DModel.from_pretrained(
            folder / "unet", use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
        self.unet.eval().requires_grad_(False)

    def schedule(self, scheduler: dict[str, Any]) -> NoiseSchedule:
        """The process described by a scheduler's configuration."""
        raise NotImplementedError

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Tensor | None:
        if any(p is not None for p in prompts):
            raise ValueError("The digits networks understand 'classes', not 'prompts'.")
        for c in classes:
            if c is not None and not 0 <= c < CLASSES:
                raise ValueError(f"Class {c} does not exist: the digits are 0 … {CLASSES - 1}.")
        return torch.tensor([CLASSES if c is None else c for c in classes])

    def null_condition(self, cond: Tensor) -> Tensor:
        return torch.full_like(cond, CLASSES)

    def call(self, x: Tensor, timestep: Tensor, cond: Tensor | None) -> Tensor:
        """The U-Net at timesteps in diffusers' count; without a condition, its null class."""
        if cond is None:
            cond = torch.full((len(x),), CLASSES, device=x.device)
        # The network embeds its timestep in float32 whatever the precision of x; float64 stays float64.
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return self.unet(x, timestep.to(wide), class_labels=cond).sample


class DigitsFlow(_Digits):
    """Class-conditional flow-matching network of 16x16 digits.

    The network is trained in diffusers' convention, time from 1 (noise) to 0 and velocity noise - data, so that its
    folder works with FlowMatchEulerDiscreteScheduler; the signs are turned here.
    """

    default = "digits-flow"
    scheduler_class = "FlowMatchEulerDiscreteScheduler"
    prediction = Prediction.VELOCITY

    def schedule(self, scheduler: dict[str, Any]) -> NoiseSchedule:
        return FlowMatching()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return -self.call(x, (1 - t) * 1000, cond)


class DigitsVP(_Digits):
    """Class-conditional noise-prediction network of 16x16 digits, 1000 DDPM steps.

    A folder of one's own may hold a network that predicts something else: its scheduler's configuration says so.
    """

    default = "digits-vp"
    scheduler_class = "DDIMScheduler"
    prediction = Prediction.NOISE

    def schedule(self, scheduler: dict[str, Any]) -> NoiseSchedule:
        names = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
        kind = scheduler["beta_schedule"]
        if kind not in names:
            raise ParaflowkitError(f"Beta schedule {kind!r} is not supported: use one of {', '.join(names)}.")
        if scheduler.get("trained_betas") is not None:
            raise ParaflowkitError("A scheduler with trained_betas is not supported: describe them by beta_schedule.")
        self.prediction = KINDS[scheduler.get("prediction_type", "epsilon")]
        return VP(
            schedule=names[kind],
            steps=scheduler["num_train_timesteps"],
            beta_start=scheduler["beta_start"],
            beta_end=scheduler["beta_end"],
            final_alpha_one=scheduler["set_alpha_to_one"],
            zero_terminal_snr=scheduler.get("rescale_betas_zero_snr", False),
        )

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return self.call(x, t, cond)
