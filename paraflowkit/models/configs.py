"""Settings of the models; importing this loads no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from paraflowkit.core.config import ComponentConfig


class GaussianMixtureConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.models.gaussian_mixture.GaussianMixture`."""

    dimension: int = Field(default=2, ge=1, description="Numbers in a sample.")
    components: int = Field(default=8, ge=1, description="Gaussians; component k belongs to class k modulo `classes`.")
    classes: int = Field(default=4, ge=1, description="Classes that can be asked for.")
    spread: float = Field(default=0.15, gt=0, description="Standard deviation of each Gaussian.")
    process: Literal["flow", "vp", "ve"] = Field(default="flow", description="Noise process.")
    prediction: Literal["data", "noise", "v", "velocity"] = Field(default="data", description="What the model returns.")
    seed: int = Field(default=0, description="Of the means.")


class DigitsConfig(ComponentConfig):
    """Settings of the shipped digit networks."""

    folder: str | None = Field(
        default=None, description="Folder of another trained network; the shipped one by default."
    )
