"""Marches of the sampler through a surrogate of the network, shared by solvers and the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import Sweep
from paraflowkit.table import StepTable

#: Largest root mean square of a data prediction that is held fixed, in standard deviations of the data. Guided
#: predictions of VP networks at their first nodes, where alpha is 0.006, can be a hundred times too large.
LARGEST_RMS = 2.0


def spread(mask: Tensor, like: Tensor) -> Tensor:
    """A mask over the leading dimensions of a tensor, ready to select from it."""
    return mask.view(*mask.shape, *(1,) * (like.ndim - mask.ndim))


def picard(sweep: Sweep) -> Tensor:
    """The march whose surrogate says that a step hands its state on unchanged (Ĝ = identity).

    ``x[n+1] = Φ_n(x°[n]) + (x[n] - x°[n])``, which telescopes to Picard's cumulative sum
    ``x[n+1] = x[lo] + sum_{i=lo..n} (Φ_i(x°[i]) - x°[i])``. Written with the corrections summed apart, the first new
    state is Φ itself without rounding. Nodes that were not evaluated correct nothing, and neither does padding. Source:
    Shih et al., ParaDiGMS, NeurIPS 2023, equation 8.
    """
    residual = sweep.phi - sweep.after
    correction = torch.cumsum(residual, 1) - residual
    correction[:, 0] = 0
    return sweep.phi + correction


def estimate(problem: Problem, x: Tensor, m: Tensor, node: Tensor) -> Tensor:
    """The data prediction of states and outputs at int64 nodes ``(samples,)``, to be held fixed in a roll.

    Its root mean square is limited to :data:`LARGEST_RMS` standard deviations of the data.
    """
    data = problem.clean(x, m, node)
    flat = data.flatten(1)
    wide = flat if flat.dtype == torch.float64 else flat.float()
    largest = LARGEST_RMS * problem.data_std
    shrink = (largest / wide.square().mean(1).sqrt().clamp(min=1e-30)).clamp(max=1.0)
    return data * shrink.to(data.dtype).view(-1, *(1,) * (data.ndim - 1))


def roll(
    problem: Problem,
    states: Tensor,
    outputs: Tensor,
    z: Tensor | None,
    lo: Sequence[int],
    first: Sequence[int],
    last: Sequence[int],
    data: Tensor,
) -> Tensor:
    """The sampler's own steps, with one data prediction in place of the network's.

    With the prediction held fixed a deterministic first-order sampler goes where its one large step would; any other
    keeps its history and its noise. It is the reverse process given the clean estimate of ParaSolver (equation 17) and
    the linear part of ParaSolver-Turbo (equation 19).

    Args:
        problem: whose sampler. states: ``(samples, history + W + 1, *shape)``; position ``history + c`` is node
            ``lo + c`` of its sample. outputs: ``(samples, history + W, *output_shape)``, of which only those before the
            first rolled node are read. z: ``(samples, W, *shape)``, the noise of the steps ``lo`` …, or None.
        lo: first nodes. first, last: states at columns ``first + 1`` … ``last`` are made, from the one at ``first``.
        data: ``(samples, *shape)``, the data prediction.

    Returns:
        A copy of ``states`` with the rolled ones filled in.
    """
    lengths = [max(0, b - a) for a, b in zip(first, last, strict=True)]
    columns = max(lengths, default=0)
    out = states.clone()
    if columns == 0:
        return out
    start = [a + b for a, b in zip(lo, first, strict=True)]
    rule = problem.rule
    if not isinstance(rule, StepTable) or outputs.shape[2:] != states.shape[2:]:
        return _roll_step_by_step(problem, out, outputs.clone(), z, start, first, lengths, data)
    weights = _weights(problem, np.asarray(start), columns)
    count, history = len(start), rule.order_in_time - 1
    rows = torch.arange(count, device=states.device)[:, None]
    at = torch.tensor(list(first), device=states.device)[:, None]
    behind = torch.arange(history, device=states.device)
    parts = [states[rows, at + torch.arange(history + 1, device=states.device)]]
    if history:
        parts.append(outputs[rows, at + behind])
    parts.append(data[:, None])
    ahead = torch.arange(columns, device=states.device)
    if z is not None and rule.stochastic:
        parts.append(z[rows, (at + ahead).clamp(max=z.shape[1] - 1)])
    basis = torch.cat(parts, 1)
    made = torch.bmm(
        torch.from_numpy(weights).to(device=states.device, dtype=states.dtype)[:, :, : basis.shape[1]], basis.flatten(2)
    ).view(count, columns, *states.shape[2:])
    inside = ahead < torch.tensor(lengths, device=states.device)[:, None]
    target = (at + history + 1 + ahead).clamp(max=states.shape[1] - 1)
    sample, column = inside.nonzero(as_tuple=True)
    out[sample, target[sample, column]] = made[sample, column]
    return out


def _weights(problem: Problem, start: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    """What the rolled states are made of, float64 ``(samples, columns, 2K + columns)``: weights of the last K states,
    the K - 1 outputs before the first rolled node, the held data prediction and the noise of each step."""
    rule = problem.rule
    assert isinstance(rule, StepTable)  # checked by the caller; this is for the type checker
    a, b, s = (value.cpu().numpy() for value in (rule.a, rule.b, rule.s))
    share_x, share_data = problem.held
    depth, count = rule.order_in_time, len(start)
    size = 2 * depth + columns
    eye = np.eye(size)
    x = [np.broadcast_to(eye[j], (count, size)) for j in range(depth)]
    m = [np.broadcast_to(eye[depth + j], (count, size)) for j in range(depth - 1)]
    held = eye[2 * depth - 1]
    noisy = rule.stochastic
    for c in range(columns):
        n = np.minimum(start + c, rule.steps - 1)
        m.append(share_x[n, None] * x[-1] + share_data[n, None] * held)
        new = a[n, :1] * x[-1] + b[n, :1] * m[-1]
        for j in range(1, depth):
            new += a[n, j, None] * x[-1 - j] + b[n, j, None] * m[-1 - j]
        if noisy:
            new += s[n, None] * eye[2 * depth + c]
        x.append(new)
    return np.stack(x[depth:], 1)


def _roll_step_by_step(
    problem: Problem,
    out: Tensor,
    outputs: Tensor,
    z: Tensor | None,
    start: Sequence[int],
    first: Sequence[int],
    lengths: Sequence[int],
    data: Tensor,
) -> Tensor:
    """:func:`roll` for samplers that are not affine; ``out`` and ``outputs`` are changed in place."""
    history = problem.rule.order_in_time - 1
    extra = outputs.shape[2] - out.shape[2]  # channels of a learned variance
    for i, length in enumerate(lengths):
        for c in range(length):
            n = torch.tensor([[start[i] + c]], device=out.device)
            at = history + first[i] + c
            output = problem.from_data(data[i : i + 1], out[i, at][None], n[0])
            variance = outputs[i, max(at - 1, 0), out.shape[2] :][None]  # the latest is the best guess there is
            outputs[i, at] = torch.cat([output, variance], 1)[0] if extra else output[0]
            part = slice(at - history, at + 1)
            noise = z[i : i + 1, first[i] + c : first[i] + c + 1] if z is not None else None
            out[i, at + 1] = problem.rule.apply(n, out[i : i + 1, part], outputs[i : i + 1, part], noise)[0, 0]
    return out
