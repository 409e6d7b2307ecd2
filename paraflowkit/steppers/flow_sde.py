"""Stochastic sampling of models that predict a velocity."""

from __future__ import annotations

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._nodes import need_noise
from paraflowkit.steppers.configs import FlowSDEConfig
from paraflowkit.table import StepTable


class FlowSDE(BaseStepper[FlowSDEConfig]):
    """Euler-Maruyama on the SDE with the flow's marginals: weak order 1, one evaluation a step.

    For any w ≥ 0 the equation ``dx = (v + w/2 score) dt + sqrt(w) dW`` has the marginals of the flow. The score is -e /
    sigma with e the noise in the state, ``e = (alpha' x - alpha v) / (alpha' sigma - alpha sigma')``, primes here for
    derivatives. w is noise_level² times sigma, or times sigma / alpha; at a start without data, where the latter is
    infinite, sigma over the alpha of the next node is taken. The step to clean data is one of Euler. Source: Ma et al.,
    SiT, ECCV 2024, section 2.4; Liu et al., Flow-GRPO, 2025, equation 12, for the second choice.
    """

    config_cls = FlowSDEConfig

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError for a process without velocity, or where a node but the last has no noise."""
        if nodes.levels.dalpha is None:
            raise ValueError("flow-sde steps along a velocity, which a VP process lacks: use ddpm or dpm-solver.")
        here = nodes.levels[slice(0, -1)]
        da, ds = here.slopes
        need_noise(nodes, "flow-sde")
        h = nodes.t.diff()
        alpha = here.alpha
        if self.config.diffusion == "ratio":
            alpha = torch.where(alpha > 0, alpha, nodes.alpha[1:])
            w = here.sigma / alpha
        else:
            w = here.sigma
        # The direction of time: VE runs towards smaller t. A step that reaches clean data is Euler's, exact there.
        w = torch.where(nodes.sigma[1:] > 0, self.config.noise_level**2 * w * h.sign(), 0.0)
        pull = w / (2 * here.sigma * (da * here.sigma - here.alpha * ds)) * h
        a, b = 1 - pull * da, h + pull * here.alpha
        return StepTable(a[:, None], b[:, None], (w * h).sqrt(), Prediction.VELOCITY)
