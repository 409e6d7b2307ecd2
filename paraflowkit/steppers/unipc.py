"""UniPC, predictor and corrector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._exponential import Node, read
from paraflowkit.steppers.configs import UniPCConfig
from paraflowkit.table import StepTable


class UniPC(BaseStepper[UniPCConfig]):
    """A multistep predictor, and a corrector that uses the output at the predicted state: one evaluation a step.

    The corrected state x^c is never shown to the network, only the predicted one x^p. Both are written over the same
    linear part, ``x^p[n] = A x^c[n-1] + B·m`` and ``x^c[n] = A x^c[n-1] + E·m``, so the corrected state is
    ``x^p[n] - B·m + E·m`` and is eliminated: the table has predicted states only, one more output a row, and no node
    that is not evaluated. It is UniPCMultistepScheduler of diffusers.

    .. code-block:: bibtex

        @inproceedings{zhao2023unipc,
          title     = {{UniPC}: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models},
          author    = {Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2023}
        }
    """

    config_cls = UniPCConfig

    def __init__(self, config: UniPCConfig) -> None:
        super().__init__(config)
        self.order = config.order + 1

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where the method does not exist on these nodes; the message names one that does."""
        c, steps = self.config, nodes.steps
        at = read(nodes, "UniPC")
        if c.predict == "noise" and at[0].alpha == 0:
            raise ValueError(
                "UniPC with noise predictions divides by alpha, which is 0 at the start of this grid: set predict to "
                "'data'."
            )
        columns = min(c.order + 1, steps)
        a, b = torch.zeros(steps, columns, dtype=torch.float64), torch.zeros(steps, columns, dtype=torch.float64)
        before: Tensor | None = None  # what the predictor of the step before added, by output, newest first
        order = 1
        for n in range(steps):
            shift = torch.zeros(columns, dtype=torch.float64)  # corrected minus predicted state at node n, by output
            if before is not None and n - 1 not in c.disable_corrector and not math.isinf(at[n - 1].log_snr):
                shift = self._corrector(at, n, order, columns)
                shift[1:] -= before[:-1]
            order = min(c.order, n + 1)
            if c.lower_order_final:
                order = min(order, steps - n)
            if at[n + 1].sigma == 0:
                order = 1
            while math.isinf(at[n - order + 1].log_snr) and order > 1:
                order -= 1  # nothing can be extrapolated from a node without data
            carry, before = 1.0, torch.zeros(columns, dtype=torch.float64)
            if at[n + 1].log_snr != at[n].log_snr:  # some schedules of diffusers end with a step that goes nowhere
                carry, before = self._predictor(at, n, order, columns)
            a[n, 0] = carry
            b[n] = carry * shift + before
        return StepTable(a, b, torch.zeros_like(a[:, 0]), Prediction(c.predict))

    def _linear(self, start: Node, end: Node) -> tuple[float, float, float]:
        """(weight of the state, scale of the outputs, ±h) of a step."""
        h = end.log_snr - start.log_snr
        if self.config.predict == "data":
            return end.sigma / start.sigma, end.alpha, -h
        return end.alpha / start.alpha, end.sigma, h

    def _system(self, places: list[float], hh: float) -> tuple[Tensor, Tensor, float]:
        """The order conditions ``R rho = c`` of Zhao et al. 2023, equation 8, at these places of the step, and B(h)."""
        size = len(places)
        growth = math.expm1(hh)
        big = hh if self.config.solver_type == "bh1" else growth
        phi, factorial = growth / hh - 1, 1.0
        right: list[float] = []
        for i in range(1, size + 1):
            right.append(phi * factorial / big)
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        powers = torch.tensor([[place**i for place in places] for i in range(size)], dtype=torch.float64)
        return powers, torch.tensor(right, dtype=torch.float64), big

    def _predictor(self, at: list[Node], n: int, order: int, columns: int) -> tuple[float, Tensor]:
        """Weight of the corrected state at node n, and of the outputs, newest first."""
        carry, scale, hh = self._linear(at[n], at[n + 1])
        out = torch.zeros(columns, dtype=torch.float64)
        out[0] = -scale * math.expm1(hh)
        if math.isinf(hh) and self.config.predict == "noise":
            out[0] = -carry * at[n].sigma  # sigma' (e^h - 1) at a clean end
        if order > 1:
            h = at[n + 1].log_snr - at[n].log_snr
            places = [(at[n - i].log_snr - at[n].log_snr) / h for i in range(1, order)]
            powers, right, big = self._system([*places, 1.0], hh)
            # Order 2 uses 1/2 in place of the solution, as the paper does.
            rho = torch.tensor([0.5]) if order == 2 else torch.linalg.solve(powers[:-1, :-1], right[:-1])
            for i, (place, weight) in enumerate(zip(places, rho.tolist(), strict=True), 1):
                out[i] -= scale * big * weight / place
                out[0] += scale * big * weight / place
        return carry, out

    def _corrector(self, at: list[Node], n: int, order: int, columns: int) -> Tensor:
        """Weights of the outputs in the corrected state at node n, newest (that at the predicted state) first."""
        _, scale, hh = self._linear(at[n - 1], at[n])
        out = torch.zeros(columns, dtype=torch.float64)
        out[1] = -scale * math.expm1(hh)
        h = at[n].log_snr - at[n - 1].log_snr
        places = [(at[n - 1 - i].log_snr - at[n - 1].log_snr) / h for i in range(1, order)]
        powers, right, big = self._system([*places, 1.0], hh)
        rho = torch.tensor([0.5]) if order == 1 else torch.linalg.solve(powers, right)
        for i, (place, weight) in enumerate(zip([*places, 1.0], rho.tolist(), strict=True), 2):
            column = i if i <= order else 0
            out[column] -= scale * big * weight / place
            out[1] += scale * big * weight / place
        return out
