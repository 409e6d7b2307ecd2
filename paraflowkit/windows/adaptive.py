"""A window whose length follows the strides that are accepted."""

from __future__ import annotations

from math import ceil

from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.windows.configs import AdaptiveConfig


class Adaptive(WindowPolicy[AdaptiveConfig]):
    """A sliding window that aims at ``ratio`` times the stride accepted last, between ``least`` and ``most`` steps.

    States far behind the front of convergence are evaluated in vain: what is worked on at all is accepted some sweeps
    later, so a window of a few strides is enough. It grows to its aim at once, and shrinks as the front moves, since
    states that were worked on are kept.
    """

    config_cls = AdaptiveConfig

    def limit(self, steps: int) -> int:
        return min(self.config.most, steps)

    def initial(self, steps: int) -> Window:
        return Window(0, min(self.config.size, steps))

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        aim = min(max(ceil(self.config.ratio * stride), self.config.least), self.config.most)
        return Window(lo, min(max(window.hi, lo + aim), steps))
