"""DDIM, deterministic and stochastic."""

from __future__ import annotations

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._ancestral import posterior_std, step_with_noise
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

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where a state without noise is not the last one."""
        s = self.config.eta * posterior_std(nodes, "DDIM")
        a, b = step_with_noise(nodes, s)
        return StepTable(a, b, s, Prediction.DATA)
