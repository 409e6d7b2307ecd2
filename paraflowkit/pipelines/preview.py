"""What a caller may look at while a pipeline is being solved."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Preview:
    """The state of a call after a sweep.

    Attributes:
        sweep: how many there were. accepted: steps accepted of each sample. steps: of the scheduler.
        latents: the clean estimate at the end of the window, shaped as the scheduler's states; where the scheduler's
            noise levels are not known, the state itself.
    """

    sweep: int
    accepted: tuple[int, ...]
    steps: int
    latents: Tensor
