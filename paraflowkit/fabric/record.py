"""Keeps how the first samples of a run were solved, for its report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from paraflowkit.fabric.callbacks import Callback, Run
from paraflowkit.fabric.folder import write
from paraflowkit.fabric.outputs import is_image
from paraflowkit.report.labels import label
from paraflowkit.report.sweeps import FILE, Sweeps
from paraflowkit.solution import Solution, Stats
from paraflowkit.solve import SweepInfo

#: Samples that are kept, the longer side of their images, and about how many of those each gets.
SAMPLES, PIXELS, FRAMES = 4, 128, 48


class Record(Callback):
    """Writes ``sweeps.safetensors`` when the first batch is solved, before the batch counts as finished.

    Every process that solves the batch decodes, since a decoder may be sharded, and the first of them writes. A long
    solve keeps every second clean estimate, every fourth, and so on; the last image is always the sample.

    Args:
        decode: samples ``(n, *shape)`` as images, None where there are none.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor] | None) -> None:
        self.decode = decode
        self._frames: list[tuple[int, NDArray[np.uint8]]] = []
        self._every, self._steps = 1, 0
        self._ends: list[Tensor] = []

    def on_batch_start(self, run: Run, batch: int) -> None:
        self._frames, self._every, self._ends = [], 1, []

    def on_sweep_end(self, run: Run, batch: int, info: SweepInfo) -> None:
        self._steps = info.steps
        self._ends.append(info.ends[:SAMPLES])
        if batch or (info.sweep - 1) % self._every:
            return
        self._keep(info.sweep, info.clean)
        if len(self._frames) > FRAMES:
            self._every *= 2
            self._frames = [frame for frame in self._frames if (frame[0] - 1) % self._every == 0]

    def on_solve_end(self, run: Run, batch: int, solution: Solution) -> None:
        if batch:
            return
        config, stats = run.config, solution.stats
        names = {kind: getattr(config, kind).name for kind in ("model", "stepper", "solver", "window")}
        settings = config.solver.settings.model_dump()
        requests = [request.model_dump(by_alias=True) for request in run.requests[: min(SAMPLES, len(solution.x))]]
        facts = {
            **names,
            **{key: settings[key] for key in ("tolerance", "norm")},
            "labels": [label(request) for request in requests],
        }
        fronts, ends, strides, residuals = _first(stats, self._ends, len(requests), self._steps)
        last = len(fronts)  # of the samples that are kept; others of the batch may have taken longer
        self._frames = [frame for frame in self._frames if frame[0] < last]
        self._keep(last, lambda: solution.x)
        images = np.stack([image for _, image in self._frames]) if self._frames else np.zeros((0,) * 5, np.uint8)
        numbers = np.asarray([sweep for sweep, _ in self._frames], np.int64)
        kept = Sweeps(facts, fronts, ends, strides, residuals, images, numbers)
        if run.mesh.leads and run.folder is not None:
            write(run.folder / FILE, kept.to_bytes())

    def _keep(self, sweep: int, states: Callable[[], Tensor]) -> None:
        if self.decode is None:
            return
        shown = self.decode(states()[:SAMPLES])
        if is_image(shown[0]):
            self._frames.append((sweep, _small(shown)))


_Counts = NDArray[np.int64]


def _first(
    stats: Stats, ends: list[Tensor], samples: int, steps: int
) -> tuple[_Counts, _Counts, _Counts, NDArray[np.float32]]:
    """Fronts, ends, strides and residuals of the first samples, up to the last sweep that worked on one of them."""
    fronts, strides = (torch.stack(values)[:, :samples].numpy() for values in (stats.fronts, stats.strides))
    changes = [values[:samples].double().clamp(min=0).sqrt().float().numpy() for values in stats.residuals]
    worked = [bool(s.any()) or not np.isnan(c).all() for s, c in zip(strides, changes, strict=True)]
    last = max((i for i, at in enumerate(worked) if at), default=0) + 1
    residuals = np.full((samples, steps, last), np.nan, np.float32)
    for sweep, i in np.ndindex(last, samples):
        lo, seen = fronts[sweep, i], (~np.isnan(changes[sweep][i])).nonzero()[0]
        if len(seen):
            residuals[i, lo : lo + seen[-1] + 1, sweep] = changes[sweep][i][: seen[-1] + 1]
    reached = torch.stack(ends)[:last, :samples].numpy()
    return fronts[:last].copy(), np.maximum(reached, fronts[:last]), strides[:last].copy(), residuals


def _small(images: Tensor) -> NDArray[np.uint8]:
    """Images ``(n, c, h, w)`` in [-1, 1] as uint8 ``(n, h, w, c)``, at most :data:`PIXELS` long."""
    x = images.detach().float().nan_to_num()
    longest = max(x.shape[-2:])
    if longest > PIXELS:
        size = [max(1, round(side * PIXELS / longest)) for side in x.shape[-2:]]
        x = interpolate(x, size=size, mode="area")
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()
