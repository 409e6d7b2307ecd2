"""Linear multistep in sigma / alpha."""

from __future__ import annotations

import numpy as np
import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._nodes import need_data, need_noise, need_steps
from paraflowkit.steppers.configs import LMSConfig
from paraflowkit.table import StepTable


class LMS(BaseStepper[LMSConfig]):
    """Adams-Bashforth on uneven steps: order K, one evaluation a step; the first steps use the outputs there are.

    With y = x / alpha and r = sigma / alpha, the polynomial through the last K noise predictions is integrated from r
    to r'. It is LMSDiscreteScheduler of diffusers. Source: Hairer, Norsett and Wanner, Solving Ordinary Differential
    Equations I, 1993, section III.5; the ``sample_lms`` of k-diffusion.
    """

    config_cls = LMSConfig

    def __init__(self, config: LMSConfig) -> None:
        super().__init__(config)
        self.order = config.order

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where a node has no data, or one but the last no noise."""
        alpha, ratio = nodes.alpha, nodes.ratio
        need_data(nodes, "LMS")
        need_noise(nodes, "LMS")
        need_steps(nodes, "LMS")
        r = ratio.numpy()
        points, weights = np.polynomial.legendre.leggauss(2)  # exact for the cubics of order 4
        b = torch.zeros(nodes.steps, min(self.order, nodes.steps), dtype=torch.float64)
        for n in range(nodes.steps):
            known = r[max(0, n - self.order + 1) : n + 1][::-1]
            half = (r[n + 1] - r[n]) / 2
            at = r[n] + half * (1 + points)
            for j in range(len(known)):
                others = np.delete(known, j)
                basis = np.prod((at[:, None] - others) / (known[j] - others), axis=1)
                b[n, j] = float(half * (weights * basis).sum())
        a = torch.zeros_like(b)
        a[:, 0] = alpha[1:] / alpha[:-1]
        return StepTable(a, b * alpha[1:, None], torch.zeros_like(a[:, 0]), Prediction.NOISE)
