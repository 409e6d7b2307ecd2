"""The stochastic sampler of EDM."""

from __future__ import annotations

import math

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule
from paraflowkit.steppers._stages import two_stages
from paraflowkit.steppers.configs import EDMConfig
from paraflowkit.steppers.heun import heun_table
from paraflowkit.table import StepTable


class EDMStochastic(BaseStepper[EDMConfig]):
    """Heun's method from a little more noise than the state has ("churn"): two evaluations a step, one in the last.

    Before each step the noise r = sigma / alpha is raised to ``(1 + gamma) r`` with ``gamma = min(s_churn / N, sqrt(2)
    - 1)`` where ``s_tmin <= r <= s_tmax``. The raised state is where the network is evaluated, so it is the node: the
    correction of one step and the churn of the next are one row of the table. The start is drawn at the raised level.
    Order 2 without churn. Source: Karras et al. 2022, algorithm 2.
    """

    config_cls = EDMConfig
    order = 2

    def nodes(self, grid: TimeGrid, noise: NoiseSchedule) -> TimeGrid:
        """The main nodes carry the raised noise; on VP, which has no other, at most that of its last training step."""
        c = self.config
        place = two_stages(grid.steps, last=bool(grid.sigma[-1] > 0))
        plain = grid.take(place)
        gamma = min(c.s_churn / grid.steps, math.sqrt(2) - 1)
        r = plain.ratio
        churned = (r >= c.s_tmin) & (r <= (math.inf if c.s_tmax is None else c.s_tmax)) & (r > 0) & r.isfinite()
        churned[1::2] = False  # predicted nodes
        churned[-1] = False
        if gamma == 0 or not bool(churned.any()):
            return plain
        time = noise.time_of(r * (1 + gamma))
        index = torch.arange(len(r)) + len(r) * churned  # plain nodes come first, raised ones behind them
        return TimeGrid(torch.cat([plain.t, time]), plain.levels.then(noise.levels(time))).take(index)

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where a node has no data, or one but the last no noise."""
        return heun_table(nodes, self.config.s_noise, "EDM's sampler")
