"""A lock on a file, which goes with the process that has it."""

from __future__ import annotations

import os
import platform
import sys
import weakref
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl


class Lock:
    """A file that one process has until it releases it or ends, in whatever way.

    Linux's network file systems ask their server, so that it holds between machines as well. Where a file system knows
    no locks, as some network ones, nothing is kept apart.
    """

    def __init__(self, descriptor: int) -> None:
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        """Of a file, which is made if need be and then names the process; None if another process or thread has it.

        Raises:
            OSError: the file cannot be made.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        lock = cls(descriptor)
        if sys.platform != "win32":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.release()
                return None
            except OSError:
                return lock
        with suppress(OSError):  # a full disk is not the lock's business
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        return lock

    def release(self) -> None:
        """Let others have it; a second time, nothing happens."""
        self._close()


def holder(path: Path) -> str:
    """Who has the lock on a file, in words."""
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"
