"""The model ``diffusers-pipeline``: a whole folder, text encoders and decoder included."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paraflowkit.errors import ParaflowkitError
from paraflowkit.models.configs import DiffusersPipelineConfig
from paraflowkit.models.diffusers.load import PIPELINES, load_pipeline
from paraflowkit.models.diffusers.network import DiffusersModel
from paraflowkit.models.diffusers.prompts import Encoded, Wish, write_prompts
from paraflowkit.models.diffusers.schedule import read_schedule

#: What ``encode_prompt`` returns, by pipeline: names for a prompt and for a negative one, "" for what is not used.
_RETURNED = {
    "StableDiffusionPipeline": (("encoder_hidden_states", ""), ("", "encoder_hidden_states")),
    "StableDiffusionXLPipeline": (
        ("encoder_hidden_states", "", "text_embeds", ""),
        ("", "encoder_hidden_states", "", "text_embeds"),
    ),
    "StableDiffusion3Pipeline": (
        ("encoder_hidden_states", "", "pooled_projections", ""),
        ("", "encoder_hidden_states", "", "pooled_projections"),
    ),
    # Flux encodes a negative prompt as any other.
    "FluxPipeline": (("encoder_hidden_states", "pooled_projections", ""),) * 2,
    "PixArtAlphaPipeline": (
        ("encoder_hidden_states", "encoder_attention_mask", "", ""),
        ("", "", "encoder_hidden_states", "encoder_attention_mask"),
    ),
}
_RETURNED["PixArtSigmaPipeline"] = _RETURNED["PixArtAlphaPipeline"]


class DiffusersPipeline(DiffusersModel):
    """A folder of a pipeline: its own ``encode_prompt`` encodes, its network is solved, its autoencoder decodes.

    Any stepper and solver may be used, also those that the pipeline's own loop cannot express. The parts are moved and
    converted together with the model.

    Attributes:
        pipe: the pipeline, whose modules are this model's.
    """

    config_cls = DiffusersPipelineConfig

    def __init__(self, config: DiffusersPipelineConfig) -> None:
        pipe = load_pipeline(config)
        self.kind = type(pipe).__name__
        network = getattr(pipe, PIPELINES[self.kind])
        schedule = read_schedule({**_scheduler(pipe), **config.scheduler}, config.folder)
        vae = getattr(pipe, "vae", None)
        pixels = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
        super().__init__(
            network, schedule, config, config.folder, pixels=pixels, negative_prompt=config.negative_prompt
        )
        if config.negative_prompt is not None and self.family.wants != "prompts":
            raise ParaflowkitError(f"model.negative_prompt: {config.folder} understands no prompts: leave it out.")
        if config.max_sequence_length is not None and "max_sequence_length" not in _takes(pipe):
            raise ParaflowkitError(f"model.max_sequence_length: a {self.kind} takes none: leave it out.")
        self.pipe = pipe
        self.max_sequence_length = config.max_sequence_length
        parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
        self.parts = nn.ModuleDict({name: part for name, part in parts.items() if part is not network})
        self.eval().requires_grad_(False)

    @property
    def encodes(self) -> bool:
        return any(name.startswith("text_encoder") and part for name, part in self.pipe.components.items())

    def encode(self, wish: Wish) -> Encoded:
        """By the pipeline's own ``encode_prompt``, with the defaults of its call; a negative prompt as one."""
        takes = _takes(self.pipe)
        usual = inspect.signature(self.pipe.__call__).parameters
        device = next(self.network.parameters()).device
        # Further prompts, for further encoders, are by default the first one again.
        given: dict[str, Any] = {name: None for name, value in takes.items() if value.default is value.empty}
        given |= {"device": device, "do_classifier_free_guidance": wish.negative}
        for name in ("max_sequence_length", "clean_caption", "num_images_per_prompt"):
            if name in takes and name in usual:
                given[name] = usual[name].default
        if self.max_sequence_length is not None:
            given["max_sequence_length"] = self.max_sequence_length
        apart = "negative_prompt" in takes
        if wish.negative and apart:
            given["prompt"] = ""
            # Not given at all is something else than empty, to SDXL for instance.
            if wish.text is not None or takes["negative_prompt"].default is None:
                given["negative_prompt"] = wish.text
        else:
            given["prompt"] = wish.text or ""
        made = self.pipe.encode_prompt(**{name: value for name, value in given.items() if name in takes})
        names = _RETURNED[self.kind][wish.negative]
        found: Encoded = {name: value[0] for name, value in zip(names, made, strict=True) if name}
        if "time_ids" in self.family.names:
            found["time_ids"] = torch.tensor([*self.pixels, 0, 0, *self.pixels], device=device, dtype=torch.float32)
        return found

    def save_prompts(
        self, path: str | Path, prompts: list[str], negative_prompts: list[str | None] | None = None
    ) -> None:
        """Encode prompts into a file for the setting ``embeddings``.

        Args:
            path: of the safetensors file. negative_prompts: beside the model's own and the pipeline's default.
        """
        negative = [self.negative_prompt, *(negative_prompts or [])]
        wishes = dict.fromkeys(
            [*map(Wish, prompts), Wish(None, negative=True), *(Wish(p, negative=True) for p in negative)]
        )
        with torch.no_grad():
            write_prompts(Path(path), {wish: self._encoded(wish) for wish in wishes})

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Latents ``(n, c, h, w)`` as images ``(n, 3, H, W)`` in [-1, 1] of x's dtype; states of pixels as they are."""
        vae = getattr(self.pipe, "vae", None)
        if vae is None:
            return x
        c = vae.config
        if vae.dtype == torch.float16 and c.get("force_upcast"):
            vae.float()  # it overflows in half precision
        weights = next(vae.parameters())
        images: list[Tensor] = []
        for latent in x.to(weights.device, weights.dtype).split(1):  # one at a time: decoders need much memory
            if c.get("latents_mean") is not None and c.get("latents_std") is not None:
                mean, std = (latent.new_tensor(c[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
                latent = latent * std / c["scaling_factor"] + mean
            else:
                latent = latent / c["scaling_factor"] + (c.get("shift_factor") or 0.0)
            image = vae.decode(latent, return_dict=False)[0]
            if getattr(self.pipe, "safety_checker", None) is not None:
                image, refused = self.pipe.run_safety_checker(image, image.device, weights.dtype)
                if refused is not None and refused[0]:
                    image = torch.full_like(image, -1.0)  # black, as the pipeline returns it
            images.append(image)
        return torch.cat(images).to(x.dtype)


def _takes(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of the pipeline's ``encode_prompt``; none where there is no such thing."""
    return inspect.signature(pipe.encode_prompt).parameters if hasattr(pipe, "encode_prompt") else {}


def _scheduler(pipe: Any) -> dict[str, Any]:
    return {**dict(pipe.scheduler.config), "_class_name": type(pipe.scheduler).__name__}
