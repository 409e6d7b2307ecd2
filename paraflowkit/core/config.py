"""The base of every component's own configuration class."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Norm = Literal["absolute", "sigma", "posterior"]


class ComponentConfig(BaseModel):
    """Settings of one component; unknown settings are errors, and an instance never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SolverConfig(ComponentConfig):
    """Settings that every iterative solver has.

    The mean squared change of a state, ``|dx|² / D``, counts as converged up to ``tolerance² · scale``.
    """

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
