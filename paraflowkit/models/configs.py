"""Settings of the models; importing this loads no torch."""

from __future__ import annotations

from typing import Any, Literal

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


class HubConfig(ComponentConfig):
    """Settings of everything that is loaded from a folder in diffusers' format."""

    folder: str = Field(
        min_length=1, description="Folder as save_pretrained writes it, or the name of a repository of the hub."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a repository of the hub.")
    variant: str | None = Field(default=None, description="Of the weight files, such as fp16.")
    download: bool = Field(
        default=False, description="Fetch what the local cache of the hub does not hold; otherwise nothing is fetched."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Of the weights; states and times keep theirs."
    )
    scheduler: dict[str, Any] = Field(
        default={}, description="Settings over those of the folder's scheduler, which says what process this is."
    )
    height: int | None = Field(default=None, ge=1, description="Of the image in pixels; the network's own by default.")
    width: int | None = Field(default=None, ge=1, description="Of the image in pixels; the network's own by default.")
    embedded_guidance: float = Field(
        default=3.5,
        ge=0,
        allow_inf_nan=False,
        description="Told to networks that were distilled from guided ones, such as FLUX.1-dev; no effect on others.",
    )
    embeddings: str | None = Field(
        default=None,
        min_length=1,
        description="File of encoded prompts, as save_prompts of diffusers-pipeline writes it; what it holds is not "
        "encoded again.",
    )


class NetworkConfig(HubConfig):
    """Settings of a network without its pipeline; height and width are those of its states."""

    subfolder: str | None = Field(
        default=None, description="Of the network within the folder; unet, transformer or none, whichever there is."
    )
    null_class: int | None = Field(
        default=None, ge=0, description="Class that stands for no class, for guidance; DiT brings its own."
    )


class DiffusersPipelineConfig(HubConfig):
    """Settings of :class:`paraflowkit.models.diffusers.pipeline.DiffusersPipeline`."""

    negative_prompt: str | None = Field(
        default=None, description="Of guided samples without one of their own; the pipeline's default by default."
    )
    max_sequence_length: int | None = Field(
        default=None, ge=1, description="Tokens of a prompt for a T5 encoder; the pipeline's default by default."
    )


class EDMNetConfig(NetworkConfig):
    """Settings of :class:`paraflowkit.models.diffusers.edm.EDMNet`; they win over the folder's scheduler."""

    sigma_data: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Deviation of the data.")
    sigma_min: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Least level of training.")
    sigma_max: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Level of the start.")
