"""The model ``scenes-sd3``: the shipped text-to-image pipeline."""

from __future__ import annotations

from paraflowkit.models.diffusers.pipeline import DiffusersPipeline

from paraflowkit_scenes.config import ScenesConfig


class ScenesSD3(DiffusersPipeline):
    """Scenes of one to three things at 64×64 from captions: an MMDiT, two text encoders and an autoencoder of our own.

    Latents are ``(4, 16, 16)``; the process is rectified flow. Any folder in the format of ``StableDiffusion3Pipeline``
    can be named instead of the shipped one.
    """

    config_cls = ScenesConfig
