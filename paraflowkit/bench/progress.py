"""How far a bench is."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Lines with the share of the work that is done and the time left."""

    def __init__(self, total: float, log: Callable[[str], None]) -> None:
        self.total, self.log = max(total, 1e-9), log
        self.done, self.began = 0.0, time.monotonic()

    def tell(self, text: str, work: float = 0.0) -> None:
        """``work`` of what is open is done since the last :meth:`finish`."""
        share = min((self.done + work) / self.total, 1.0)
        left = (time.monotonic() - self.began) * (1 - share) / share if share > 0.01 else None
        self.log(f"[{100 * share:3.0f} %{'' if left is None else f', {duration(left)} left'}] {text}")

    def finish(self, work: float) -> None:
        """So much is done."""
        self.done += work


def duration(seconds: float) -> str:
    """Such as 1 h 05 min, 12 min, 40 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{round(seconds)} s"


def every(function: Callable[[float], None], seconds: float = 20.0) -> Callable[[float], None]:
    """Call it once in a while."""
    last = [time.monotonic()]

    def told(share: float) -> None:
        if time.monotonic() - last[0] > seconds:
            last[0] = time.monotonic()
            function(share)

    return told
