"""The sliding window of ParaDiGMS and ParaFlow."""

from __future__ import annotations

from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.windows.configs import SlidingConfig


class Sliding(WindowPolicy[SlidingConfig]):
    """A window of constant length that starts at the front and moves with it.

    Source: Shih et al., Parallel Sampling of Diffusion Models, NeurIPS 2023, algorithm 1.
    """

    config_cls = SlidingConfig

    def limit(self, steps: int) -> int:
        return min(self.config.size, steps)

    def initial(self, steps: int) -> Window:
        return Window(0, self.limit(steps))

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        lo = window.lo + stride
        return Window(lo, min(lo + self.config.size, steps))
