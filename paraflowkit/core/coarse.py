"""Chains of fine steps and coarse jumps, for solvers that run several ahead of the front (parareal, CHORDS).

Chains that move at once are stacked along the rows, each with all its samples: one call then serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paraflowkit.core.march import roll, spread
from paraflowkit.core.problem import Problem


@dataclass(frozen=True)
class Past:
    """All that a sampler needs to go on from a node, given the output there.

    Attributes:
        x: ``(rows, history + 1, *shape)``, the states of the last nodes, the node that it stands at last.
        m: ``(rows, history, *output_shape)``, the outputs of the nodes before it.
    """

    x: Tensor
    m: Tensor


def stack(pasts: Sequence[Past]) -> Past:
    """Several pasts as the rows of one."""
    if len(pasts) == 1:
        return pasts[0]
    return Past(torch.cat([past.x for past in pasts]), torch.cat([past.m for past in pasts]))


def unstack(past: Past, count: int) -> list[Past]:
    """The ``count`` pasts, of equally many rows, that were stacked."""
    return [Past(x, m) for x, m in zip(past.x.chunk(count), past.m.chunk(count), strict=True)]


def columns(buffer: Tensor, column: Tensor) -> Tensor:
    """Columns of a buffer, for chains stacked along the rows.

    Args:
        buffer: ``(samples, width, …)``. column: int64 ``(chains, samples or 1, length)``; one outside of the buffer
            stands for its first or last, so nothing may depend on it.

    Returns:
        ``(chains * samples, length, …)``.
    """
    rows = torch.arange(len(buffer), device=buffer.device)[:, None]
    return buffer[rows, column.clamp(0, buffer.shape[1] - 1)].flatten(0, 1)


def step(problem: Problem, past: Past, output: Tensor, z: Tensor | None, node: Tensor) -> Past:
    """One step of the sampler.

    Args:
        problem: whose sampler. node: int64 ``(rows,)``. past: there. output: ``(rows, *output_shape)``, there.
        z: ``(rows, 1, *shape)``, the noise of the step, or None.
    """
    m = torch.cat([past.m, output[:, None]], 1)
    new = problem.rule.apply(node[:, None], past.x, m, z)
    return Past(torch.cat([past.x[:, 1:], new], 1), m[:, 1:])


def jump(
    problem: Problem, past: Past, output: Tensor, z: Tensor | None, node: Tensor, length: int
) -> tuple[Past, Tensor]:
    """The coarse solver: ``length`` steps of the sampler with the data prediction of ``node`` held fixed.

    For a deterministic first-order sampler it is one large step; any other keeps its history and its noise.

    Args:
        problem, past, output, node: as in :func:`step`. z: ``(rows, length, *shape)`` or None.

    Returns:
        What the sampler needs to go on from ``node + length``, and the states made, ``(rows, length, *shape)``.
    """
    count, history = len(output), past.m.shape[1]
    data = problem.clean(past.x[:, -1], output, node)
    states = torch.cat([past.x, past.x[:, -1:].expand(-1, length, *past.x.shape[2:])], 1)
    known = output[:, None].expand(-1, length, *output.shape[1:])  # all but the first of which nobody reads
    known = torch.cat([past.m, known], 1) if history else known
    rolled = roll(problem, states, known, z, node.tolist(), [0] * count, [length] * count, data)
    if not history:
        return Past(rolled[:, length:], past.m), rolled[:, 1:]
    outputs = list(known[:, : history + 1].unbind(1))
    for ahead in range(max(1, length - history), length):  # the last ones, which later steps look back at
        x = rolled[:, history + ahead]
        held = problem.from_data(data, x, node + ahead)
        outputs.append(torch.cat([held, output[:, held.shape[1] :]], 1))  # a learned variance is kept as it was
    return Past(rolled[:, length:], torch.stack(outputs[-history:], 1)), rolled[:, history + 1 :]


def corrected(fine: Past, new: Past, old: Past) -> Past:
    """The parareal correction: a fine result plus what a new start changes in the coarse one."""
    return Past(fine.x + (new.x - old.x), fine.m + (new.m - old.m))


def where(mask: Tensor, first: Past, second: Past) -> Past:
    """The first for the samples marked in ``mask``, bool ``(samples,)``, the second for the others."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(spread(mask, a), a, b)

    return Past(pick(first.x, second.x), pick(first.m, second.m))
