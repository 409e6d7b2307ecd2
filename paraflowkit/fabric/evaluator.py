"""Where network rows are evaluated: on the device and in the precision of a Fabric."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import Tensor

from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError


class Evaluator:
    """Calls a model with rows of states at node indices.

    States and conditions are cast by the Fabric's precision plugin; times never are: they are looked up here in
    float64, because a plugin that casts every float argument makes distinct times equal (1000 flow times become 507 in
    bfloat16). For that reason the model is not wrapped by ``Fabric.setup_module``, which would also demand trainable
    parameters under DDP.

    Args:
        fabric: launched by the user or by predict. model: moved to the Fabric's device, converted to its precision.
        times: float64 ``(N + 1,)``, of the nodes. dtype: of the solver's states; float64 lifts the network to float64.

    Raises:
        ParaflowkitError: the Fabric has more than one process.
    """

    def __init__(self, fabric: Fabric, model: VelocityModel, times: Tensor, dtype: torch.dtype) -> None:
        if fabric.world_size > 1:
            raise ParaflowkitError("Sampling runs on one device so far: set fabric.devices to 1.")
        self.precision = fabric.strategy.precision
        self.fabric = fabric
        self.wide = dtype == torch.float64
        model = model.double() if self.wide else self.precision.convert_module(model)  # pyright: ignore[reportAssignmentType]
        self.model = fabric.to_device(model.eval())
        self.times = times.to(fabric.device)

    def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        """Raw output ``(rows, *shape)``, of x's dtype."""
        t = self.times[node]
        if self.wide:
            return self.model(x, t, cond)
        with torch.no_grad(), self.fabric.autocast():
            out = self.model(self.precision.convert_input(x), t, self.precision.convert_input(cond))
        return out.to(x.dtype)
