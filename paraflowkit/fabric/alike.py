"""Did what failed here fail in every process, so that all can go on, or in some alone, for whom others wait?"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric

from paraflowkit.errors import ParaflowkitError

#: Seconds that a process in which something failed waits for the others to come to the same point.
PATIENCE = 10.0


class Alike:
    """Processes of a run tell each other, at the same points of it, whether something failed.

    Those that did not fail wait for as long as it takes; whether the others still live is the business of
    :class:`~paraflowkit.fabric.watch.Watch`. All processes must make one, and call it equally often.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.world = fabric.world_size
        # Of its own: what others are in the middle of, when one has failed, goes through the other groups.
        self.group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=1)) if self.world > 1 else None

    def __call__(self, what: str, reason: str) -> str:
        """Why it failed in any process, in the words of the first in which it did; empty if it did in none.

        Args:
            what: may fail. reason: why it failed in this process; empty if it did not.

        Raises:
            ParaflowkitError: it failed in this process, and others do not come to this point.
        """
        if self.group is None:
            return reason
        failed = torch.tensor([int(bool(reason))])
        work: Any = dist.all_reduce(failed, dist.ReduceOp.MAX, self.group, async_op=True)
        try:
            work.wait(timedelta(seconds=PATIENCE) if reason else timedelta(days=1))
        except RuntimeError as error:
            if not reason:
                raise
            raise ParaflowkitError(f"{what}: {reason} (in this process, and not in all)") from error
        if not failed:
            return ""
        said = [reason] * self.world
        dist.all_gather_object(said, reason, group=self.group)
        return next(filter(None, said))
