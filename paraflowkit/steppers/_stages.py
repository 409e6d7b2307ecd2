"""The nodes of two-stage methods: a predicted state at the end of each step, then the corrected one."""

from __future__ import annotations

import torch
from torch import Tensor


def two_stages(steps: int, last: bool) -> Tensor:
    """Grid indices of the nodes 0, 1, 1, 2, 2, …, N: int64 ``(2 steps + last,)``; ``last``: the last step has both."""
    index = torch.arange(1, steps + (1 if last else 0)).repeat_interleave(2)
    return torch.cat([torch.zeros(1, dtype=torch.int64), index, torch.full((0 if last else 1,), steps)])
