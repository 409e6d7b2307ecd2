"""Chains of fine steps and coarse jumps, for solvers that run several ahead of the front (parareal, CHORDS)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paraflowkit.core.march import roll, spread
from paraflowkit.core.problem import Problem


@dataclass(frozen=True)
class Past:
    """All that a sampler needs to go on from a node, given the output there.

    Attributes:
        x: ``(samples, history + 1, *shape)``, the states of the last nodes, the node that it stands at last.
        m: ``(samples, history, *output_shape)``, the outputs of the nodes before it.
    """

    x: Tensor
    m: Tensor


def step(problem: Problem, past: Past, output: Tensor, z: Tensor | None, node: int) -> Past:
    """One step of the sampler.

    Args:
        problem: whose sampler. past: at ``node``. output: ``(samples, *output_shape)``, there.
        z: ``(samples, 1, *shape)``, the noise of the step, or None.
    """
    m = torch.cat([past.m, output[:, None]], 1)
    n = torch.full((len(output), 1), node, device=output.device)
    new = problem.rule.apply(n, past.x, m, z)
    return Past(torch.cat([past.x[:, 1:], new], 1), m[:, 1:])


def jump(problem: Problem, past: Past, output: Tensor, z: Tensor | None, node: int, length: int) -> tuple[Past, Tensor]:
    """The coarse solver: ``length`` steps of the sampler with the data prediction of ``node`` held fixed.

    For a deterministic first-order sampler it is one large step; any other keeps its history and its noise.

    Args:
        problem, past, output, node: as in :func:`step`. z: ``(samples, length, *shape)`` or None.

    Returns:
        What the sampler needs to go on from ``node + length``, and the states made, ``(samples, length, *shape)``.
    """
    count, history = len(output), past.m.shape[1]
    here = torch.full((count,), node, device=output.device)
    data = problem.clean(past.x[:, -1], output, here)
    states = torch.cat([past.x, past.x[:, -1:].expand(-1, length, *past.x.shape[2:])], 1)
    known = torch.cat([past.m, output[:, None]], 1)
    unread = output[:, None].expand(-1, length - 1, *output.shape[1:])
    rolled = roll(
        problem, states, torch.cat([known, unread], 1), z, [node] * count, [0] * count, [length] * count, data
    )
    outputs = list(known.unbind(1))
    for ahead in range(max(1, length - history), length):  # the last ones, which later steps look back at
        x = rolled[:, history + ahead]
        held = problem.from_data(data, x, here + ahead)
        outputs.append(torch.cat([held, output[:, held.shape[1] :]], 1))  # a learned variance is kept as it was
    m = torch.stack(outputs[len(outputs) - history :], 1) if history else past.m
    return Past(rolled[:, length:], m), rolled[:, history + 1 :]


def corrected(fine: Past, new: Past, old: Past) -> Past:
    """The parareal correction: a fine result plus what a new start changes in the coarse one."""
    return Past(fine.x + (new.x - old.x), fine.m + (new.m - old.m))


def where(mask: Tensor, first: Past, second: Past) -> Past:
    """The first for the samples marked in ``mask``, bool ``(samples,)``, the second for the others."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(spread(mask, a), a, b)

    return Past(pick(first.x, second.x), pick(first.m, second.m))
