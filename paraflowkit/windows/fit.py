"""A window that fills a device and no more."""

from __future__ import annotations

import os
from typing import Any

import torch

from paraflowkit.core.memory import AliveBytes
from paraflowkit.core.problem import Problem
from paraflowkit.core.window import WindowPolicy
from paraflowkit.windows.configs import FitConfig, SlidingConfig
from paraflowkit.windows.sliding import Sliding


class Fit(WindowPolicy[FitConfig]):
    """A sliding window as long as the rows of one network call, or the memory of the device, allow.

    With R rows to a call and r network rows to a node (two where it is guided) it has R / r steps, divided among the
    samples of the batch. R is ``rows`` or the run's ``max_rows``. Or it has what fits into ``memory``: the bytes of a
    step are measured by two evaluations of one sample at the first node, as the growth of the tensors alive in them.
    These evaluations are no part of the sampling and are not counted in its figures.
    """

    config_cls = FitConfig

    def fit(self, problem: Problem, max_rows: int | None) -> WindowPolicy[Any]:
        """Raises ValueError where not even one step of the batch fits."""
        count = len(problem.x0)
        per_step = problem.network_rows(torch.arange(count, device=problem.x0.device))  # of all samples
        limits = [n for n in (self.config.rows, max_rows) if n is not None]
        size = problem.steps
        if limits:
            size = min(limits) // per_step
            if size == 0:
                raise ValueError(
                    f"a call may have {min(limits)} rows, and one step of {count} sample(s) needs {per_step}: make "
                    "run.batch smaller, or window.rows and run.max_rows larger."
                )
        if not limits or self.config.memory is not None:
            free = self.config.memory * 2**30 if self.config.memory is not None else _free(problem.x0.device) / 2
            size = min(size, _most_steps(problem, free))
        return Sliding(SlidingConfig(size=size))

    def limit(self, steps: int) -> int:
        return 1

    # Until it knows the problem it is a window of one; the driver asks for `fit` first.
    def initial(self, steps: int) -> Any:
        return Sliding(SlidingConfig(size=1)).initial(steps)

    def advance(self, window: Any, stride: int, steps: int) -> Any:
        return Sliding(SlidingConfig(size=1)).advance(window, stride, steps)


def _free(device: torch.device) -> float:
    """Bytes of memory that are free."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _most_steps(problem: Problem, free: float) -> int:
    """How many steps of all samples fit into so many bytes. Raises ValueError where none does."""
    one, two = (_peak(problem, steps) for steps in (1, 2))
    # A step's share of the buffers, the sweep's copies of them included, besides the network's.
    step = len(problem.x0) * (max(1, two - one) + 4 * problem.x0[0].numel() * problem.x0.element_size())
    base = max(0, one - (two - one))
    if free < base + step:
        raise ValueError(
            f"there are {free / 2**20:.3g} MiB, and one step of {len(problem.x0)} sample(s) needs "
            f"{(base + step) / 2**20:.3g} MiB: make run.batch smaller, or window.memory larger."
        )
    return int((free - base) // step)


def _peak(problem: Problem, steps: int) -> int:
    """The most bytes alive within an evaluation of so many steps of one sample, a guided one if there is any."""
    rows = [problem.network_rows(torch.tensor([i], device=problem.x0.device)) for i in range(len(problem.x0))]
    sample = torch.full((steps,), rows.index(max(rows)), device=problem.x0.device)
    with torch.no_grad(), AliveBytes() as count:
        problem.output(problem.x0[sample], torch.zeros_like(sample), sample)
    return count.most
