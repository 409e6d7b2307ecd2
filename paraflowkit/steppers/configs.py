"""Settings of the steppers; importing this loads no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from paraflowkit.core.config import ComponentConfig


class EulerConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.euler.Euler`: none."""


class DDIMConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.ddim.DDIM`."""

    eta: float = Field(default=0.0, ge=0, le=1, description="Noise: 0 is deterministic DDIM, 1 the DDPM posterior.")


class ClippedDDIMConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.clipped_ddim.ClippedDDIM`."""

    eta: float = Field(default=0.0, ge=0, le=1, description="Noise: 0 is deterministic DDIM, 1 the DDPM posterior.")
    clip: float | None = Field(default=None, gt=0, description="Largest absolute value of the data prediction.")
    threshold: float | None = Field(default=None, gt=0, le=1, description="Quantile of dynamic thresholding.")
    threshold_max: float = Field(
        default=1.0, ge=1, allow_inf_nan=False, description="Largest limit of dynamic thresholding."
    )

    @model_validator(mode="after")
    def _one_limit(self) -> ClippedDDIMConfig:
        if (self.clip is None) == (self.threshold is None):
            raise ValueError("set either 'clip' or 'threshold'; without a limit use the stepper ddim")
        if self.threshold is None and self.threshold_max != 1:
            raise ValueError("'threshold_max' belongs to 'threshold': give both")
        return self


class EulerAncestralConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.euler_ancestral.EulerAncestral`."""

    eta: float = Field(default=1.0, ge=0, le=1, description="Share of the ancestral noise; 0 is Euler.")
    s_noise: float = Field(default=1.0, ge=0, le=100, description="Factor of the noise that is added.")


class DDPMConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.ddpm.DDPM`."""

    variance: Literal["fixed_small", "fixed_large", "learned", "learned_range"] = Field(
        default="fixed_small",
        description="Of the noise: that of the posterior, that of the forward step, or what the network predicts: the "
        "variance itself (learned) or its place between those two (learned_range).",
    )


class DPMSolverConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.dpm_solver.DPMSolver`."""

    order: int = Field(default=2, ge=1, le=3, description="Outputs that a step uses.")
    algorithm: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"] = Field(
        default="dpmsolver++", description="++ extrapolates the data prediction, the others the noise; sde adds noise."
    )
    solver_type: Literal["midpoint", "heun"] = Field(
        default="midpoint", description="Weight of the second-order correction."
    )
    lower_order_final: bool = Field(default=True, description="Lower order at the last two of fewer than 15 steps.")
    euler_at_final: bool = Field(default=False, description="Order 1 at the last step whatever their number.")

    @model_validator(mode="after")
    def _published(self) -> DPMSolverConfig:
        if self.order == 3 and self.algorithm == "sde-dpmsolver":
            raise ValueError("sde-dpmsolver exists up to order 2: use order 2, or sde-dpmsolver++")
        return self


class DPMSolverSinglestepConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.dpm_solver_singlestep.DPMSolverSinglestep`."""

    order: int = Field(default=2, ge=1, le=3, description="Nodes in a group; each group starts anew.")
    algorithm: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++"] = Field(
        default="dpmsolver++", description="++ extrapolates the data prediction, dpmsolver the noise; sde adds noise."
    )
    solver_type: Literal["midpoint", "heun"] = Field(default="midpoint", description="Weights of the corrections.")
    lower_order_final: bool = Field(
        default=True,
        description="Lower orders at the end; otherwise the number of steps must be a multiple of the order.",
    )


class HeunConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.heun.Heun`: none."""


class FlowHeunConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.flow_heun.FlowHeun`: none."""


class LMSConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.lms.LMS`."""

    order: int = Field(default=4, ge=1, le=4, description="Outputs that a step uses.")


class UniPCConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.unipc.UniPC`."""

    order: int = Field(default=2, ge=1, le=4, description="Of the predictor; the corrector gains one.")
    predict: Literal["data", "noise"] = Field(default="data", description="What is extrapolated.")
    solver_type: Literal["bh1", "bh2"] = Field(default="bh2", description="B(h) = h, or exp(h) - 1.")
    lower_order_final: bool = Field(default=True, description="Lower orders at the last steps.")
    disable_corrector: list[Annotated[int, Field(ge=0)]] = Field(
        default=[], description="Steps, counted from 0, whose end is not corrected."
    )


class EDMConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.edm.EDMStochastic`; the names of Karras et al. 2022."""

    s_churn: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Noise added over all steps; 0 is Heun.")
    s_tmin: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Noise is added from this sigma / alpha …"
    )
    s_tmax: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="… to this one, or wherever it is larger."
    )
    s_noise: float = Field(default=1.0, ge=0, le=100, description="Factor of the noise that is added.")


class FlowSDEConfig(ComponentConfig):
    """Settings of :class:`paraflowkit.steppers.flow_sde.FlowSDE`."""

    noise_level: float = Field(default=0.7, ge=0, le=100, description="0 is Euler on the velocity.")
    diffusion: Literal["sigma", "ratio"] = Field(
        default="sigma", description="Squared diffusion: noise_level² times sigma, or times sigma / alpha."
    )
