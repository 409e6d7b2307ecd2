"""The shipped digit networks as a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from paraflowkit.models.digits.data import CLASSES


class DigitsPipeline(DiffusionPipeline):
    """Draws digits with classifier-free guidance, as any pipeline of diffusers would; it knows nothing of solvers.

    ``DigitsPipeline.from_pretrained(paraflowkit.models.digits.adapter.WEIGHTS / "digits-flow")`` loads the shipped
    flow-matching network, ``"digits-vp"`` the noise-prediction one; the scheduler may be exchanged as usual.
    """

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        classes: list[int],
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> Any:
        """Draw.

        Args:
            classes: digits to draw, 0 … 9. num_inference_steps: of the scheduler. guidance_scale: 1 is none.
            generator: of the noise, one for all or one a digit. latents: noise ``(digits, 1, 16, 16)`` to start from.
            output_type: ``pil``, ``np``, ``pt`` (0 … 1), or ``latent`` for the network's own range.
            return_dict: an ``ImagePipelineOutput``, or a tuple.
            callback_on_step_end: called as ``(pipe, step, timestep, {"latents": latents})``; what it returns wins.

        Raises:
            ValueError: a class that does not exist.
        """
        for wanted in classes:
            if not 0 <= wanted < CLASSES:
                raise ValueError(f"Class {wanted} does not exist: the digits are 0 … {CLASSES - 1}.")
        device, dtype = self._execution_device, self.unet.dtype
        size = self.unet.config.sample_size
        shape = (len(classes), self.unet.config.in_channels, size, size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        x = latents.to(device=device, dtype=dtype) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        guided = guidance_scale != 1
        labels = torch.tensor(classes, device=device)
        if guided:
            labels = torch.cat([torch.full_like(labels, CLASSES), labels])
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        scale: Any = getattr(self.scheduler, "scale_model_input", None)  # flow-matching schedulers have none
        bar: Any = self.progress_bar
        for i, t in enumerate(bar(self.scheduler.timesteps)):
            rows = torch.cat([x, x]) if guided else x
            scaled = rows if scale is None else scale(rows, t)
            output = self.unet(scaled, t.expand(len(rows)), class_labels=labels).sample
            if guided:
                free, pure = output.chunk(2)
                output = free + guidance_scale * (pure - free)
            x = self.scheduler.step(output, t, x).prev_sample
            if callback_on_step_end is not None:
                x = callback_on_step_end(self, i, t, {"latents": x}).get("latents", x)
        if output_type != "latent":
            x = (x / 2 + 0.5).clamp(0, 1)
        images: Any = x
        if output_type in ("np", "pil"):
            images = x.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
