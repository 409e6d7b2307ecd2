"""What all models in diffusers' format share: the call, conditions and the grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import HubConfig
from paraflowkit.models.diffusers.families import Call, family_of
from paraflowkit.models.diffusers.prompts import Encoded, PromptStore, Wish, read_prompts
from paraflowkit.models.diffusers.schedule import Schedule
from paraflowkit.noise import EDM, FlowMatching
from paraflowkit.prediction import Prediction


def _two(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


class DiffusersModel(VelocityModel):
    """A network of diffusers.

    States are those of VP, of flow matching, or of EDM, whatever the scheduler's own coordinates are. Times are float64
    until the network's own embedding takes them, in float32 for low precisions.

    Args:
        network: the network. schedule: its process. config: settings. where: the folder, for messages.
        pixels: of an image, to a pixel of a state; those of an autoencoder.
        null_class: stands for no class. negative_prompt: of guided samples without one of their own.

    Raises:
        ParaflowkitError: a network of no known family, or a size that it does not make.
    """

    def __init__(
        self,
        network: Any,
        schedule: Schedule,
        config: HubConfig,
        where: str,
        *,
        pixels: int = 1,
        null_class: int | None = None,
        negative_prompt: str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.schedule = schedule
        self.where = where
        self.noise = schedule.noise
        self.prediction = schedule.prediction
        if isinstance(schedule.noise, EDM):
            self.data_std = schedule.noise.sigma_data
        self.family = family_of(network, where)
        c = network.config
        channels, out = c["in_channels"], c.get("out_channels") or c["in_channels"]
        self.learned_variance = out == 2 * channels
        if self.learned_variance and isinstance(schedule.noise, EDM):
            raise ParaflowkitError(f"{where}: a preconditioned network that predicts a variance is not known.")
        self.shape = (channels // 4 if self.family.packed else channels, *self._size(pixels))
        self.pixels = (self.shape[1] * pixels, self.shape[2] * pixels)
        self.negative_prompt = negative_prompt
        self.classes = int(c.get("num_class_embeds") or c.get("num_embeds_ada_norm") or 0)
        self.null_class = null_class
        if self.family.kind == "diffusers-transformer" and self.family.wants == "classes":
            # A DiT has an embedding behind those of its classes, for guidance.
            self.null_class = self.classes if null_class is None else null_class
        elif null_class is not None and not (self.family.wants == "classes" and null_class < self.classes):
            raise ParaflowkitError(
                f"model.null_class: {where} has {self.classes} classes, from 0 on: leave it out, or give one of them."
            )
        self.prompts = PromptStore(self._encoded)
        self.known = {} if config.embeddings is None else self._read(Path(config.embeddings))

    def _size(self, pixels: int) -> tuple[int, int]:
        """Height and width of a state."""
        c = self.network.config
        patch = 2 if self.family.packed else c.get("patch_size") or 1
        # Flux says nothing about its size; 1024 is its pipeline's default for autoencoders of 8 pixels.
        own = _two(c["sample_size"]) if c.get("sample_size") else (128, 128)
        size: list[float] = []
        unit = pixels * patch
        for name, given, usual in (("height", self.config.height, own[0]), ("width", self.config.width, own[1])):
            value = usual if given is None else given / pixels
            size.append(value)
            if value != int(value) or int(value) % patch:
                raise ParaflowkitError(
                    f"model.{name}: {value * pixels:g} is no multiple of {unit}: choose {_near(value * pixels, unit)}."
                )
        height, width = int(size[0]), int(size[1])
        largest = c.get("pos_embed_max_size")
        if self.family.wants == "classes" and self.family.kind == "diffusers-transformer" and (height, width) != own:
            raise ParaflowkitError(
                f"model.height: {self.where} makes images of {own[0] * pixels} × {own[1] * pixels} only: leave out "
                "height and width."
            )
        if largest and max(height, width) > largest * patch:
            raise ParaflowkitError(
                f"model.height: {self.where} makes images of up to {largest * unit} pixels a side, got "
                f"{height * pixels} × {width * pixels}."
            )
        return height, width

    # Conditions

    @property
    def encodes(self) -> bool:
        """Whether there are text encoders."""
        return False

    def encode(self, wish: Wish) -> Encoded:
        """The tensors of a prompt by the text encoders, without a batch dimension."""
        raise NotImplementedError

    def _encoded(self, wish: Wish) -> Encoded:
        self.check_prompt(wish)
        return self.known[wish] if wish in self.known else self.encode(wish)

    def check_prompt(self, wish: Wish) -> None:
        """Raise ValueError for a prompt that is in no file and cannot be encoded."""
        if wish in self.known or self.encodes:
            return
        if not self.known:
            raise ValueError(
                f"{self.where} has no text encoder: set model.embeddings to a file of encoded prompts, or use the "
                "model diffusers-pipeline with a folder that has them."
            )
        what = "negative prompt" if wish.negative else "prompt"
        known = [repr(w.text) for w in self.known if w.negative == wish.negative]
        raise ValueError(f"model.embeddings does not hold the {what} {wish.text!r}; it holds {', '.join(known)}.")

    def _read(self, path: Path) -> dict[Wish, Encoded]:
        if self.family.wants != "prompts":
            raise ParaflowkitError(f"model.embeddings: {self.where} understands no prompts: leave it out.")
        known = read_prompts(path)
        for encoded in known.values():
            if set(encoded) != set(self.family.names):
                raise ParaflowkitError(
                    f"model.embeddings: {path} holds {', '.join(sorted(encoded))}, and a {type(self.network).__name__} "
                    f"wants {', '.join(self.family.names)}: encode with its own pipeline."
                )
        return known

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Tensor | None:
        wants = self.family.wants
        if wants == "nothing":
            return super().condition(classes, prompts)
        if wants == "prompts":
            if any(c is not None for c in classes):
                raise ValueError(f"{self.where} understands 'prompts', not 'classes'.")
            wishes = [self._unguided(None) if p is None else Wish(p) for p in prompts]
            for wish in dict.fromkeys(wishes):
                self.check_prompt(wish)
            return torch.tensor([self.prompts.add(wish) for wish in wishes])
        if any(p is not None for p in prompts):
            raise ValueError(f"{self.where} understands 'classes', not 'prompts'.")
        for c in classes:
            if c is not None and not 0 <= c < self.classes:
                raise ValueError(f"Class {c} does not exist: {self.where} has classes 0 … {self.classes - 1}.")
        if self.null_class is None and any(c is None for c in classes):
            raise ValueError(f"{self.where} needs a class for every sample: give 'classes', or set model.null_class.")
        return torch.tensor([self.null_class if c is None else c for c in classes])

    def null_condition(self, cond: Tensor) -> Tensor:
        return self.negative_condition(cond, [None] * len(cond))

    def negative_condition(self, cond: Tensor, prompts: list[str | None]) -> Tensor:
        if self.family.wants != "prompts":
            if any(p is not None for p in prompts):
                raise ValueError(f"{self.where} understands no prompts: leave out 'negative_prompt'.")
            if self.family.wants == "nothing" or self.null_class is None:
                raise ValueError(f"{self.where} has no unconditional branch: use guidance 1, or set model.null_class.")
            return torch.full_like(cond, self.null_class)
        wishes = [self._unguided(p) for p in prompts]
        for wish in dict.fromkeys(wishes):
            self.check_prompt(wish)
        return torch.tensor([self.prompts.add(wish) for wish in wishes], device=cond.device)

    def _unguided(self, prompt: str | None) -> Wish:
        return Wish(self.negative_prompt if prompt is None else prompt, negative=True)

    def prepare(self, cond: Tensor) -> None:
        if self.family.wants == "prompts":
            self.prompts.prepare(cond.tolist())

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.prompts.moved()
        return super()._apply(fn, recurse)

    def _tensors(self, cond: Tensor | None, rows: int, x: Tensor, dtype: torch.dtype) -> Encoded:
        if self.family.wants == "nothing":
            return {}
        if cond is None:
            cond = self.condition([None] * rows, [None] * rows)
            assert cond is not None  # only networks without conditions give none
        cond = cond.to(x.device)
        if self.family.wants == "classes":
            return {"class_labels": cond}
        with torch.autocast(x.device.type, enabled=False):  # encoders keep their precision when prepare was left out
            return self.prompts.rows(cond, dtype)

    # The call

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        t = t.double()
        weights = next((p for p in self.network.parameters() if p.is_floating_point()), x)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        tensors = self._tensors(cond, len(x), x, weights.dtype)

        def call(state: Tensor, timestep: Tensor) -> Tensor:
            rows = Call(
                self.network,
                state.to(weights.dtype),
                timestep.to(wide),
                tensors,
                self.config.embedded_guidance,
                self.pixels,
            )
            return self.family.call(rows).to(x.dtype)

        if isinstance(self.noise, EDM):
            c_skip, c_out, c_in, c_noise = self.noise.preconditioning(t)
            skip, out, scale = (c.to(x.dtype).view(-1, *(1,) * (x.ndim - 1)) for c in (c_skip, c_out, c_in))
            return skip * x + self.schedule.output_sign * out * call(scale * x, c_noise)
        if isinstance(self.noise, FlowMatching):
            # In diffusers time runs from 1000 (noise) to 0, and the velocity points from data to noise.
            out = call(x, (1 - t) * self.schedule.train_steps)
            return -out if self.prediction is Prediction.VELOCITY else out
        return call(x, t)

    def compile_network(self) -> None:
        # Prompts are looked up outside.
        self.network.compile(dynamic=False)

    def grid_settings(self, steps: int) -> dict[str, Any]:
        patch = 2 if self.family.packed else self.network.config.get("patch_size") or 1
        tokens = (self.shape[1] // patch) * (self.shape[2] // patch)
        return self.schedule.grid(steps, tokens, self.family.listed)


def _near(value: float, unit: int) -> str:
    low = int(value // unit) * unit
    return f"{low} or {low + unit}" if low else str(unit)
