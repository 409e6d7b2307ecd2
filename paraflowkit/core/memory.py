"""How much memory a piece of work takes, counted in the tensors that it keeps alive."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AliveBytes(TorchDispatchMode):
    """Counts, while it is entered, the bytes of the tensors that operations make and that are still alive.

    It counts on every device alike and exactly, unlike the resident size of a process; what a library takes for itself
    (workspaces, caches) is not seen.

    Attributes:
        now: bytes alive. most: the highest that ``now`` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {v.untyped_storage().data_ptr() for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)}
        for value in tree_leaves(made):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
            if size and key not in self._seen and key not in given:  # a view of a weight takes nothing
                self._seen.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key, size)
        return made
