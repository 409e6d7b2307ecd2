"""The training loop of all networks here: Fabric, a weight average, and going on where it stopped."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from paraflowkit_scenes.training.optimizer import MuonAdamW

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Settings:
    """What a training run depends on.

    Attributes:
        steps: optimiser steps in all. A stopped run may go on with another number.
        batch: examples in a step, over all devices.
        learning_rate: the highest; reached after ``warmup`` steps, kept, and brought to zero linearly over the last
            ``cooldown`` share of the steps, so that a run can be prolonged until its cooldown begins.
        ema: decay of the weight average; it is shorter at the start.
        seed: of initial weights, scenes, times and noise.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    cooldown: float = 0.3
    weight_decay: float = 0.01
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup), left)


class Stopped(Exception):
    """Raised where a time limit ended the run before its last step; its state is saved."""


class Run:
    """The state of a training run: network, average and optimizer, kept in ``folder`` as safetensors.

    Args:
        fabric: a launched Fabric.
        network: initialised under ``settings.seed``.
        settings: see :class:`Settings`.
        folder: receives ``state.safetensors``. A state found there is gone on with.
        adam, dtype: see :class:`~paraflowkit_scenes.training.optimizer.MuonAdamW`.

    Attributes:
        step: how many are done. seconds: that they took, over all pieces. loss: the mean of the last ones logged.

    Raises:
        ValueError: the folder holds the state of a run with other settings.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        settings: Settings,
        folder: Path,
        adam: tuple[str, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.fabric, self.settings, self.folder = fabric, settings, folder
        self.network = fabric.to_device(network) or network
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimizer = MuonAdamW(
            self.network.named_parameters(),
            settings.learning_rate,
            settings.weight_decay,
            adam=adam,
            dtype=dtype,
        )
        self.step = 0
        self.seconds = 0.0
        self.loss = math.nan
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.safetensors").exists():
            self._load()

    def _fixed(self) -> str:
        return json.dumps({k: v for k, v in asdict(self.settings).items() if k not in ("steps", "cooldown")})

    def save(self) -> None:
        """Write the state, whole or not at all."""
        if not self.fabric.is_global_zero:
            return
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for parameter, state in self.optimizer.state.items():
            tensors |= {f"optimizer.{key}.{names[parameter]}": value for key, value in state.items()}
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        new = self.folder / "state.safetensors.new"
        save_file(tensors, new, {"step": str(self.step), "settings": self._fixed(), "seconds": str(self.seconds)})
        os.replace(new, self.folder / "state.safetensors")

    def _load(self) -> None:
        path = self.folder / "state.safetensors"
        with safe_open(path, "pt", device=str(self.fabric.device)) as held:
            notes = held.metadata()
            if notes["settings"] != self._fixed():
                raise ValueError(
                    f"{path}: the run there has other settings ({notes['settings']}, now {self._fixed()}). "
                    "Take another folder, or delete this one to begin anew."
                )
            tensors = {k: held.get_tensor(k) for k in held.keys()}  # noqa: SIM118 - a safe_open is no dict
        self.step, self.seconds = int(notes["step"]), float(notes.get("seconds", "0"))
        self.network.load_state_dict({k: tensors[f"network.{k}"] for k in self.network.state_dict()})
        self.average = {k: tensors[f"average.{k}"] for k in self.average}
        for name, parameter in self.network.named_parameters():
            for key in ("momentum", "first", "second", "count"):
                if f"optimizer.{key}.{name}" in tensors:
                    self.optimizer.state[parameter][key] = tensors[f"optimizer.{key}.{name}"]

    def fit(
        self,
        loss: Callable[[int], Tensor],
        log: Callable[[str], None] = print,
        log_every: int = 50,
        save_seconds: float = 120.0,
        stop_after: float = math.inf,
    ) -> None:
        """Train to the last step.

        Args:
            loss: the scalar loss of step ``n``; its randomness must come from ``n`` alone, so that a run that was
                interrupted is the run that was not.
            log: called with a line of progress every ``log_every`` steps.
            save_seconds: time between two savings of the state. stop_after: seconds after which the run pauses.

        Raises:
            Stopped: ``stop_after`` passed first.
            FloatingPointError: the loss is no longer finite; a smaller learning rate is the usual remedy.
        """
        began = saved = time.monotonic()
        before = self.seconds
        recent: list[float] = []
        first = self.step
        while self.step < self.settings.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate(self.step)
            value = loss(self.step)
            self.fabric.backward(value)
            for parameter in self.network.parameters():
                if parameter.grad is not None and self.fabric.world_size > 1:
                    parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")  # type: ignore[assignment]
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            recent.append(float(value.detach()))
            if not math.isfinite(recent[-1]):
                raise FloatingPointError(f"The loss of step {self.step} is not finite. Try a smaller learning rate.")
            self._follow()
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - began
            if self.step % log_every == 0 or self.step == self.settings.steps:
                self.loss = sum(recent) / len(recent)
                recent.clear()
                each = (now - began) / (self.step - first)
                log(f"step {self.step}/{self.settings.steps}, loss {self.loss:.4f}, {each:.2f} s a step")
            if now - saved > save_seconds or now - began > stop_after:
                self.save()
                saved = now
            if now - began > stop_after and self.step < self.settings.steps:
                raise Stopped(f"paused at step {self.step} of {self.settings.steps}; the same command goes on")
        self.save()

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            mean = self.average[name]
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def seconds_of(folder: Path) -> float:
    """How long the run in a folder took so far, over all its pieces."""
    with safe_open(folder / "state.safetensors", "pt") as held:
        return float(held.metadata().get("seconds", "0"))
