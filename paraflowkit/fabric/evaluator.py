"""Where network rows are evaluated: on the devices and in the precision of a Fabric."""

from __future__ import annotations

import logging
import time

import torch
from lightning.fabric import Fabric
from torch import Tensor

from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.mesh import Mesh

_log = logging.getLogger("paraflowkit")


def _exhausted(error: RuntimeError) -> bool:
    """Whether it means that memory was exhausted; on a CPU only the words say so."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Evaluator:
    """Calls a model with rows of states at node indices, each rank of a time group with its share of them.

    States and conditions are cast by the Fabric's precision plugin; times never are: they are looked up here in
    float64, because a plugin that casts every float argument makes distinct times equal (1000 flow times become 507 in
    bfloat16). For that reason the model is not wrapped by ``Fabric.setup_module``, which would also demand trainable
    parameters under DDP.

    Args:
        fabric: launched by the user or by predict. model: moved to the Fabric's device, converted to its precision.
        times: float64 ``(N + 1,)``, of the nodes. dtype: of the solver's states; float64 lifts the network to float64.
        mesh: the ranks; by default that of the Fabric.

    Attributes:
        gather_seconds: how long this rank has waited for the outputs of others.
        most: rows that a call may have since the device's memory was exhausted, None as long as it was not.
    """

    def __init__(
        self, fabric: Fabric, model: VelocityModel, times: Tensor, dtype: torch.dtype, mesh: Mesh | None = None
    ) -> None:
        self.mesh = Mesh.of(fabric) if mesh is None else mesh
        self.gather_seconds = 0.0
        self.most: int | None = None
        self.precision = fabric.strategy.precision
        self.fabric = fabric
        self.wide = dtype == torch.float64
        model = model.double() if self.wide else self.precision.convert_module(model)  # pyright: ignore[reportAssignmentType]
        self.model = fabric.to_device(model.eval())
        self.times = times.to(fabric.device)

    def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        """Raw output ``(rows, *shape)``, of x's dtype; the same on every rank of a time group."""
        if self.mesh.time == 1:
            return self._call(x, node, cond)
        mine = self.mesh.shares(len(x))[self.mesh.time_rank]
        channels, *rest = x.shape[1:]
        out = x.new_empty(len(x), channels * (2 if self.model.learned_variance else 1), *rest)
        if mine.stop > mine.start:
            out[mine] = self._call(x[mine], node[mine], None if cond is None else cond[mine])
        began = time.perf_counter()
        self.mesh.gather(out)
        self.gather_seconds += time.perf_counter() - began
        return out

    def agree(self, decision: Tensor) -> Tensor:
        """The decision of the group's first rank."""
        return self.mesh.agree(decision)

    def _call(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        """The rows in one call, or in several where the memory was once too small for one."""
        rows = len(x)
        if self.most is not None and rows > self.most:
            parts = [slice(at, at + self.most) for at in range(0, rows, self.most)]
            return torch.cat([self._call(x[p], node[p], None if cond is None else cond[p]) for p in parts])
        try:
            return self._forward(x, node, cond)
        except RuntimeError as error:
            if not _exhausted(error):
                raise
            if rows == 1:
                raise ParaflowkitError(
                    f"The memory of {x.device} is too small for a single row of this network: choose a smaller size or "
                    "fabric.precision, or a device with more memory."
                ) from error
        # Outside the handler, whose traceback would keep the failed call's tensors alive.
        self.most = (rows + 1) // 2
        if x.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning(
            "The memory of %s is too small for %d rows in a call: going on with %d. run.max_rows sets that at once.",
            x.device,
            rows,
            self.most,
        )
        return self._call(x, node, cond)

    def _forward(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        t = self.times[node]
        if self.wide:
            return self.model(x, t, cond)
        with torch.no_grad(), self.fabric.autocast():
            out = self.model(self.precision.convert_input(x), t, self.precision.convert_input(cond))
        return out.to(x.dtype)
