"""DPM-Solver and DPM-Solver++, multistep."""

from __future__ import annotations

import torch

from paraflowkit.core.stepper import BaseStepper
from paraflowkit.grid import TimeGrid
from paraflowkit.steppers._exponential import Weights, check, read, step_weights, wanted
from paraflowkit.steppers.configs import DPMSolverConfig
from paraflowkit.table import StepTable


class DPMSolver(BaseStepper[DPMSolverConfig]):
    """Exponential integrators in lambda = log(alpha / sigma) that use the last outputs: one evaluation a step.

    Order 2 is 2M, order 3 is 3M; the first steps use the outputs there are. ``solver_type`` chooses the weight of the
    second-order correction: half of the first (midpoint), or its exact integral (heun). The SDE variants add noise. The
    step to a clean end is of order 1. It is DPMSolverMultistepScheduler and EDMDPMSolverMultistepScheduler of
    diffusers, but for the third order of the SDE, whose correction there does not vanish with the step (a sign).

    3M is kept as published, and converges with order 2: its second difference is half of what the integral's weight
    needs. Single-step DPM-Solver, LMS and UniPC have order 3.

    .. code-block:: bibtex

        @inproceedings{lu2022dpmsolver,
          title     = {{DPM-Solver}: A Fast {ODE} Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps},
          author    = {Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2022}
        }
        @article{lu2022dpmsolverpp,
          title  = {{DPM-Solver++}: Fast Solver for Guided Sampling of Diffusion Probabilistic Models},
          author = {Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun},
          year   = {2022},
          note   = {arXiv 2211.01095}
        }
    """

    config_cls = DPMSolverConfig

    def __init__(self, config: DPMSolverConfig) -> None:
        super().__init__(config)
        self.order = min(config.order, 2)  # see above

    def table(self, nodes: TimeGrid) -> StepTable:
        """Raises ValueError where the algorithm does not exist on these nodes; the message names one that does."""
        c, steps = self.config, nodes.steps
        at = read(nodes, "DPM-Solver")
        check(at, c.algorithm)
        columns = min(c.order, steps)
        a, b = torch.zeros(steps, columns, dtype=torch.float64), torch.zeros(steps, columns, dtype=torch.float64)
        s = torch.zeros(steps, dtype=torch.float64)
        for n in range(steps):
            weights = step_weights(c.algorithm, at[n], at[n + 1])
            h = at[n + 1].log_snr - at[n].log_snr
            if h == 0:  # some schedules of diffusers end with a step that goes nowhere
                a[n, 0] = 1
                continue
            order = min(self._order_at(n, steps, clean=at[n + 1].sigma == 0), n + 1)
            back = [at[n - i].log_snr - at[n - i - 1].log_snr for i in range(order - 1)]
            a[n, 0], s[n] = weights.x_weight, weights.s
            b[n, :order] = torch.tensor(self._outputs(weights, h, back), dtype=torch.float64)
        return StepTable(a, b, s, wanted(c.algorithm))

    def _order_at(self, n: int, steps: int, clean: bool) -> int:
        few = self.config.lower_order_final and steps < 15
        if n == steps - 1 and (self.config.euler_at_final or few or clean):
            return 1
        return min(self.config.order, 2) if n == steps - 2 and few else self.config.order

    def _outputs(self, w: Weights, h: float, back: list[float]) -> list[float]:
        """Weights of the outputs, newest first; back: earlier steps in lambda, newest first, perhaps infinite."""
        if not back:
            return [w.first]
        near = h / back[0]
        if len(back) == 1:
            second = w.midpoint if self.config.solver_type == "midpoint" else w.second
            return [w.first + second * near, -second * near]
        far = h / back[1]
        # D1 = d0 + r0/(r0+r1) (d0 - d1) and D2 = (d0 - d1)/(r0+r1), d0 and d1 the divided differences and r = back/h.
        share = back[0] / (back[0] + back[1])
        inverse = h / (back[0] + back[1])
        of_near = w.second * (1 + share) + w.third * inverse
        of_far = -w.second * share - w.third * inverse
        return [w.first + of_near * near, -of_near * near + of_far * far, -of_far * far]
