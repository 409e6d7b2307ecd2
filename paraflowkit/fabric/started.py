"""Was this process started alone or as one of several? The environment says, and must not say the impossible."""

from __future__ import annotations

import json
import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from paraflowkit.config import RunConfig
from paraflowkit.errors import ParaflowkitError

_REMEDY = "To start several processes, set fabric.devices or use torchrun."


def count_processes(devices: int) -> tuple[int, int]:
    """Processes of the run in all and on this machine; by default one for each of its devices.

    Raises:
        ParaflowkitError: what the environment says does not fit the devices; the sentence names the variable.
    """
    here = _number("LOCAL_WORLD_SIZE", devices, least=1)
    if here != devices:
        raise ParaflowkitError(
            f"fabric.devices is {devices}, but {here} processes were started on this machine: set it to {here}."
        )
    world = _number("WORLD_SIZE", here, least=1)
    if world % here:
        raise ParaflowkitError(
            f"The environment says WORLD_SIZE={world}, no multiple of fabric.devices={devices}: set fabric.devices to "
            f"the processes of each machine, or unset WORLD_SIZE if something else has left it. {_REMEDY}"
        )
    for name, below in (("RANK", world), ("LOCAL_RANK", here)):
        if _number(name, 0, least=0) >= below:
            raise ParaflowkitError(
                f"The environment says {name}={os.environ[name]}, but there are {below} such processes, counted from "
                f"0: unset {name} if something else has left it. {_REMEDY}"
            )
    return world, here


def check_meeting(environment: ClusterEnvironment | None, world: int, here: int) -> None:
    """Refuse to wait for processes that cannot come, or that could not find this one.

    Args:
        environment: what Fabric takes the process to be part of, None with one device. world, here: as counted.

    Raises:
        ParaflowkitError: the sentence names the variable that is missing, or too many.
    """
    if world == 1 or environment is None:
        return
    if not environment.creates_processes_externally and world > here and "NODE_RANK" not in os.environ:
        raise ParaflowkitError(
            f"The environment says WORLD_SIZE={world}, but not which of those processes this one is (RANK, "
            f"LOCAL_RANK): unset WORLD_SIZE if something else has left it. {_REMEDY}"
        )
    if isinstance(environment, LightningEnvironment) and "LOCAL_RANK" in os.environ:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ParaflowkitError(
                f"The environment says LOCAL_RANK={os.environ['LOCAL_RANK']}, but has no {' and no '.join(missing)}, "
                f"by which processes find each other: unset LOCAL_RANK if something else has left it. {_REMEDY}"
            )


def check_mesh(config: RunConfig, world: int) -> None:
    """Refuse sizes of a mesh that there is not.

    Raises:
        ParaflowkitError: the sentence names the setting.
    """
    wanted = config.mesh.model_dump(exclude_defaults=True)
    given = " × ".join(f"mesh.{name}={json.dumps(value)}" for name, value in wanted.items())
    if given and config.fabric.strategy != "auto":
        raise ParaflowkitError(
            f"{given} needs the strategy auto: leave out fabric.strategy={config.fabric.strategy}, or the section mesh."
        )
    if world == 1 and set(wanted.values()) - {None, 1}:
        raise ParaflowkitError(
            f"{given} needs several processes, but there is one: set fabric.devices, or leave out the section mesh."
        )


def _number(name: str, default: int, least: int) -> int:
    said = os.environ.get(name, str(default))
    if not said.isdecimal() or int(said) < least:
        raise ParaflowkitError(f"The environment says {name}={said}, where a number from {least} on belongs: unset it.")
    return int(said)
