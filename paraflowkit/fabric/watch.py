"""Do the other processes still live? A run whose processes wait for one that never answers would wait for ever."""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch.distributed as dist
from lightning.fabric import Fabric
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.launch import PARENT, report

#: Seconds without a sign of life after which a process counts as lost.
PATIENCE = 8.0
#: Seconds for which the first process, whose store it is, stays for the others to read there why the run ends.
_LINGER = 2.5


class Place(NamedTuple):
    """Where a process is: the host, for people; within what its number means that process and no other; the number."""

    host: str
    numbering: str
    number: int

    @classmethod
    def here(cls) -> Place:
        """This process's."""
        try:  # machines may share a name, and containers a machine with its name, without sharing numbers
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            numbering = f"{boot} {os.readlink('/proc/self/ns/pid')}"
        except OSError:
            numbering = platform.node()
        return cls(platform.node(), numbering, os.getpid())


def _is_of_another(error: BaseException | None) -> bool:
    """Whether an error only says that another process has gone."""
    while error is not None:
        if isinstance(error, RuntimeError) and re.search("onnection|Broken pipe|remote process", str(error)):
            return True
        error = error.__cause__
    return False


def end_with_parent() -> None:
    """From now on, end this process when the agent that started it, ours or torchrun's, is killed: nobody else would.

    Without an agent there is nothing to do. Called before processes wait for each other for the first time.
    """
    if PARENT in os.environ:
        parent = int(os.environ[PARENT])  # which may already be gone
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
    else:
        return

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # nobody is left to tell

    threading.Thread(target=look, name="paraflowkit_parent", daemon=True).start()


class Watch:
    """Within the block each process gives a sign of life every second and looks for those of all others.

    Signs go through a store of the first process, beside the collectives, from a thread of their own: a long network
    call is no silence, a process that was stopped, or whose machine is gone, is. The first to miss a sign for
    ``patience`` seconds ends its process with a sentence that names the rank and its host, and the lost one as well if
    it is on the same host; the others do so too, or are ended by what started them. A process that leaves the block by
    an exception says so, and the others end with its words.

    Args:
        fabric: launched. patience: seconds.
    """

    def __init__(self, fabric: Fabric, patience: float = PATIENCE) -> None:
        self.fabric, self.patience = fabric, patience
        self._stop = threading.Event()
        self._failed: str | None = None
        self._round = 0.0  # when the store last answered everything
        self._heard: dict[int, float] = {}
        self._threads: list[threading.Thread] = []
        self._store: TCPStore | None = None  # the first process's serves all, for as long as it is held
        self._ending = threading.Lock()

    def __enter__(self) -> Watch:
        fabric = self.fabric
        if fabric.world_size == 1:
            return self
        wait = timedelta(seconds=self.patience)
        server = None
        if fabric.global_rank == 0:
            server = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False, timeout=wait)
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        port: int = fabric.broadcast(server.port if server is not None else 0)
        store = server if server is not None else TCPStore(host, port, is_master=False, timeout=wait)
        self._store = store
        here = Place.here()
        places = [here] * fabric.world_size
        dist.all_gather_object(places, here)
        self._round = time.monotonic()
        self._heard = {rank: self._round for rank in range(len(places)) if rank != fabric.global_rank}
        for work in (self._talk, self._judge):
            thread = threading.Thread(
                target=work, args=(store, places), name=f"paraflowkit{work.__name__}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._threads:
            return
        try:
            if error is None:
                self.fabric.barrier()  # the store must outlive the last look of every process
        except RuntimeError as broken:
            self._leave(broken)
            raise
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if error is not None:
            if _is_of_another(error):
                # Which one, and why, the threads are about to find out: they then end this process with that.
                time.sleep(self.patience + 2.0)
            self._failed = str(error) if isinstance(error, ParaflowkitError) else f"{type(error).__name__}: {error}"
        self._stop.set()
        for thread in self._threads:
            thread.join(2.0)
        if error is not None and self.fabric.global_rank == 0:
            time.sleep(_LINGER)

    def _talk(self, store: TCPStore, places: list[Place]) -> None:
        """All that may have to wait for the store. It hangs if the first process does; ``_judge`` sees that."""
        me, count = self.fabric.global_rank, 0
        signs = dict.fromkeys(self._heard, b"")
        try:
            while not self._stop.wait(1.0):
                count += 1
                store.set(f"alive/{me}", str(count))
                for rank, old in signs.items():
                    if store.check([f"failed/{rank}"]):
                        said = store.get(f"failed/{rank}").decode()
                        self._end(f"Rank {rank} of {len(places)} on {places[rank].host} failed: {said}", None)
                    if store.check([f"alive/{rank}"]) and (sign := store.get(f"alive/{rank}")) != old:
                        signs[rank], self._heard[rank] = sign, time.monotonic()
                self._round = time.monotonic()
            if self._failed is not None:
                store.set(f"failed/{me}", self._failed)
        except (RuntimeError, dist.DistError):
            return  # the store went with the first process: silence from now on

    def _judge(self, store: TCPStore, places: list[Place]) -> None:
        """End this process when another one is lost."""
        while not self._stop.wait(0.5):
            now = time.monotonic()
            if self.fabric.global_rank and now - self._round > self.patience:
                self._lost(0, places)
            for rank, last in self._heard.items():
                if self._round - last > self.patience:  # the store has answered since, without a sign of that one
                    self._lost(rank, places)

    def _lost(self, rank: int, places: list[Place]) -> None:
        said = (
            f"Rank {rank} of {len(places)} on {places[rank].host} has given no sign of life for {self.patience:g} s: "
            "it was stopped or killed, or its machine is gone. What was finished is kept: go on with --resume."
        )
        self._end(said, places[rank])

    def _end(self, said: str, lost: Place | None) -> None:
        """End this process: the main thread may be waiting where no exception reaches it."""
        self._ending.acquire()  # never given back: one thread says why
        if not report(said):
            print(said, file=sys.stderr, flush=True)
        if lost is None and not self.fabric.global_rank:
            time.sleep(_LINGER)
        if lost is not None and lost.numbering == Place.here().numbering:
            # What was stopped hears of nothing but this. It comes later than the reason, which it would else hide.
            time.sleep(1.0)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(lost.number, signal.SIGKILL)
        os._exit(1)
