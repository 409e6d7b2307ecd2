"""DDIM, deterministic and stochastic."""

from __future__ import annotations

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import NoiseSchedule, Prediction
from paraflowkit.steppers.configs import DDIMConfig
from paraflowkit.table import StepTable


class DDIM(BaseStepper[DDIMConfig]):
    """The noise is kept and the data prediction replaced: order 1, one evaluation a step.

    With f the data prediction, e = (x - alpha f) / sigma and primes for the next node::

        x' = alpha' f + sqrt(sigma'² - s²) e + s z,   s² = eta² sigma'² (1 - (alpha sigma' / (alpha' sigma))²)

    which holds for every (alpha, sigma), not for VP alone, and has no division by alpha. Source: Song, Meng and Ermon,
    Denoising Diffusion Implicit Models, ICLR 2021, equations 12 and 16.
    """

    config_cls = DDIMConfig
    wants = Prediction.DATA

    def table(self, nodes: TimeGrid, noise: NoiseSchedule) -> StepTable:
        """Raises ValueError where a state without noise is not the last one."""
        alpha, sigma = noise.alpha(nodes.t), noise.sigma(nodes.t)
        if bool((sigma[:-1] <= 0).any()):
            raise ValueError("DDIM needs noise at every node but the last: end the grid where sigma reaches 0.")
        # A schedule may start at alpha = 0 (flow matching): then the ratio is 0, all noise is new for eta = 1.
        kept = (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])).square()
        s = self.config.eta * sigma[1:] * (1 - kept).clamp(min=0).sqrt()
        carry = (sigma[1:].square() - s.square()).clamp(min=0).sqrt() / sigma[:-1]
        return StepTable(a=carry[:, None], b=(alpha[1:] - carry * alpha[:-1])[:, None], s=s)
