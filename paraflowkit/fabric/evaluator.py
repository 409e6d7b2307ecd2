"""Where network rows are evaluated: on the devices and in the precision of a Fabric."""

from __future__ import annotations

import logging
import time
from math import ceil

import torch
from lightning.fabric import Fabric
from torch import Tensor

from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.mesh import Mesh
from paraflowkit.fabric.shard import is_sharded, shard
from paraflowkit.fabric.sizes import Sizes

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
        mesh: the ranks; by default that of the Fabric. compiled: compile the network, by
            :meth:`~paraflowkit.core.model.VelocityModel.compile_network`, and pad its calls to few numbers of rows.

    Attributes:
        compile_seconds: of calls with a number of rows that the network had to be compiled for.
        filled: rows by which calls of a compiled network were filled up, those of all ranks.
        most: rows that a call may have since the device's memory was exhausted, None as long as it was not.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: VelocityModel,
        times: Tensor,
        dtype: torch.dtype,
        mesh: Mesh | None = None,
        compiled: bool = False,
    ) -> None:
        self.mesh = Mesh.of(fabric) if mesh is None else mesh
        self.compile_seconds = 0.0
        self.filled = 0
        self.most: int | None = None
        self.sizes = Sizes() if compiled else None
        self.precision = fabric.strategy.precision
        self.fabric = fabric
        self.wide = dtype == torch.float64
        before = {p.dtype for p in model.parameters()} if is_sharded(model) else None
        model = model.double() if self.wide else self.precision.convert_module(model)  # pyright: ignore[reportAssignmentType]
        if before is not None and before != {p.dtype for p in model.parameters()}:
            raise ParaflowkitError(
                "The network is sharded already, in another precision than that of this run: use a new one, or convert "
                "it before it is sharded."
            )
        if self.mesh.shard:  # not later: the whole of it may not fit the device
            shard(model, self.mesh)
        self.sharded = is_sharded(model)
        if compiled and self.sharded:
            raise ParaflowkitError(
                "fabric.compile does not go with mesh.shard: compiled calls are cut and padded by each process for "
                "itself, and a sharded network must be called equally often by all. Leave out one of them."
            )
        self.model = fabric.to_device(model.eval())
        if compiled:  # not before: what is compiled is bound to its device and precision
            model.compile_network()
        self.times = times.to(fabric.device)
        self._waited = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        """Raw output ``(rows, *shape)``, of x's dtype; the same on every rank of a time group."""
        if self.mesh.time == 1:
            return self._call(x, node, cond)
        mine = self.mesh.shares(len(x))[self.mesh.time_rank]
        channels, *rest = x.shape[1:]
        out = x.new_empty(len(x), channels * (2 if self.model.learned_variance else 1), *rest)
        own = mine.stop - mine.start
        if self.sizes is not None and len(x):
            # As many as the largest share has, filled up with rows of others: all compile at once, idle ones too.
            largest = ceil(len(x) / self.mesh.time)
            rows = torch.arange(mine.start, mine.start + largest, device=x.device).clamp(max=len(x) - 1)
            out[mine] = self._call(x[rows], node[rows], None if cond is None else cond[rows])[:own]
            self.filled += self.mesh.time * largest - len(x)
        elif own:
            out[mine] = self._call(x[mine], node[mine], None if cond is None else cond[mine])
        elif self.sharded and len(x):  # the weights of a block are gathered by all processes, or by none
            self._call(x[:1], node[:1], None if cond is None else cond[:1])
        self._gather(out)
        return out

    def _gather(self, out: Tensor) -> None:
        """Get the outputs of the other ranks, and clock it."""
        if out.device.type != "cuda":
            began = time.perf_counter()
            self.mesh.gather(out)
            self._waited += time.perf_counter() - began
            return
        # There the host only queues calls and collectives: it is the stream that waits, first for its own call.
        stream = torch.cuda.current_stream(out.device)
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record(stream)
        self.mesh.gather(out)
        ended.record(stream)
        self._marks.append((begun, ended))

    @property
    def gather_seconds(self) -> float:
        """How long this rank has waited for the outputs of others, their way included; its own calls are not in it."""
        for begun, ended in self._marks:
            ended.synchronize()
            self._waited += begun.elapsed_time(ended) / 1e3
        self._marks.clear()
        return self._waited

    def agree(self, decision: Tensor) -> Tensor:
        """The decision of the group's first rank."""
        return self.mesh.agree(decision)

    def _call(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        """The rows in one call, or in several where the memory was once too small for one."""
        rows = len(x)
        most = self.most if self.sizes is None else self.sizes.most(rows, self.most)
        if most is not None and rows > most:
            parts = [slice(at, at + most) for at in range(0, rows, most)]
            return torch.cat([self._call(x[p], node[p], None if cond is None else cond[p]) for p in parts])
        try:
            return self._forward(x, node, cond) if self.sizes is None else self._padded(x, node, cond, self.sizes)
        except RuntimeError as error:
            if not _exhausted(error):
                raise
            if rows == 1:
                raise ParaflowkitError(
                    f"The memory of {x.device} is too small for a single row of this network: choose a smaller size or "
                    "fabric.precision, or a device with more memory."
                ) from error
            if self.sharded or self.mesh.tensor > 1:  # a process that went on by itself would meet others elsewhere
                raise ParaflowkitError(
                    f"The memory of {x.device} is too small for {rows} rows in a call of a network that several "
                    f"processes hold together: set run.max_rows to {max(1, rows * self.mesh.time // 2)} or less."
                ) from error
        # Outside the handler, whose traceback would keep the failed call's tensors alive.
        if self.sizes is not None:
            self.sizes.forget(rows)
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

    def _padded(self, x: Tensor, node: Tensor, cond: Tensor | None, sizes: Sizes) -> Tensor:
        """A call with as many rows as the network has been compiled for, or is now; the last row fills it up."""
        rows = len(x)
        size, new = sizes.choose(rows)
        self.filled += self.mesh.time * (size - rows)
        fill = torch.arange(size, device=x.device).clamp(max=rows - 1)
        began = time.perf_counter()
        out = self._forward(x[fill], node[fill], None if cond is None else cond[fill])[:rows]
        if new:
            self.compile_seconds += time.perf_counter() - began
        return out

    def _forward(self, x: Tensor, node: Tensor, cond: Tensor | None) -> Tensor:
        t = self.times[node]
        if self.wide:
            return self.model(x, t, cond)
        with torch.no_grad(), self.fabric.autocast():
            out = self.model(self.precision.convert_input(x), t, self.precision.convert_input(cond))
        return out.to(x.dtype)
