"""Networks too big for one device: each process of a time group holds a piece of the weights."""

from __future__ import annotations

from collections.abc import Generator

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from paraflowkit.fabric.mesh import Mesh

#: Modules that only hold others, some of them without a call of their own.
_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def shard(model: nn.Module, mesh: Mesh) -> None:
    """Leave each process of a time group a piece of the network's weights, in place.

    The weights of a block are gathered when it is called and freed after it (FSDP2 of torch; ZeRO-3 [1]), so that a
    device needs memory for its piece and for the largest blocks. Blocks are the members of the network's outermost
    lists of modules; what lies outside of them is a block as well. From now on all processes of the group must call
    the network equally often, each with rows of its own; :class:`~paraflowkit.fabric.evaluator.Evaluator` sees to it.

    What is sharded is ``model.network`` where the model has one, else the model; parts beside it, such as text encoders
    and decoders, are whole everywhere. All that is sharded must be called as modules are, for it is in a call that
    weights are gathered. Nothing is done to a model that is sharded already, by hand for instance, nor in a group of
    one process.

    [1] S. Rajbhandari, J. Rasley, O. Ruwase, Y. He: ZeRO: Memory optimizations toward training trillion parameter
    models, SC 2020.

    Args:
        model: with equal weights in all processes, in its final precision. It may be on the CPU: a piece at a time goes
            to the device. mesh: of the processes.
    """
    if mesh.time == 1 or mesh.device_mesh is None or is_sharded(model):
        return
    network = getattr(model, "network", None)
    whole = network if isinstance(network, nn.Module) else model
    for part in [*_blocks(whole), whole]:
        # No policy of precision: the times are float64 and stay so.
        fully_shard(part, mesh=mesh.device_mesh["time"], reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model or a part of it is sharded by FSDP2, so that processes must call it equally often."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def _blocks(module: nn.Module) -> Generator[nn.Module]:
    """Members with weights of the outermost lists of modules."""
    for child in module.children():
        if not isinstance(module, _LISTS) or isinstance(child, _LISTS):
            yield from _blocks(child)
        elif next(child.parameters(), None) is not None:
            yield child
