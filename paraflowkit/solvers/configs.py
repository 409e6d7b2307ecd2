"""Settings of the solvers; importing this loads no torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from paraflowkit.core.config import Guess, Norm, QuasiNewtonConfig, SolverConfig


class SequentialConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.sequential.Sequential`; tolerance and norm have no effect."""

    tolerance: float = Field(default=0.0, ge=0, le=0, description="Always 0: sequential sampling is exact.")


class ParaDiGMSConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.paradigms.ParaDiGMS`; defaults of the paper's image experiments.

    The presets are those that the ParaSolver paper found for it (section 5.1): Stable Diffusion 2 and LSUN Church.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sd2-ddpm": {"tolerance": 0.5},
        "sd2-ddim": {"tolerance": 0.01},
        "sd2-dpm": {"tolerance": 0.01},
        "lsun-ddpm": {"tolerance": 0.5},
        "lsun-ddim": {"tolerance": 0.001},
    }

    tolerance: float = Field(default=0.1, ge=0, allow_inf_nan=False, description="Largest accepted change; 0 is exact.")
    norm: Norm = Field(default="posterior", description="Scale of the tolerance.")


class ParaFlowConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.paraflow.ParaFlow`; the paper uses a window of 8 with each preset."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sd3": {"tolerance": 0.005},
        "flux": {"tolerance": 0.01},
        "flux-2048": {"tolerance": 0.0028},
    }

    tolerance: float = Field(
        default=5e-3, ge=0, allow_inf_nan=False, description="Largest accepted change; 0 is exact."
    )
    norm: Norm = Field(default="absolute", description="Scale of the tolerance.")


class ParaTAAConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.parataa.ParaTAA`.

    The paper recommends a memory of 2 to 5 and an order that grows with the window; it stops when the squared residual
    is below 1e-3² times the variance of the step's noise.
    """

    tolerance: float = Field(default=1e-3, ge=0, allow_inf_nan=False, description="Largest residual; 0 is exact.")
    norm: Norm = Field(default="posterior", description="Scale of the tolerance.")
    order: int = Field(default=8, ge=1, description="k, steps that are unrolled through the sampler's coefficients.")
    memory: int = Field(
        default=3, ge=1, le=8, description="m, sweeps that Anderson acceleration looks at; 1 is none of it."
    )
    ridge: float = Field(default=1e-3, gt=0, allow_inf_nan=False, description="λ, added to the Gram matrices.")


class ParaSolverConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.parasolver.ParaSolver`; presets of its section 5.1 and table 3."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sd2-ddpm": {"tolerance": 0.55},
        "sd2-ddim": {"tolerance": 0.05},
        "sd2-dpm": {"tolerance": 0.05},
        "lsun-ddpm": {"tolerance": 0.55, "precondition": 10},
        "lsun-ddim": {"tolerance": 0.005, "precondition": 10},
    }

    tolerance: float = Field(
        default=0.05,
        ge=0,
        allow_inf_nan=False,
        description="Largest accepted change of an end; 0 is exact.",
    )
    norm: Norm = Field(default="sigma", description="Scale of the tolerance.")
    precondition: int = Field(default=1, ge=0, description="M, steps taken one by one before the window opens.")
    guess: Guess = Field(default="clean_estimate", description="Of the first window.")
    entering: Guess = Field(default="clean_estimate", description="Of the states that enter the window.")
    subintervals: int | None = Field(
        default=None, ge=1, description="N_sub, of the whole grid; one for each step by default, 1 is sequential."
    )
    inner: Literal["sequential", "parallel"] = Field(
        default="sequential", description="How a subinterval is integrated: step by step, or by Picard iteration."
    )

    @model_validator(mode="after")
    def _ends_move_once(self) -> ParaSolverConfig:
        if self.subintervals is not None and self.stride == "printed":
            raise ValueError("'stride: printed' would move the ends of 'subintervals' twice: give one of them")
        return self


class ParaSolverTurboConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.parasolver_turbo.ParaSolverTurbo`; the paper's windows are 24 steps.

    Presets of the paper's section 6 and table 3.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sd2-ddpm": {"tolerance": 0.5},
        "sd2-ddim": {"tolerance": 0.03},
        "sd2-dpm": {"tolerance": 0.03},
        "lsun-ddpm": {"tolerance": 0.5},
        "lsun-ddim": {"tolerance": 0.003},
        "imagenet-edm": {"tolerance": 0.01},
        "imagenet-vp": {"tolerance": 0.01},
        "imagenet-ve": {"tolerance": 0.1},
    }

    tolerance: float = Field(
        default=0.03, ge=0, allow_inf_nan=False, description="Largest accepted change; 0 is exact."
    )
    norm: Norm = Field(default="sigma", description="Scale of the tolerance.")
    precondition: int = Field(default=1, ge=0, description="M, steps taken one by one before the window opens.")
    guess: Guess = Field(default="clean_estimate", description="Of the first window.")
    entering: Guess = Field(default="clean_estimate", description="Of the states that enter the window.")
    degree: int = Field(
        default=8, ge=1, description="ϱ, nodes at the front of the window that are evaluated, e.g. one a device."
    )
    accept: Literal["evaluated", "all"] = Field(
        default="evaluated",
        description="States that may be accepted: those of evaluated steps, or all as in the paper: not exact.",
    )


class SecantConfig(QuasiNewtonConfig):
    """Settings of :class:`paraflowkit.solvers.secant.Secant`."""


class LatticeConfig(QuasiNewtonConfig):
    """Settings of :class:`paraflowkit.solvers.lattice.Lattice`."""

    spacing: int | None = Field(
        default=None,
        ge=1,
        description="Steps between evaluated nodes, a power of two; by default by the number of steps and the wanted "
        "error. It is halved where interpolating between them is not good enough.",
    )

    @field_validator("spacing")
    @classmethod
    def _spacing_halves(cls, spacing: int | None) -> int | None:
        if spacing is not None and spacing & (spacing - 1):
            raise ValueError(f"{spacing} cannot be halved down to 1: use 1, 2, 4, 8, …")
        return spacing


class AutoConfig(QuasiNewtonConfig):
    """Settings of :class:`paraflowkit.solvers.auto.Auto`, which needs none."""

    error: float | None = Field(
        default=1e-2,
        gt=0,
        allow_inf_nan=False,
        description="Wanted relative RMSE of the final sample to the sequential one; with null, a tolerance.",
    )
    most: int = Field(default=64, ge=1, description="Nodes that are evaluated at once, at most.")
