"""Several processes for the command line: torch's elastic agent starts them, and ends all when one fails.

Importing this loads no torch.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from paraflowkit.errors import ParaflowkitError

#: Environment variables of the processes that :func:`launch` starts: who did, and where to tell of samples that failed.
PARENT, FAILED = "PARAFLOWKIT_PARENT", "PARAFLOWKIT_FAILED"


def launched() -> bool:
    """Whether something has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ


def first_process() -> bool:
    """Whether this process is the one that talks."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def launch(processes: int, arguments: Sequence[str]) -> bool:
    """Run ``paraflowkit`` with these arguments in several processes of this machine, and wait for them.

    Returns:
        Whether all samples converged.

    Raises:
        ParaflowkitError: one failed; the sentence names its rank, the host and the cause. The others are ended. Or
            SLURM has started several processes already.
        KeyboardInterrupt: the user stopped them.
    """
    _refuse_srun(processes)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process would otherwise take all cores for itself
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it tells every process's end at length
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    try:
        with TemporaryDirectory() as folder:
            failed = Path(folder) / "failed"
            os.environ |= {PARENT: str(os.getpid()), FAILED: str(failed)}
            elastic_launch(config, sys.executable)("-m", "paraflowkit", *arguments)
            return not failed.exists()
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise ParaflowkitError(
            f"Ended by {error.sigval.name}. What was finished is kept: the same command with --resume makes the rest."
        ) from error
    except ChildFailedError as error:
        # Those that say why come before those that were ended for it.
        told = {rank: failure for rank, failure in error.failures.items() if os.path.isfile(failure.error_file)}
        rank, failure = min((told or error.failures).items(), key=lambda item: item[1].timestamp)
        if failure.exitcode < 0:
            cause = f"it was ended by {failure.signal_name()}."
        elif os.path.isfile(failure.error_file):
            cause = failure.message
            if cause.startswith("Rank "):  # what one process says of another
                raise ParaflowkitError(cause) from error
        else:
            cause = f"it ended with exit code {failure.exitcode}."
        raise ParaflowkitError(f"Rank {rank} of {processes} on {platform.node()} failed: {cause}") from error
    finally:
        for name in (PARENT, FAILED):
            os.environ.pop(name, None)


def _refuse_srun(processes: int) -> None:
    """Refuse to start processes in each of several that SLURM's ``srun`` has started.

    Raises:
        ParaflowkitError: the sentence names the variable that says so.
    """
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in os.environ else "SLURM_NTASKS"
    tasks = os.environ.get(name, "")
    # An allocation alone sets the number of tasks, and an interactive job all of them without having started one.
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_PROCID" in os.environ and tasks.isdecimal() and int(tasks) > 1 and not interactive:
        raise ParaflowkitError(
            f"srun has started {tasks} processes ({name}), and fabric.devices={processes} would start {processes} more "
            "in each: give srun one task a machine (--ntasks-per-node=1), on several machines that of torchrun; or "
            f"unset {name} if srun has not started this."
        )


def report(message: str) -> bool:
    """Leave the agent that started this process, if there is one, the reason for which it ends; whether it was told."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return False
    with open(path, "w") as file:
        json.dump({"message": message, "timestamp": int(time.time())}, file)
    return True


def mesh_sizes(
    processes: int, data: int | None, time: int | None, tensor: int = 1, shard: bool = False
) -> tuple[int, int]:
    """The sizes ``data`` and ``time`` of the mesh, of which none, one or both are given.

    Args:
        tensor: the third size. shard: weights are sharded over ``time``.

    Raises:
        ParaflowkitError: they do not make up the number of processes, or there is nothing to shard over.
    """
    given = (data or 1) * (time or 1) * tensor
    if processes % given or (data is not None and time is not None and given != processes):
        sizes = (("data", data), ("time", time), ("tensor", tensor if tensor > 1 else None))
        said = " × ".join(f"mesh.{name}={size}" for name, size in sizes if size is not None)
        raise ParaflowkitError(
            f"{said} does not fit {processes} processes: choose sizes whose product is {processes}, or leave one out."
        )
    if time is None:
        data = data or 1
        time = processes // (data * tensor)
    if shard and time == 1 and processes > 1:
        raise ParaflowkitError(
            "mesh.shard leaves each process of a time group a piece of the network, but the groups have one process "
            "each: set mesh.time to 2 or more."
        )
    return processes // (time * tensor), time
