"""Settings of the solvers; importing this loads no torch."""

from __future__ import annotations

from pydantic import Field

from paraflowkit.core.config import Norm, SolverConfig


class SequentialConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.sequential.Sequential`; tolerance and norm have no effect."""

    tolerance: float = Field(default=0.0, ge=0, le=0, description="Always 0: sequential sampling is exact.")


class ParaDiGMSConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.paradigms.ParaDiGMS`; defaults of the paper's image experiments."""

    tolerance: float = Field(default=0.1, ge=0, allow_inf_nan=False, description="Largest accepted change; 0 is exact.")
    norm: Norm = Field(default="posterior", description="Scale of the tolerance.")


class ParaFlowConfig(SolverConfig):
    """Settings of :class:`paraflowkit.solvers.paraflow.ParaFlow`; the paper's: 0.005 for SD3, 0.01 for Flux."""

    tolerance: float = Field(
        default=5e-3, ge=0, allow_inf_nan=False, description="Largest accepted change; 0 is exact."
    )
    norm: Norm = Field(default="absolute", description="Scale of the tolerance.")
