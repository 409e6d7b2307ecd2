"""The few numbers of rows that a compiled network is called with."""

from __future__ import annotations

from bisect import bisect_left, insort

#: torch compiles a function for so many shapes and then gives up (``torch._dynamo.config.recompile_limit``).
_LIMIT = 8


class Sizes:
    """Numbers of rows that a network has been compiled for.

    Sweeps of a solve differ in their rows, and a compilation takes longer than many calls. A call is filled up to the
    next size that there is, unless that would more than double its rows: then its own number becomes a size. The first
    sweeps are the largest, so that a solve needs about log2 of their rows, and most calls are filled up by little.
    Processes that share calls ask for the same numbers in the same order, and so compile at the same moments.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []

    def most(self, rows: int, limit: int | None) -> int | None:
        """Rows that a call may have: ``limit``, or the largest size where no further one is possible."""
        full = len(self._sizes) >= _LIMIT and rows > self._sizes[-1]
        return limit if not full else min(self._sizes[-1], limit or self._sizes[-1])

    def choose(self, rows: int) -> tuple[int, bool]:
        """The size for so many rows, and whether it is new."""
        at = bisect_left(self._sizes, rows)
        full = len(self._sizes) >= _LIMIT
        if at < len(self._sizes) and (full or self._sizes[at] <= 2 * rows):
            return self._sizes[at], False
        insort(self._sizes, rows)
        return rows, True

    def forget(self, rows: int) -> None:
        """No call may have so many rows any more: there was no memory for them."""
        self._sizes = [size for size in self._sizes if size < rows]
