"""Settings of the scenes pipeline; importing this loads no torch."""

from __future__ import annotations

from pathlib import Path

from paraflowkit.models.configs import DiffusersPipelineConfig
from pydantic import Field

#: The shipped folder, in the format of diffusers' ``StableDiffusion3Pipeline``.
FOLDER = Path(__file__).parent / "weights" / "scenes-sd3"


class ScenesConfig(DiffusersPipelineConfig):
    """Settings of :class:`paraflowkit_scenes.model.ScenesSD3`."""

    folder: str = Field(
        default=str(FOLDER), description="Folder of another trained pipeline; the shipped one by default."
    )
    max_sequence_length: int | None = Field(
        default=16,
        ge=1,
        description="Zero vectors in place of a T5 encoder's tokens. The pipeline's own default, 256, costs about "
        "three times as much a call.",
    )
