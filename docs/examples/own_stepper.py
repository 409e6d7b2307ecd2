"""The midpoint rule in sigma / alpha: half a step, then a whole one with the noise that was found there."""

import torch

from paraflowkit.core.config import ComponentConfig
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.table import StepTable


class Midpoint(BaseStepper[ComponentConfig]):
    order = 2

    def nodes(self, grid: TimeGrid, noise: NoiseSchedule) -> TimeGrid:
        """Nodes of the grid and, between each two of them, one at the mean of their sigma / alpha."""
        if bool((grid.alpha == 0).any()):
            raise ValueError("midpoint needs some data at the start: list grid.sigmas below 1, or use euler.")
        t = noise.time_of((grid.ratio[:-1] + grid.ratio[1:]) / 2)
        return grid.interleave(t, noise.levels(t))

    def table(self, nodes: TimeGrid) -> StepTable:
        alpha, r = nodes.alpha, nodes.ratio
        a, b = torch.zeros(2, nodes.steps, 2, dtype=torch.float64)
        half, whole = torch.arange(0, nodes.steps, 2), torch.arange(1, nodes.steps, 2)
        a[half, 0] = alpha[half + 1] / alpha[half]
        b[half, 0] = alpha[half + 1] * (r[half + 1] - r[half])
        a[whole, 1] = alpha[whole + 1] / alpha[whole - 1]  # from the state before the middle one …
        b[whole, 0] = alpha[whole + 1] * (r[whole + 1] - r[whole - 1])  # … with the output at the middle one
        return StepTable(a, b, s=torch.zeros(nodes.steps, dtype=torch.float64), wants=Prediction.NOISE)
