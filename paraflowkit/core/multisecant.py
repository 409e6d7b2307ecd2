"""Symmetric slopes of the data prediction, in the directions in which states and predictions have changed.

The Jacobian of a data prediction is symmetric if the network is perfect: α / σ² times the covariance of the data, given
the noisy state. So to the last changes ``(Δx_k, Δh_k)`` of the nodes nearest to one, each scaled to ``|Δx_k| = 1``, a
symmetric matrix is fitted, beside the scalar slope κ that holds in all other directions::

    J = κ I + V C Vᵀ,    C = argmin over C = Cᵀ of  Σ_k |V C Vᵀ Δx_k - (Δh_k - κ Δx_k)|² + ridge |C|²

V being an orthonormal basis of these changes. Multisecants that are not symmetric know of no direction but the Δx_k;
these know what a change along a Δh_k does too, and changes of predictions are what moves the states after them next.

Nothing here has as many numbers as a state but the changes: all else is done with their inner products.

Source: symmetric least-change secants are Powell's ("PSB"), those for several secants at once Schnabel's.

.. code-block:: bibtex

    @incollection{powell1970new,
      title     = {A New Algorithm for Unconstrained Optimization},
      author    = {Powell, Michael J. D.},
      booktitle = {Nonlinear Programming},
      publisher = {Academic Press},
      year      = {1970}
    }
    @techreport{schnabel1983quasi,
      title       = {Quasi-Newton Methods Using Multiple Secant Equations},
      author      = {Schnabel, Robert B.},
      institution = {University of Colorado at Boulder},
      number      = {CU-CS-247-83},
      year        = {1983}
    }
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Changes that a node's matrix is fitted to, and the weight of its size.
PAIRS, RIDGE = 4, 0.1
#: How far from the node these may be made, over all steps.
REACH = 0.16
#: How often what the matrices add at some nodes is passed on to the others. If the last time still changes more of it
#: than SETTLED, as may happen where predictions between nodes depend on later nodes, scalar slopes alone are used.
ROUNDS, SETTLED = 4, 0.25
#: Added to the inner products of unit changes, two of which may be the same up to rounding.
JITTER = 1e-12


@dataclass(frozen=True)
class Fitted:
    """``V C Vᵀ`` of each node as ``Σ_jk w_jk u_j u_kᵀ`` with the changes u of some of the nodes.

    Attributes:
        chosen: int64 ``(samples, P, K)``, which changes, of 2 P: the nodes' Δx, then their Δh.
        weights: float64 ``(samples, P, K, K)``, symmetric.
    """

    chosen: Tensor
    weights: Tensor


def fit(gram: Tensor, have: Tensor, node: Tensor, kappa: Tensor, most: Tensor, reach: float) -> Fitted:
    """The matrix of each node, from the changes of those nearest to it.

    Args:
        gram: float64 ``(samples, 2 P, 2 P)``, inner products of all Δx, then Δh. have: bool ``(samples, P)``, nodes
            that have changes. node: int64 ``(samples, P)``, where they are. kappa: float64 ``(samples, P)``.
        most: float64 ``(samples, P)``, the largest norm of C. reach: in steps.
    """
    samples, nodes = have.shape
    many = min(PAIRS, nodes)
    size = gram.diagonal(dim1=1, dim2=2)[:, :nodes]
    size = torch.where(have & (size > 0), size, torch.inf).rsqrt()  # 0 for nodes without changes
    apart = (node[:, :, None] - node[:, None]).double().abs()
    usable = have[:, None] & (apart <= reach)
    # Of two that are as far the later one: else it is a matter of the padding which of them is taken.
    apart = apart + 0.25 * (node[:, None] < node[:, :, None])
    near = torch.where(usable, apart, torch.inf).topk(many, dim=2, largest=False, sorted=False).indices
    chosen = torch.cat([near, near + nodes], 2)
    size = torch.where(usable, size[:, None], 0.0).gather(2, near).repeat(1, 1, 2)
    rows = torch.arange(samples)[:, None, None, None]
    inner = gram[rows, chosen[..., None], chosen[..., None, :]] * size[..., None] * size[..., None, :]
    eye = torch.eye(2 * many, dtype=torch.float64)
    lower, failed = torch.linalg.cholesky_ex(inner + JITTER * eye)
    good = (failed == 0)[..., None, None]
    lower = torch.where(good, lower, eye)
    # In the basis V, whose coordinates of the changes are the columns of lowerᵀ.
    dx, dh = lower.mT[..., :many], lower.mT[..., many:]
    # Optimal is C S + S C + 2 ridge C = B + Bᵀ with S = Δx Δxᵀ and B = (Δh - κ Δx) Δxᵀ.
    values, vectors = torch.linalg.eigh(dx @ dx.mT)
    right = (dh - kappa[..., None, None] * dx) @ dx.mT
    right = vectors.mT @ (right + right.mT) @ vectors
    fitted = right / (values[..., None] + values[..., None, :] + 2 * RIDGE)
    norm = torch.linalg.matrix_norm(fitted).clamp(min=1e-300)
    fitted = fitted * (most / norm).clamp(max=1.0)[..., None, None]
    fitted = vectors @ fitted @ vectors.mT
    fitted = torch.linalg.solve_triangular(lower.mT, fitted, upper=True)
    fitted = torch.linalg.solve_triangular(lower, fitted, upper=False, left=False)
    fitted = torch.where(good, fitted * size[..., None] * size[..., None, :], 0.0)
    return Fitted(chosen, fitted)


def added(fitted: Fitted, gram: Tensor, along: Tensor, lead: Tensor) -> Tensor:
    """What the matrices add to the predictions at all nodes, as coefficients of the changes.

    Args:
        along: float64 ``(samples, P, 2 P)``, inner products of the moves of the states, as scalar slopes alone have
            them, with the changes. lead: float64 ``(samples, P, P)``, what an addition to a node's prediction moves
            the state of another by, by way of all between them.

    Returns:
        float64 ``(samples, P, 2 P)``, 0 for samples where it does not settle.
    """
    made, moves = torch.zeros_like(along), along
    before = made
    for _ in range(ROUNDS):
        local = (fitted.weights @ moves.gather(2, fitted.chosen)[..., None])[..., 0]
        before, made = made, torch.zeros_like(along).scatter_(2, fitted.chosen, local)
        moves = along + lead @ made @ gram
    last, all_of_it = (((each @ gram) * each).sum((1, 2)) for each in (made - before, made))
    settled = last <= SETTLED**2 * all_of_it  # not if one of them is not finite
    return torch.where(settled[:, None, None], made, 0.0)
