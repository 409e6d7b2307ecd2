"""Processes for tests: a function on several gloo ranks of this machine, forked and joined within a test."""

from __future__ import annotations

import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import Strategy


def _child(function: Callable[..., Any], rank: int, ranks: int, folder: Path, given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(str(folder / "store"), ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        function(rank, folder, *given)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failed-{rank}").write_text(traceback.format_exc())
        raise


def fabric_of(rank: int = 0, strategy: Strategy | str = "auto", precision: Any = "32-true") -> Fabric:
    """A user's Fabric: within a rank, of processes that were started by something else, as torchrun does."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks > 1:
        os.environ.update(
            LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(ranks), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(ranks),
            TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT="1",
        )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=ranks, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def run_ranks(function: Callable[..., Any], ranks: int, folder: Path, *given: Any, seconds: float = 60.0) -> None:
    """Call ``function(rank, folder, *given)`` on every rank; a failure of any fails the test with its traceback.

    Ranks are forked, so that nothing is imported again; results travel by files in ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_child, args=(function, rank, ranks, folder, given), daemon=True)
        for rank in range(ranks)
    ]
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; those of torch are idle here, and a child begins with one.
        warnings.simplefilter("ignore", DeprecationWarning)
        for child in children:
            child.start()
    for child in children:
        child.join(seconds)
    late = [child for child in children if child.is_alive()]
    for child in late:
        child.kill()
        child.join()
    failed = sorted(folder.glob("failed-*"))
    assert not failed, "\n".join(path.read_text() for path in failed)
    assert not late, f"{len(late)} of {ranks} ranks did not end within {seconds:g} s"
    assert all(child.exitcode == 0 for child in children)
