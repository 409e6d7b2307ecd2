"""The march of a quasi-Newton sweep through its surrogate: one linear system, or step after step.

Which surrogate and which system, says :mod:`paraflowkit.core.quasi_newton`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from paraflowkit.core.interpolation import over_window
from paraflowkit.core.march import estimate, spread
from paraflowkit.core.multisecant import REACH, added, fit
from paraflowkit.core.secants import LOWEST
from paraflowkit.core.solver import Sweep

if TYPE_CHECKING:
    from paraflowkit.core.quasi_newton import QuasiNewtonState


def solved(
    state: QuasiNewtonState, sweep: Sweep, x: Tensor, h: Tensor, kappa: Tensor, columns: Sequence[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The marched states ``(samples, W, D)``, the predictions there (at evaluated nodes alone where s = 1), and the
    derivatives of the states by the predictions, float64 ``(samples, W, W)`` on the CPU."""
    response = state.response
    assert response is not None  # checked by the caller; this is for the type checker
    device, work = x.device, x.dtype
    n = sweep.n.cpu()
    depth = response.own.shape[1]
    rows = response.of_data(n)
    of_x, of_m = response.past(n)

    def there(weights: Tensor) -> Tensor:
        return weights.to(device=device, dtype=work)

    base = there(of_x) @ sweep.states[:, :depth].to(work).flatten(2)
    if depth > 1:
        base = base + there(of_m) @ sweep.outputs[:, : depth - 1].to(work).flatten(2)
    if sweep.z is not None and response.table.stochastic:
        noise = response.within(n) * response.table.s[n][:, None]
        base = base + there(noise) @ sweep.z.to(work).flatten(2)
    most = max(len(c) for c in columns)
    count, width = n.shape
    between = np.zeros((count, width, most))
    before = np.zeros((count, width))
    behind, lo, spacing = state.behind.tolist(), n[:, 0].tolist(), state.spacing.tolist()
    for i, own in enumerate(columns):
        if 0 <= behind[i] < lo[i] and spacing[i] > 1:
            made = over_window((behind[i] - lo[i], *own), width)
            before[i], between[i, :, : len(own)] = made[:, 0], made[:, 1:]
        else:
            between[i, :, : len(own)] = over_window(tuple(own), width, spacing[i] == 1)
    index = torch.tensor([c + [0] * (most - len(c)) for c in columns])
    inside = torch.tensor([[1.0] * len(c) + [0.0] * (most - len(c)) for c in columns], dtype=torch.float64)
    inside[:, 0] = 0  # the front's prediction is the network's
    between_, before_ = torch.from_numpy(between), torch.from_numpy(before)[..., None]
    weights = rows @ between_
    base = base + there(rows @ before_) @ state.behind_h[:, None].to(work)
    pick = torch.arange(count)[:, None]
    entry = (index - 1).clamp(min=0)
    k = kappa.cpu()[pick, index] * inside
    lead = weights[pick, entry] * inside[..., None]  # M: the states at the nodes by the predictions there
    system = torch.eye(most, dtype=torch.float64) - k[..., None] * lead
    inverse, failed = torch.linalg.inv_ex(system)
    good = (failed == 0) & inverse.isfinite().all(-1).all(-1) & (inverse.abs().amax((-1, -2)) < 1e4)
    inverse = torch.where(good[:, None, None], inverse, torch.eye(most, dtype=torch.float64))
    at, entry, pick = index.to(device), entry.to(device), pick.to(device)
    away = base[pick, entry] - x[pick, at]
    made = there(inverse) @ (h[pick, at] + there(k)[..., None] * away)
    moves = torch.where(there(inside)[..., None] > 0, away + there(lead) @ made, 0)
    more = _along_changes(state, n, moves, k, lead @ inverse, index)
    if more is not None:
        coefficients, changes = more
        made = made + there(inverse @ coefficients) @ changes
    states = base + there(weights) @ made
    out = h.clone()
    if max(spacing) > 1:
        return states, there(between_) @ made + there(before_) * state.behind_h[:, None].to(work), rows
    for i, own in enumerate(columns):
        out[i, own] = made[i, : len(own)]
    return states, out, rows


def _along_changes(
    state: QuasiNewtonState, n: Tensor, moves: Tensor, kappa: Tensor, lead: Tensor, index: Tensor
) -> tuple[Tensor, Tensor] | None:
    """What slopes along the last changes add to the predictions at the evaluated nodes, before it goes on to others.

    Args:
        n: the steps of the windows. moves: ``(samples, P, D)``, how far the states move by scalar slopes alone, 0 at
            the front and on padding. kappa: float64 ``(samples, P)``. lead: see
            :func:`~paraflowkit.core.multisecant.added`. index: ``(samples, P)``, columns of the windows, 0 on padding.
            All but moves on the CPU.

    Returns:
        Coefficients, float64 ``(samples, P, 2 P)``, of the changes, ``(samples, 2 P, D)``; None where there are none.
    """
    secants = state.secants
    assert secants is not None  # the sweep has made them; this is for the type checker
    pick = torch.arange(len(n))[:, None]
    have = secants.den.cpu()[pick, index] > 0
    have[:, 1:] &= index[:, 1:] > 0
    if not bool(have.any()):
        return None
    node = n[pick, index]
    pick, index = pick.to(moves.device), index.to(moves.device)
    changes = torch.cat([secants.dx[pick, index], secants.dh[pick, index]], 1)
    wide = changes.double()
    products = torch.cat([wide @ wide.mT, moves.double() @ wide.mT], 1).cpu()
    products = torch.where(products.isfinite(), products, 0.0)  # values that are not finite end the solve elsewhere
    gram, along = products.split([len(wide[0]), len(moves[0])], 1)
    fitted = fit(gram, have, node, kappa, state.high.cpu()[node] - LOWEST, REACH * len(state.alpha))
    return added(fitted, gram, along, lead), changes


def step_by_step(
    state: QuasiNewtonState, sweep: Sweep, h: Tensor, kappa: Tensor, columns: Sequence[list[int]]
) -> Tensor:
    """The march for samplers that are not affine, all of whose nodes up to the last evaluated one are evaluated."""
    problem, n, depth = sweep.problem, sweep.n, sweep.history
    x, m = sweep.states.clone(), sweep.outputs.clone()
    rows = torch.arange(len(n), device=n.device)
    last = torch.tensor([c[-1] for c in columns], device=n.device)
    final = estimate(problem, sweep.x[rows, last], sweep.m[rows, last], n[rows, last])
    channels = x.shape[2]
    for c in range(n.shape[1]):
        here = x[:, depth + c]
        slope = kappa[:, c].to(here.dtype).view(-1, *(1,) * (here.ndim - 1))
        data = torch.where(spread(c <= last, here), h[:, c].to(here.dtype) + slope * (here - sweep.x[:, c]), final)
        output = torch.where(spread(state.raw[n[:, c]], data), data, problem.from_data(data, here, n[:, c]))
        old = m[:, depth + c, :channels]
        fits = spread((c > 0) & sweep.valid[:, c], old)
        m[:, depth + c, :channels] = torch.where(fits, output, old)
        if m.shape[2] > channels and c:
            known, at = spread(sweep.evaluated[:, c], old), depth + c  # else the latest variance is the best guess
            m[:, at, channels:] = torch.where(known, m[:, at, channels:], m[:, at - 1, channels:])
        z = None if sweep.z is None else sweep.z[:, c : c + 1]
        part = slice(c, depth + c + 1)
        x[:, depth + c + 1] = problem.rule.apply(n[:, c : c + 1], x[:, part], m[:, part], z)[:, 0]
    return x[:, depth + 1 :]
