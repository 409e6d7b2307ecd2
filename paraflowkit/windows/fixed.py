"""Blocks of steps, one after the other."""

from __future__ import annotations

from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.windows.configs import FixedConfig


class Fixed(WindowPolicy[FixedConfig]):
    """The grid cut into blocks of ``size`` steps; a block is finished before the next one starts.

    It evaluates fewer states that lie far from the exact front than a sliding window, and needs more sweeps.
    """

    config_cls = FixedConfig

    def limit(self, steps: int) -> int:
        return min(self.config.size, steps)

    def initial(self, steps: int) -> Window:
        return Window(0, self.limit(steps))

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        return Window(lo, window.hi if lo < window.hi else min(lo + self.config.size, steps))
