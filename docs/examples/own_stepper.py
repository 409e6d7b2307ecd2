"""The midpoint rule in sigma / alpha: half a step, then a whole one with the noise that was found there."""

import torch

from paraflowkit.core.config import ComponentConfig
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule, Prediction
from paraflowkit.table import StepTable


class Midpoint(BaseStepper[ComponentConfig]):
    order = 2

    def nodes(self, grid: TimeGrid, noise: NoiseSchedule) -> TimeGrid:
        """Nodes of the grid and, between each two of them, one at the mean of their sigma / alpha."""
        r = grid.ratio
        if bool(r.isinf().any()):
            raise ValueError("midpoint starts where there is some data: let the grid begin later, or use euler.")
        middle = (r[:-1] + r[1:]) / 2
        t = torch.stack([grid.t[:-1], noise.time_of(middle)], 1).flatten()
        return TimeGrid.of(noise, torch.cat([t, grid.t[-1:]]))

    def table(self, nodes: TimeGrid) -> StepTable:
        alpha, r = nodes.alpha, nodes.ratio
        a, b = torch.zeros(2, nodes.steps, 2, dtype=torch.float64)
        half, whole = torch.arange(0, nodes.steps, 2), torch.arange(1, nodes.steps, 2)
        a[half, 0] = alpha[half + 1] / alpha[half]
        b[half, 0] = alpha[half + 1] * (r[half + 1] - r[half])
        a[whole, 1] = alpha[whole + 1] / alpha[whole - 1]  # from the state before the middle one …
        b[whole, 0] = alpha[whole + 1] * (r[whole + 1] - r[whole - 1])  # … with the output at the middle one
        return StepTable(a, b, s=torch.zeros(nodes.steps, dtype=torch.float64), wants=Prediction.NOISE)
