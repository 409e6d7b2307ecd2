"""Ranks on a mesh of data × time, and a Fabric strategy that puts them there.

Requests are split over ``data``: its groups never wait for each other. The rows of each network call are split over
``time``: the ranks of a group run the same solve, each evaluates its share of the rows, and all get all outputs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.launch import mesh_sizes

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Mesh:
    """Where this process sits.

    Attributes:
        data, time: sizes of the two dimensions. data_rank, time_rank: this process's coordinates.
        group: of the processes that share this one's solve, None where there is no other. ranks: their global ranks.
    """

    data: int = 1
    time: int = 1
    data_rank: int = 0
    time_rank: int = 0
    group: Any = None
    ranks: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, fabric: Fabric) -> Mesh:
        """The mesh of a launched Fabric: that of its :class:`MeshStrategy`; with any other, all ranks share the time.

        Raises:
            ParaflowkitError: the strategy shards or replicates in a way that sampling cannot use.
        """
        if isinstance(fabric.strategy, MeshStrategy):
            return fabric.strategy.mesh
        if fabric.world_size == 1:
            return cls()
        if not isinstance(fabric.strategy, DDPStrategy):
            raise ParaflowkitError(
                f"The strategy {type(fabric.strategy).__name__} cannot share a solve between processes: use "
                "MeshStrategy of paraflowkit.fabric.mesh, or ddp."
            )
        return cls.build(1, fabric.world_size, fabric.device.type)

    @classmethod
    def build(cls, data: int, time: int, device: str) -> Mesh:
        """The mesh of ``data`` × ``time`` processes of an initialised process group; neighbours share their time."""
        mesh: DeviceMesh = init_device_mesh(device, (data, time), mesh_dim_names=("data", "time"))
        at_data, at_time = mesh.get_local_rank("data"), mesh.get_local_rank("time")
        if time == 1:
            return cls(data, time, at_data, at_time, None, (at_data,))
        return cls(data, time, at_data, at_time, mesh.get_group("time"), tuple(mesh["time"].mesh.tolist()))

    def mine(self, items: Sequence[ItemT]) -> list[ItemT]:
        """This data group's part of a list, in turn: as even as can be, none twice, none left out."""
        return list(items[self.data_rank :: self.data])

    def shares(self, rows: int) -> list[slice]:
        """Neighbouring rows of each rank of a time group; sizes differ by one at most, and may be 0."""
        each, more = divmod(rows, self.time)
        ends = [0]
        for rank in range(self.time):
            ends.append(ends[-1] + each + (rank < more))
        return [slice(lo, hi) for lo, hi in pairwise(ends)]

    def gather(self, out: Tensor) -> None:
        """Fill the shares of the other ranks in ``out`` ``(rows, …)``, in place.

        One broadcast a rank into a view of the result: unlike an all-gather, it takes shares of any size without
        padding or copies, and over gloo it is the faster one besides.
        """
        with _connected():
            works = [
                dist.broadcast(out[share], src=rank, group=self.group, async_op=True)
                for rank, share in zip(self.ranks, self.shares(len(out)), strict=True)
                if share.stop > share.start
            ]
            for work in works:
                if work is not None:
                    work.wait()

    def agree(self, decision: Tensor) -> Tensor:
        """The first rank's ``decision``, on every rank of the time group.

        Ranks compute their decisions from the same outputs, but devices of two kinds may round differently, and ranks
        that went different ways would wait for each other for ever.
        """
        if self.group is None:
            return decision
        said = decision.to(torch.int64).contiguous()
        with _connected():
            dist.broadcast(said, src=self.ranks[0], group=self.group)
        return said.to(decision.dtype)


@contextmanager
def _connected() -> Generator[None]:
    """Say it in a sentence when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ParaflowkitError(
            f"The connection to another process of this solve broke, because that one has ended: its own message says "
            f"why. ({str(error).splitlines()[0]})"
        ) from error


class MeshStrategy(DDPStrategy):
    """Fabric's DDP strategy with its processes on a mesh of data × time, and without DDP's wrapping of networks.

    ``Fabric(devices=4, strategy=MeshStrategy(time=2))`` makes two groups of two.

    Args:
        time: processes that share a solve; by default all of them. data: groups; by default what ``time`` leaves.
        timeout: of collectives. options: of :class:`lightning.fabric.strategies.DDPStrategy`, such as
            ``process_group_backend`` and ``start_method``.

    Raises:
        ParaflowkitError: at launch, when ``data`` times ``time`` is not the number of processes.
    """

    def __init__(
        self,
        time: int | None = None,
        data: int | None = None,
        # A group may wait long for another at the end; who is lost meanwhile is the business of `Watch`.
        timeout: timedelta = timedelta(days=1),
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, **options)
        for name, size in (("time", time), ("data", data)):
            if size is not None and size < 1:
                raise ParaflowkitError(f"mesh.{name} must be at least 1, got {size}.")
        self._sizes = (data, time)
        self._mesh: Mesh | None = None

    @property
    def mesh(self) -> Mesh:
        """The mesh, made when it is first asked for.

        Raises:
            ParaflowkitError: the sizes do not make up the number of processes.
        """
        if self._mesh is None:
            data, time = mesh_sizes(self.world_size, *self._sizes)
            self._mesh = Mesh() if self.world_size == 1 else Mesh.build(data, time, self.root_device.type)
        return self._mesh

    def setup_module(self, module: torch.nn.Module) -> torch.nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The module as it is: nothing is trained, and DDP refuses a network without gradients."""
        return module
