"""Settings of parareal; importing this loads no torch."""

from __future__ import annotations

from paraflowkit.core.config import SolverConfig
from pydantic import Field


class PararealConfig(SolverConfig):
    """Settings of :class:`paraflowkit_parareal.solver.Parareal`.

    The tolerance is on the mean squared change of a block's first state from one iteration to the next. ``guess`` and
    ``entering`` have no effect: the coarse solver makes the first states.
    """

    blocks: int | None = Field(
        default=None,
        ge=1,
        description="Blocks that the steps are cut into; near their square root by default. A block has at least two "
        "steps (one step is the coarse solver itself), so more than N/2 blocks are taken as N/2; 1 is sequential.",
    )
