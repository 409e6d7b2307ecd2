"""Ranks on a mesh of data × time × tensor, and a Fabric strategy that puts them there.

Requests are split over ``data``: its groups never wait for each other. The rows of each network call are split over
``time``: the ranks of a group run the same solve, each evaluates its share of the rows, and all get all outputs. The
ranks of ``tensor`` hold the pieces of one network and evaluate the same rows together.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

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
        data, time, tensor: sizes of the dimensions. data_rank, time_rank, tensor_rank: this process's coordinates.
        group: of the processes that share this one's rows, None where there is no other. ranks: their global ranks.
        tensor_group: of the processes that hold the pieces of this one's network, None where there is no other.
        tensor_ranks: their global ranks. shard: weights are to be sharded over ``time``.
        device_mesh: torch's, None for a process that is alone.
    """

    data: int = 1
    time: int = 1
    data_rank: int = 0
    time_rank: int = 0
    group: Any = None
    ranks: tuple[int, ...] = (0,)
    tensor: int = 1
    tensor_rank: int = 0
    tensor_group: Any = None
    tensor_ranks: tuple[int, ...] = (0,)
    shard: bool = False
    device_mesh: DeviceMesh | None = None

    @classmethod
    def of(cls, fabric: Fabric) -> Mesh:
        """The mesh of a launched Fabric: that of its :class:`MeshStrategy`; with any other, all ranks share the time.

        Raises:
            ParaflowkitError: the strategy shards or replicates in a way that sampling cannot use, or its sizes do not
                make up the number of processes or are not those of other processes.
        """
        check_strategy(fabric)
        if isinstance(fabric.strategy, MeshStrategy):
            return fabric.strategy.mesh
        if fabric.world_size == 1:
            return cls()
        sizes = _agreed_sizes(fabric.world_size)
        return cls.build(sizes.data, sizes.time, fabric.device.type)

    @classmethod
    def build(cls, data: int, time: int, device: str, tensor: int = 1, shard: bool = False) -> Mesh:
        """The mesh of ``data`` × ``time`` × ``tensor`` processes of an initialised process group.

        Neighbours hold pieces of one network, then neighbouring such groups share their time.
        """
        mesh: DeviceMesh = init_device_mesh(device, (data, time, tensor), mesh_dim_names=("data", "time", "tensor"))
        groups = {name: None if mesh[name].size() == 1 else mesh.get_group(name) for name in ("time", "tensor")}
        return cls(
            data,
            time,
            mesh.get_local_rank("data"),
            mesh.get_local_rank("time"),
            groups["time"],
            tuple(mesh["time"].mesh.tolist()),
            tensor,
            mesh.get_local_rank("tensor"),
            groups["tensor"],
            tuple(mesh["tensor"].mesh.tolist()),
            shard,
            mesh,
        )

    @property
    def leads(self) -> bool:
        """Whether this process is the first of those that run its solve, and speaks for them."""
        return self.time_rank == 0 and self.tensor_rank == 0

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
        """The first rank's ``decision``, on every rank that runs the same solve.

        Ranks compute their decisions from the same outputs, but devices of two kinds may round differently, and ranks
        that went different ways would wait for each other for ever.
        """
        if self.group is None and self.tensor_group is None:
            return decision
        said = decision.to(torch.int64).contiguous()
        with _connected():
            # First along the time, then each rank of the first pieces tells those of the others.
            for group, ranks in ((self.group, self.ranks), (self.tensor_group, self.tensor_ranks)):
                if group is not None:
                    dist.broadcast(said, src=ranks[0], group=group)
        return said.to(decision.dtype)


def check_strategy(fabric: Fabric) -> None:
    """Refuse what cannot sample, before processes speak with each other.

    Raises:
        ParaflowkitError: the strategy shards or replicates in a way that sampling cannot use.
    """
    if fabric.world_size > 1 and not isinstance(fabric.strategy, DDPStrategy):
        raise ParaflowkitError(
            f"The strategy {type(fabric.strategy).__name__} cannot share a solve between processes: use "
            "MeshStrategy of paraflowkit.fabric.mesh, or ddp."
        )


class _Sizes(NamedTuple):
    """Of a mesh."""

    data: int
    time: int
    tensor: int
    shard: bool


#: What a strategy was given of them; what is None makes up the number of processes.
_Given = tuple[int | None, int | None, int, bool]


def _agreed_sizes(world: int, given: _Given = (None, None, 1, False)) -> _Sizes:
    """The sizes of the mesh, once it is known that all processes would make the same; all must call this.

    Two that made different ones would wait for each other for ever. By default all processes share the time.

    Raises:
        ParaflowkitError: on every process; the sizes do not make up the number of processes, or differ.
    """
    everyone = [(platform.node(), given)] * world
    if world > 1:
        dist.all_gather_object(everyone, (platform.node(), given))
    made = [_Sizes(*mesh_sizes(world, *each), *each[2:]) for _, each in everyone]
    for rank, sizes in enumerate(made):
        if sizes != made[0]:
            raise ParaflowkitError(
                f"Rank {rank} on {everyone[rank][0]} was started with {_strategy(sizes)}, rank 0 on {everyone[0][0]} "
                f"with {_strategy(made[0])}: give all processes the same strategy."
            )
    return made[0]


def _strategy(sizes: _Sizes) -> str:
    """In the words of a script."""
    more = (f", tensor={sizes.tensor}" if sizes.tensor > 1 else "") + (", shard=True" if sizes.shard else "")
    return f"MeshStrategy(data={sizes.data}, time={sizes.time}{more})"


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
        shard: leave each process of a time group a piece of the weights, see :func:`paraflowkit.fabric.shard.shard`.
        tensor: processes that evaluate the same rows together, each with a piece of the network that the caller has
            given it over ``device_mesh["tensor"]``.
        timeout: of collectives. options: of :class:`lightning.fabric.strategies.DDPStrategy`, such as
            ``process_group_backend`` and ``start_method``.

    Raises:
        ParaflowkitError: at launch, when the sizes do not make up the number of processes.
    """

    def __init__(
        self,
        time: int | None = None,
        data: int | None = None,
        shard: bool = False,
        tensor: int = 1,
        # A group may wait long for another at the end; who is lost meanwhile is the business of `Watch`.
        timeout: timedelta = timedelta(days=1),
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, **options)
        for name, size in (("time", time), ("data", data), ("tensor", tensor)):
            if size is not None and size < 1:
                raise ParaflowkitError(f"mesh.{name} must be at least 1, got {size}.")
        self._given: _Given = (data, time, tensor, shard)
        self._mesh: Mesh | None = None

    @property
    def mesh(self) -> Mesh:
        """The mesh, made when it is first asked for.

        Raises:
            ParaflowkitError: the sizes do not make up the number of processes, or are not those of other processes.
        """
        if self._mesh is None:
            sizes = _agreed_sizes(self.world_size, self._given)
            self._mesh = Mesh.build(sizes.data, sizes.time, self.root_device.type, sizes.tensor, sizes.shard)
        return self._mesh

    @property
    def device_mesh(self) -> DeviceMesh:
        """torch's mesh of the launched processes, with the dimensions ``data``, ``time`` and ``tensor``.

        Raises:
            ParaflowkitError: as :attr:`mesh` does.
        """
        made = self.mesh.device_mesh
        assert made is not None  # `build` gives one
        return made

    def setup_module(self, module: torch.nn.Module) -> torch.nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The module as it is: nothing is trained, and DDP refuses a network without gradients."""
        return module
