"""How the steps are cut into blocks, and when each iteration reaches each block."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Blocks of nodes ``edges[i]`` … ``edges[i + 1]``, the longer ones first, and the pipeline over them.

    Iteration k evaluates the start of block i, for both its coarse jump and its first fine step, in sweep ``T(k, i)``.
    It needs the jump of iteration k over the block before, and the fine chain of iteration k - 1 there::

        T(0, i) = i,   T(k, i) = max(T(k, i - 1) + 1, T(k - 1, i - 1) + length[i - 1])

    and with the longer blocks first that is ``edges[k] - edges[0] + i - k``: each iteration starts as the exact front
    reaches its block and goes on a block a sweep. The order of the blocks does not change when the last iteration ends;
    this one keeps iterations from catching up with each other.

    Attributes:
        edges: the first node of each block, and the last node.
    """

    edges: tuple[int, ...]

    @classmethod
    def cut(cls, first: int, steps: int, blocks: int | None) -> Layout:
        """Cut the steps from node ``first`` to ``steps`` into at most so many blocks.

        By default into the number, near the square root of the steps, with which the first corrected sample is there
        soonest, and the most blocks of those that are equal: shorter jumps are better.
        Every block has two steps or more: in a block of one, the coarse solver is the fine one.
        """
        length = steps - first
        most = max(1, length // 2)
        count = min(blocks, most) if blocks else min(range(most, 0, -1), key=lambda k: -(-length // k) + k)
        short, longer = divmod(length, count)
        edges = [first]
        for i in range(count):
            edges.append(edges[-1] + short + (i < longer))
        return cls(tuple(edges))

    @property
    def blocks(self) -> int:
        return len(self.edges) - 1

    def length(self, block: int) -> int:
        """Fine steps of a block."""
        return self.edges[block + 1] - self.edges[block]

    def arrival(self, iteration: int, block: int) -> int:
        """T, the sweep, counted from 0, in which an iteration evaluates the start of a block (not before its own)."""
        return self.edges[iteration] - self.edges[0] + block - iteration

    def made_by(self, sweep: int) -> list[tuple[int, int]]:
        """Iteration and index of each block start, and then of the last node, that is made at the end of a sweep."""
        pairs = [(k, sweep + 1 - self.arrival(k, 0)) for k in range(self.blocks, -1, -1)]  # one a sweep of each
        return [(k, i) for k, i in pairs if max(k, 1) <= i <= self.blocks]
