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
    samples of the batch. R is ``rows``, or the run's ``max_rows``, or what fits into ``memory``: the bytes of a row are
    measured by two evaluations at the first node, as the growth of the tensors alive within them.
    """

    config_cls = FitConfig

    def fit(self, problem: Problem, max_rows: int | None) -> WindowPolicy[Any]:
        """Raises ValueError where not even one step of the batch fits."""
        samples = torch.arange(len(problem.x0), device=problem.x0.device)
        per_step = problem.network_rows(samples)  # of all samples
        limits = [n for n in (self.config.rows, max_rows) if n is not None]
        if limits and self.config.memory is None:
            rows = min(limits)
            if rows < per_step:
                raise ValueError(
                    f"The window 'fit' has {rows} rows to fill, and one step of {len(samples)} samples needs "
                    f"{per_step}: make the batch smaller or the rows more."
                )
            return Sliding(SlidingConfig(size=rows // per_step))
        free = self.config.memory * 2**30 if self.config.memory is not None else _free(problem.x0.device) / 2
        base, grown = (_peak(problem, copies) for copies in (1, 3))
        own = 4 * problem.x0.numel() * problem.x0.element_size()  # a step's share of the buffers and their copies
        size = int((free - base) // max(1, (grown - base) // 2 + own)) + 1
        if free < base + own:
            raise ValueError(
                f"The window 'fit' has {free / 2**30:.2g} GiB, and one step of {len(samples)} samples needs "
                f"{(base + own) / 2**30:.2g} GiB: make the batch smaller or give it more memory."
            )
        return Sliding(SlidingConfig(size=min([size, *(max(1, n // per_step) for n in limits)])))

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


def _peak(problem: Problem, copies: int) -> int:
    """The most bytes alive within an evaluation of so many steps of every sample."""
    sample = torch.arange(len(problem.x0), device=problem.x0.device).repeat(copies)
    with torch.no_grad(), AliveBytes() as count:
        problem.output(problem.x0[sample], torch.zeros_like(sample), sample)
    return count.most
