"""Do the other processes still live? A run whose processes wait for one that never answers would wait for ever."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist
from lightning.fabric import Fabric
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from paraflowkit.fabric.launch import report

#: Host and number of a process.
Place = tuple[str, int]
#: Seconds without a sign of life after which a process counts as lost.
PATIENCE = 8.0


class Watch:
    """Within the block each process gives a sign of life every second and looks for those of all others.

    Signs go through a store of the first process, beside the collectives, from a thread of their own: a long network
    call is no silence, a process that was stopped, or whose machine is gone, is. The first to miss a sign for
    ``patience`` seconds ends its process with a sentence that names the rank and its host, and the lost one as well if
    it is on the same host; the others do so too, or are ended by what started them.

    Args:
        fabric: launched. patience: seconds.
    """

    def __init__(self, fabric: Fabric, patience: float = PATIENCE) -> None:
        self.fabric, self.patience = fabric, patience
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

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
        # The server's own client serves the first process; sharing the object between threads would be the fault.
        store = server if server is not None else TCPStore(host, port, is_master=False, timeout=wait)
        places: list[Place] = [("", 0)] * fabric.world_size
        dist.all_gather_object(places, (platform.node(), os.getpid()))
        self._thread = threading.Thread(target=self._run, args=(store, places), name="paraflowkit-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        if kind is None:
            self.fabric.barrier()  # the store must outlive the last look of every process
        self._stop.set()
        self._thread.join()

    def _run(self, store: TCPStore, places: list[Place]) -> None:
        me, count = self.fabric.global_rank, 0
        signs = dict.fromkeys((rank for rank in range(len(places)) if rank != me), b"")
        heard = dict.fromkeys(signs, time.monotonic())
        while not self._stop.wait(1.0):
            count += 1
            now = time.monotonic()
            try:
                store.set(f"alive/{me}", str(count))
                for rank, old in signs.items():
                    if store.check([f"alive/{rank}"]) and (sign := store.get(f"alive/{rank}")) != old:
                        signs[rank], heard[rank] = sign, now
            except (RuntimeError, dist.DistError):  # the store is the first process's
                if self._stop.wait(1.0):
                    return
                self._end(0, places)
            for rank, last in heard.items():
                if now - last > self.patience:
                    self._end(rank, places)

    def _end(self, rank: int, places: list[Place]) -> None:
        """End this process: the main thread may be waiting where no exception reaches it."""
        node, process = places[rank]
        said = (
            f"Rank {rank} of {len(places)} on {node} has given no sign of life for {self.patience:g} s: it was "
            "stopped or killed, or its machine is gone. What was finished is kept: go on with --resume."
        )
        if not report(said):
            print(said, file=sys.stderr, flush=True)
        if node == platform.node():
            # What was stopped hears of nothing but this. It comes later than the reason, which it would else hide.
            time.sleep(1.0)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        os._exit(1)
