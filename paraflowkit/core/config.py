"""The base of every component's own configuration class."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from paraflowkit.errors import did_you_mean

Norm = Literal["absolute", "sigma", "posterior"]
Guess = Literal["constant", "noise", "clean_estimate"]


class ComponentConfig(BaseModel):
    """Settings of one component; unknown settings are errors, and an instance never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SolverConfig(ComponentConfig):
    """Settings that every iterative solver has.

    The mean squared change of a state, ``|dx|² / D``, counts as converged up to ``tolerance² · scale``. A class may
    name published settings in :attr:`presets`; its setting ``preset`` then takes one of those names, and settings
    given beside it win.
    """

    #: Named sets of settings.
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    preset: str | None = Field(default=None, description="Name of published settings; what is given beside it wins.")
    tolerance: float = Field(
        default=1e-2, ge=0, allow_inf_nan=False, description="Largest accepted change; 0 is exact."
    )
    norm: Norm = Field(
        default="absolute",
        description="Scale of the tolerance: absolute (1), sigma (the state's noise variance) or posterior (the "
        "variance of the DDPM posterior of the step that made it).",
    )
    stride: Literal["exact", "printed"] = Field(
        default="exact",
        description="exact: accept 1 + the number of leading converged states; printed: that number only, as ParaFlow "
        "prints it, which may take 2N sweeps.",
    )
    precondition: int = Field(
        default=0, ge=0, description="M, steps taken one by one before the window opens; they are exact."
    )
    guess: Guess = Field(
        default="constant",
        description="Of the states in the first window: the last exact state, noise, or the sampler rolled on with the "
        "data prediction of the last of the preconditioning steps (without these 0, where states are all but noise).",
    )
    entering: Guess = Field(
        default="constant",
        description="Of the states that enter a sliding window: the last state in it, noise, or the sampler rolled on "
        "with the data prediction of the last node that was evaluated.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") is None:
            return given
        name = given["preset"]
        return {**cls.presets.get(name, {}), **given} if isinstance(name, str) else given

    @field_validator("preset")
    @classmethod
    def _preset_is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in cls.presets:
            known = ", ".join(cls.presets) or "it has none"
            raise ValueError(f"unknown preset {name!r}.{did_you_mean(name, list(cls.presets))} Presets: {known}")
        return name


class QuasiNewtonConfig(SolverConfig):
    """Settings that the quasi-Newton solvers share: a tolerance of each step, or the error of the final sample."""

    error: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Wanted relative RMSE of the final sample to the sequential one, in place of a tolerance.",
    )
    precondition: int = Field(default=1, ge=0, description="M, steps taken one by one before the window opens.")
    guess: Guess = Field(default="clean_estimate", description="Of the first window.")
    entering: Guess = Field(default="clean_estimate", description="Of the states that enter the window.")

    @model_validator(mode="before")
    @classmethod
    def _tolerance_replaces_error(cls, given: Any) -> Any:
        if isinstance(given, dict) and "tolerance" in given and "error" not in given:
            return {**given, "error": None}
        return given

    @model_validator(mode="after")
    def _one_rule(self) -> QuasiNewtonConfig:
        usual = type(self).model_fields["tolerance"].default  # which settings that were written out repeat
        if self.error is not None and "tolerance" in self.model_fields_set and self.tolerance != usual:
            raise ValueError("'error' takes the place of 'tolerance': give one of them")
        return self
