"""DPM-Solver and DPM-Solver++, singlestep."""

from __future__ import annotations

import math

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.steppers._exponential import Weights, check, read, step_weights, wanted
from paraflowkit.steppers.configs import DPMSolverSinglestepConfig
from paraflowkit.table import StepTable


class DPMSolverSinglestep(BaseStepper[DPMSolverSinglestepConfig]):
    """Groups of ``order`` steps, each of which starts from the group's first state: one evaluation a step.

    Within a group the steps have orders 1, 2, 3, and every one steps from the group's first node with the outputs of
    the group. It is DPMSolverSinglestepScheduler of diffusers, with the same list of orders. Source: Lu et al.,
    DPM-Solver, NeurIPS 2022, algorithms 1 and 2; DPM-Solver++, 2022, algorithm 1.
    """

    config_cls = DPMSolverSinglestepConfig

    def __init__(self, config: DPMSolverSinglestepConfig) -> None:
        super().__init__(config)
        self.order = config.order

    def orders(self, steps: int, clean: bool) -> list[int]:
        """The order of every step.

        Args:
            steps: N. clean: whether the last node has no noise, which only order 1 can reach.

        Raises:
            ValueError: without ``lower_order_final``, N is not a multiple of the order.
        """
        k = self.config.order
        if k == 1:
            return [1] * steps
        if not self.config.lower_order_final:
            if steps % k:
                raise ValueError(
                    f"{steps} steps are not a multiple of order {k}: set lower_order_final, or other steps."
                )
            orders = list(range(1, k + 1)) * (steps // k)
        elif steps % k == 0:
            orders = list(range(1, k + 1)) * (steps // k - 1) + [*range(1, k), 1]
        else:
            orders = list(range(1, k + 1)) * (steps // k) + list(range(1, steps % k + 1))
        if clean:
            orders[-1] = 1
        return orders

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where the algorithm does not exist on these nodes; the message names one that does."""
        c, steps = self.config, nodes.steps
        at = read(nodes, "DPM-Solver")
        check(at, c.algorithm)
        orders = self.orders(steps, clean=at[-1].sigma == 0)
        if math.isinf(at[0].log_snr) and steps > 1:
            # Nothing can be extrapolated from a node without data: the first group begins after it.
            orders = [1, *self.orders(steps - 1, clean=at[-1].sigma == 0)]
        columns = max(orders)
        a, b = torch.zeros(steps, columns, dtype=torch.float64), torch.zeros(steps, columns, dtype=torch.float64)
        s = torch.zeros(steps, dtype=torch.float64)
        for n, order in enumerate(orders):
            base = n - order + 1
            weights = step_weights(c.algorithm, at[base], at[n + 1])
            h = at[n + 1].log_snr - at[base].log_snr
            inner = [at[base + i].log_snr - at[base].log_snr for i in range(1, order)]
            a[n, order - 1], s[n] = weights.x_weight, weights.s
            b[n, :order] = torch.tensor(self._outputs(weights, h, inner), dtype=torch.float64)
        return StepTable(a, b, s, wanted(c.algorithm))

    def _outputs(self, w: Weights, h: float, inner: list[float]) -> list[float]:
        """Weights of the outputs, newest first; inner: where the group's later nodes are in lambda, from its first."""
        if not inner:
            return [w.first]
        midpoint = self.config.solver_type == "midpoint"
        if len(inner) == 1:
            rate = (w.midpoint if midpoint else w.second) * h / inner[0]
            return [rate, w.first - rate]
        near, far = inner[0] / h, inner[1] / h  # places of the second and third node in the step
        if midpoint:
            return [w.second / far, 0.0, w.first - w.second / far]
        # D1 = (far d_near - near d_far)/(far - near), D2 = 2 (d_far - d_near)/(far - near), d the divided differences.
        of_near = (w.second * far - 2 * w.third) / (far - near) / near
        of_far = (2 * w.third - w.second * near) / (far - near) / far
        return [of_far, of_near, w.first - of_near - of_far]
