"""The buffers of a solve: a stretch of each sample's trajectory, which slides with its window."""

from __future__ import annotations

import torch
from torch import Tensor

from paraflowkit.core.config import Guess
from paraflowkit.core.draws import draw
from paraflowkit.core.march import estimate, roll, spread
from paraflowkit.core.problem import Problem
from paraflowkit.core.window import Window

__all__ = ["Buffers"]


class Buffers:
    """States, outputs and noise. Position p of a buffer is node ``lo - history + p`` of its sample.

    Args:
        problem: what is solved. windows: one a sample. width: longest window.
        warm: ``(samples, N + 1, *shape)``, states of an earlier run for every guess, or None.
        keep: keep the whole trajectory too, O(N) memory.
    """

    def __init__(self, problem: Problem, windows: list[Window], width: int, warm: Tensor | None, keep: bool) -> None:
        self.problem, self.warm = problem, warm
        x0, count = problem.x0, len(problem.x0)
        self.history, self.width = problem.rule.order_in_time - 1, width
        self._place(windows)
        shape = tuple(x0.shape[1:])
        self.x = x0[:, None].expand(count, self.history + width + 1, *shape).clone()
        self.m = x0.new_zeros(count, self.history + width, *problem.output_shape)
        #: Nodes whose output is the network's at their present state; ``seen``: at this state or an earlier one, or one
        #: that the solver has filled in.
        self.known = torch.zeros(count, self.history + width, dtype=torch.bool, device=x0.device)
        self.seen = torch.zeros_like(self.known)
        self.z = torch.zeros_like(self.x[:, : width if problem.rule.stochastic else 0])
        self.drawn = [0] * count  # first step whose noise is not in z yet
        self.trajectory = x0[:, None].expand(count, problem.steps + 1, *shape).clone() if keep else None
        self._span = torch.arange(self.x.shape[1], device=x0.device)
        self._rows = torch.arange(count, device=x0.device)[:, None]
        self._fill_noise()

    def _place(self, windows: list[Window]) -> None:
        device = self.problem.x0.device
        self.windows = windows
        self.lo, self.hi = torch.tensor([[w.lo for w in windows], [w.hi for w in windows]], device=device)

    @property
    def bytes(self) -> int:
        """Size of the buffers, without the trajectory that a caller may ask for."""
        return sum(t.numel() * t.element_size() for t in (self.x, self.m, self.z, self.known, self.seen))

    @property
    def noise(self) -> Tensor | None:
        """``(samples, width, *shape)``, the noise of the windows' steps; None where the sampler adds none."""
        return self.z if self.problem.rule.stochastic else None

    def _fill_noise(self) -> None:
        """Draw what the windows need and do not have: each (seed, step) once, or again after :meth:`narrow`."""
        if not self.problem.rule.stochastic:
            return
        shape = tuple(self.x.shape[2:])
        for i, window in enumerate(self.windows):
            end = min(window.lo + self.width, self.problem.steps)
            for step in range(max(self.drawn[i], window.lo), end):
                value = draw(self.problem.seeds[i], step + 1, shape)
                self.z[i, step - window.lo] = value.to(device=self.z.device, dtype=self.z.dtype)
            self.drawn[i] = end

    def narrow(self, width: int) -> None:
        """Forget what lies beyond the first ``width`` nodes of the windows, which must not be longer."""
        reach = self.history + width
        self.width = width
        self.x, self._span = self.x[:, : reach + 1].clone(), self._span[: reach + 1]
        self.m, self.known, self.seen = (t[:, :reach].clone() for t in (self.m, self.known, self.seen))
        if self.problem.rule.stochastic:
            self.z = self.z[:, :width].clone()
            self.drawn = [min(d, w.lo + width) for d, w in zip(self.drawn, self.windows, strict=True)]

    def slide(self, strides: list[int], windows: list[Window], rule: Guess, data: Tensor | None) -> None:
        """Move every buffer by its sample's stride, and guess the states that enter: see :meth:`guess`."""
        old = self.windows
        if any(strides):
            span, rows = self._span, self._rows
            stride = torch.tensor(strides, device=self.x.device)[:, None]
            last = (self.history + self.hi - self.lo)[:, None]  # position of x[hi], the last state worked on
            source = span + stride
            self.x = self.x[rows, torch.minimum(source, last)]
            outputs = source[:, :-1]
            inside = outputs < last
            outputs = outputs.clamp(max=self.m.shape[1] - 1)
            self.m = self.m[rows, outputs]
            self.known = self.known[rows, outputs] & inside
            if self.history:  # else nothing looks back, and nobody asks what was seen
                self.seen = self.seen[rows, outputs] & inside
            if self.problem.rule.stochastic:
                self.z = self.z[rows, (span[: self.width] + stride).clamp(max=self.width - 1)]
            self._place(windows)
            self._fill_noise()
        else:
            self._place(windows)
        self.guess([max(w.lo, o.hi) for o, w in zip(old, windows, strict=True)], rule, data)

    def estimates(self, evaluated: Tensor) -> Tensor:
        """The data prediction of the last node of each window that was ``evaluated``, ``(samples, width)``."""
        h = self.history
        columns = torch.arange(self.width, device=self.x.device)
        at = h + (columns * evaluated).amax(1)
        rows = torch.arange(len(at), device=at.device)
        node = (self.lo + at - h).clamp(max=self.problem.steps - 1)
        return estimate(self.problem, self.x[rows, at], self.m[rows, at], node)

    def guess(self, known: list[int], rule: Guess, data: Tensor | None = None) -> None:
        """Guess the states after node ``known`` up to each window's end.

        Args:
            known: the last node of each sample with a state worth having. rule: its name; where there are states of an
                earlier run, they take its place. data: the estimates for the rule ``clean_estimate``.
        """
        gaps = [(i, n, w) for i, (n, w) in enumerate(zip(known, self.windows, strict=True)) if n < w.hi]
        if not gaps or (rule == "constant" and self.warm is None):
            return  # the buffers repeat the last state already
        if self.warm is not None or rule == "noise":
            for i, after, window in gaps:
                for node in range(after + 1, window.hi + 1):
                    state = self._noise(i, node) if self.warm is None else self.warm[i, node]
                    self.x[i, self.history + node - window.lo] = state.to(self.x)
            return
        assert data is not None  # a clean estimate needs an evaluated node, which every slide has behind it
        open_ = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        open_[[i for i, _, _ in gaps]] = True
        self.hold(data, open_[:, None])
        first = [max(0, n - w.lo) for n, w in zip(known, self.windows, strict=True)]
        last = [max(f, w.hi - w.lo) for f, w in zip(first, self.windows, strict=True)]
        lo = [w.lo for w in self.windows]
        self.x = roll(self.problem, self.x, self.m, self.noise, lo, first, last, data)
        self.hold(data, open_[:, None])

    def _noise(self, sample: int, node: int) -> Tensor:
        """Gaussian noise with the deviation of states at this node; counters below 0 are for guesses."""
        nodes = self.problem.nodes
        scale = float(torch.hypot(nodes.alpha[node] * self.problem.data_std, nodes.sigma[node]))
        return draw(self.problem.seeds[sample], -1 - node, tuple(self.x.shape[2:])) * scale

    def fill(self, outputs: Tensor, where: Tensor) -> None:
        """Give nodes of the windows that the network has never seen these outputs.

        Args:
            outputs: ``(samples, width, *output_shape)``. where: bool ``(samples, width)``; other nodes are left.
        """
        h = self.history
        fill = where & ~self.seen[:, h:] & outputs.flatten(2).isfinite().all(2)
        self.m[:, h:] = torch.where(spread(fill, outputs), outputs.to(self.m.dtype), self.m[:, h:])
        self.seen[:, h:] |= fill  # else the next guess would take them for empty

    def hold(self, data: Tensor, where: Tensor) -> None:
        """Give nodes that the network has never seen an output, for steps that look back at them: the estimate's.

        Args:
            data: ``(samples, *shape)``. where: bool, broadcast to ``(samples, history + width)``; other nodes are left.
        """
        if not self.history:
            return  # nothing looks back
        count, width = self.known.shape
        node = self.lo[:, None] - self.history + torch.arange(width, device=self.x.device)
        flat = data[:, None].expand(count, width, *data.shape[1:]).flatten(0, 1)
        at = node.clamp(0, self.problem.steps - 1).flatten()
        made = self.problem.from_data(flat, self.x[:, :-1].flatten(0, 1), at).view(count, width, *data.shape[1:])
        fill = where & ~self.seen & made.flatten(2).isfinite().all(2)
        channels = data.shape[1]
        self.m[:, :, :channels] = torch.where(spread(fill, made), made, self.m[:, :, :channels])
