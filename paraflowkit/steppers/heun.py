"""Heun's method in sigma / alpha."""

from __future__ import annotations

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._nodes import need_data, need_noise
from paraflowkit.steppers._stages import two_stages
from paraflowkit.steppers.configs import HeunConfig
from paraflowkit.table import StepTable


def heun_table(nodes: TimeGrid, s_noise: float, name: str) -> StepTable:
    """The table of nodes main, predicted, main, predicted …; a main node may be noisier than the predicted one before.

    Raises:
        ValueError: a node has no data, or one but the last has no noise. name: of the stepper, for the message.
    """
    alpha, r = nodes.alpha, nodes.ratio
    need_data(nodes, name)
    need_noise(nodes, name)
    a, b = torch.zeros(nodes.steps, 2, dtype=torch.float64), torch.zeros(nodes.steps, 2, dtype=torch.float64)
    s = torch.zeros(nodes.steps, dtype=torch.float64)
    even = torch.arange(0, nodes.steps, 2)
    a[even, 0] = alpha[even + 1] / alpha[even]
    b[even, 0] = alpha[even + 1] * (r[even + 1] - r[even])
    odd = torch.arange(1, nodes.steps, 2)
    a[odd, 1] = alpha[odd + 1] / alpha[odd - 1]
    b[odd, 0] = b[odd, 1] = alpha[odd + 1] * (r[odd] - r[odd - 1]) / 2
    s[odd] = s_noise * alpha[odd + 1] * (r[odd + 1].square() - r[odd].square()).clamp(min=0).sqrt()
    return StepTable(a, b, s, Prediction.NOISE)


class Heun(BaseStepper[HeunConfig]):
    """The trapezoidal rule with an Euler predictor: order 2, two evaluations a step, one in the step to clean data.

    With y = x / alpha, r = sigma / alpha and e the predicted noise, which is dy/dr::

        y* = y + (r' - r) e(y),   y' = y + (r' - r) (e(y) + e(y*)) / 2

    Each step has two nodes, the predicted y* and the corrected y'. It is HeunDiscreteScheduler of diffusers. Source:
    Karras et al. 2022, algorithm 1.
    """

    config_cls = HeunConfig
    order = 2

    def nodes(self, grid: TimeGrid, noise: NoiseSchedule) -> TimeGrid:
        return grid.take(two_stages(grid.steps, last=bool(grid.sigma[-1] > 0)))

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where a node has no data, or one but the last no noise."""
        return heun_table(nodes, 0.0, "Heun")
