"""What a run works with, once its pieces are known to fit each other and the requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning.fabric import Fabric

from paraflowkit.config import RunConfig
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.folder import check_same_weights
from paraflowkit.fabric.mesh import Mesh
from paraflowkit.fabric.pieces import Pieces, make_component, make_maker, make_model, with_grid
from paraflowkit.requests import Request
from paraflowkit.solve import check_pair


@dataclass(frozen=True)
class Setup:
    """Configuration, processes and pieces of a run.

    Attributes:
        config: with the grid that is used. requests: all of them. fabric: launched. mesh: where this process sits.
        pieces: the plugins. make: turns requests into a problem. batches: the requests in batches.
        first: the first batch's problem.
    """

    config: RunConfig
    requests: Sequence[Request]
    fabric: Fabric
    mesh: Mesh
    pieces: Pieces
    make: Callable[[Sequence[Request]], Problem]
    batches: Sequence[Sequence[Request]]
    first: Problem

    @classmethod
    def build(
        cls, config: RunConfig, requests: list[Request], fabric: Fabric, mesh: Mesh, model: VelocityModel | None = None
    ) -> Setup:
        """Put a run together.

        Args:
            model: in place of the configured one.

        Raises:
            ParaflowkitError: pieces that do not fit each other or the requests.
        """
        try:
            pieces = Pieces(
                model=model or make_model(config, fabric),
                stepper=make_component(config.stepper),
                solver=make_component(config.solver),
                window=make_component(config.window),
            )
            # The conditions of all requests are looked at before the first is made.
            pieces.model.condition([r.class_id for r in requests], [r.prompt for r in requests])
            config = with_grid(config, pieces.model)
            check_same_weights(fabric, pieces.model, mesh)  # while each process has them all
            make = make_maker(config, fabric, pieces, mesh)
            batches = [requests[i : i + config.run.batch] for i in range(0, len(requests), config.run.batch)]
            first = make(batches[0])
            check_pair(first.rule, pieces.solver)
        except ValueError as error:
            raise ParaflowkitError(str(error)) from error
        return cls(config, requests, fabric, mesh, pieces, make, batches, first)
