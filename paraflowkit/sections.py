"""The settings of the sections of a run file, but for those of components."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from paraflowkit.core.config import ComponentConfig


class GridConfig(ComponentConfig):
    """The times of the sampler."""

    steps: int = Field(default=50, ge=1, le=100_000, description="N, the number of steps.")
    spacing: Literal["uniform", "leading", "trailing", "linspace"] = Field(
        default="uniform", description="uniform, or for VP processes how training steps are picked, as in diffusers."
    )
    convention: Literal["ddim", "euler", "dpm"] = Field(
        default="ddim", description="Which family of diffusers' schedulers reads a VP spacing; see the page on grids."
    )
    steps_offset: int = Field(default=0, ge=0, description="Added to the times of the leading spacing.")
    shape: Literal["karras", "exponential", "beta"] | None = Field(
        default=None, description="Of the noise levels between the ends of the spacing."
    )
    rho: float = Field(default=7.0, gt=0, allow_inf_nan=False, description="Exponent of the karras shape.")
    sigma_min: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Lower end of a shape, in place of the spacing's."
    )
    sigma_max: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Upper end of a shape, in place of the spacing's."
    )
    sigmas: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, min_length=1, description="The noise levels themselves, without the final 0."
    )
    times: list[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        default=None, min_length=1, description="The times themselves, without the end."
    )
    final: Literal["zero", "sigma_min"] = Field(
        default="zero", description="Where VP grids end: clean, or at the least noise of training."
    )
    shift: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Resolution shift of flow matching.")
    image_tokens: int | None = Field(
        default=None, ge=1, le=100_000, description="Shift by resolution, as Flux does, in place of the setting shift."
    )
    shift_terminal: float | None = Field(
        default=None, gt=0, lt=1, description="Stretch flow levels so that the last one before the end is this."
    )

    @model_validator(mode="after")
    def _one_shift(self) -> GridConfig:
        if self.image_tokens is not None and self.shift != 1.0:
            raise ValueError("'shift' and 'image_tokens' both shift the times: give one of them")
        return self


class PredictionConfig(ComponentConfig):
    """What is done to the network's prediction before the sampler sees it."""

    clip: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Largest absolute value of a data prediction."
    )
    threshold: float | None = Field(
        default=None, gt=0, le=1, description="Quantile of dynamic thresholding (Imagen), in place of clip."
    )
    threshold_max: float = Field(
        default=1.0,
        ge=1,
        allow_inf_nan=False,
        description="Largest limit of dynamic thresholding; 1 is plain clipping.",
    )
    guidance_rescale: float = Field(
        default=0.0, ge=0, le=1, description="Share of the conditional output's deviation that guided outputs get back."
    )

    @model_validator(mode="after")
    def _one_limit(self) -> PredictionConfig:
        if self.clip is not None and self.threshold is not None:
            raise ValueError("'clip' and 'threshold' both limit the data prediction: give one of them")
        if self.threshold is None and self.threshold_max != 1:
            raise ValueError("'threshold_max' belongs to 'threshold': give both")
        return self


class RequestGroup(ComponentConfig):
    """Samples that are wanted: every seed with every class or prompt."""

    classes: list[int] | None = Field(default=None, description="Classes, for class-conditional models.")
    prompts: list[str] | None = Field(default=None, description="Prompts, for text-conditional models.")
    negative_prompt: str | None = Field(
        default=None, description="Of the unguided branch, in place of the model's; needs guidance other than 1."
    )
    seeds: list[int] = Field(default=[0], min_length=1, description="Seeds of the noise.")
    count: int = Field(default=1, ge=1, description="Samples from each seed on: seed, seed + 1, …")
    guidance: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Classifier-free guidance; 1 is none.")


class OutputConfig(ComponentConfig):
    """What is written, and where."""

    folder: str = Field(
        default="runs/predict", min_length=1, description="Of the run; a number is appended if it is taken."
    )
    columns: int | None = Field(default=None, ge=1, description="Of the grid; near a square by default.")
    upscale: int = Field(default=8, ge=1, description="Pixels of a PNG for each pixel of a sample.")
    images: bool = Field(default=True, description="Write a PNG a sample and the grid.")
    plot: bool = Field(default=True, description="Write the convergence plot.")
    logger: Literal["csv", "tensorboard"] | None = Field(
        default=None, description="Log figures of each sweep and request into the folder `logs` of the run's."
    )
    trajectory: bool = Field(
        default=False, description="Write all states of every sample, from which a later run can start warm."
    )
    report: bool = Field(
        default=False, description="Keep how the first four samples are solved, sweep by sweep, and write report.html."
    )


class FabricConfig(ComponentConfig):
    """Arguments of Lightning Fabric."""

    accelerator: str = Field(default="cpu", description="cpu, cuda, mps or auto.")
    devices: int = Field(default=1, ge=1, description="Of this machine, one process each.")
    strategy: str = Field(default="auto", description="As in Fabric; auto puts several devices on the mesh.")
    precision: str = Field(default="32-true", description="Of the network, e.g. bf16-mixed; times are never rounded.")
    compile: bool = Field(
        default=False, description="Compile the network: minutes at first, then faster; needs a C++ compiler on a CPU."
    )


class MeshConfig(ComponentConfig):
    """How several devices share the work: data groups of devices each, whose members share a solve."""

    time: int | None = Field(
        default=None, ge=1, description="Devices that share the rows of a call; by default what `data` leaves: all."
    )
    data: int | None = Field(
        default=None, ge=1, description="Groups that share the requests; by default what `time` leaves."
    )
    shard: bool = Field(
        default=False,
        description="Leave each device of a group a piece of the network's weights, for networks too big for one.",
    )


class RunSettings(ComponentConfig):
    """How the samples are made."""

    batch: int = Field(default=10, ge=1, description="Samples that are solved together.")
    max_rows: int | None = Field(default=None, ge=1, description="Most network rows in one call.")
    dtype: Literal["float32", "float64"] = Field(default="float32", description="Of the solver's states.")
    nonfinite: Literal["stop", "sequential"] = Field(
        default="stop",
        description="On NaN or infinity: stop the sample, or go on sequentially from its last exact state.",
    )
    max_sweeps: int | None = Field(default=None, ge=1, description="Stop a batch after so many sweeps.")
    warm_start: str | None = Field(
        default=None,
        min_length=1,
        description="trajectory.safetensors of an earlier run, whose states are the guesses of this one.",
    )
    compare: bool = Field(default=False, description="Also run the sequential sampler and report the differences.")
