"""Coefficients of the exponential integrators of the DPM-Solver papers, shared by single- and multistep methods."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paraflowkit.grid import TimeGrid
from paraflowkit.prediction import Prediction
from paraflowkit.steppers._nodes import need_noise, need_steps


@dataclass(frozen=True)
class Node:
    """One node's alpha, sigma and lambda = log(alpha / sigma), which is infinite at clean and at dataless ends."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf


@dataclass(frozen=True)
class Weights:
    """``x' = x_weight · x + first · D0 + second · D1 + third · D2 + s · z``; ``midpoint`` stands in for ``second``.

    D0 is the output, D1 and D2 are its first two scaled divided differences in lambda.
    """

    x_weight: float
    first: float
    midpoint: float
    second: float
    third: float
    s: float


def wanted(algorithm: str) -> Prediction:
    return Prediction.DATA if algorithm.endswith("++") else Prediction.NOISE


def read(nodes: TimeGrid, name: str) -> list[Node]:
    """The nodes one by one. Raises ValueError where no exponential integrator exists on them."""
    need_noise(nodes, name)
    need_steps(nodes, name)
    return [Node(a, s) for a, s in zip(nodes.alpha.tolist(), nodes.sigma.tolist(), strict=True)]


def check(nodes: list[Node], algorithm: str) -> None:
    """Raise ValueError for nodes on which one of DPM-Solver's algorithms does not exist."""
    if not algorithm.endswith("++") and any(node.alpha == 0 for node in nodes):
        raise ValueError(f"{algorithm} divides by alpha, which is 0 at the start of this grid: use {algorithm}++.")
    if algorithm == "sde-dpmsolver" and nodes[-1].sigma == 0:
        raise ValueError(
            "sde-dpmsolver adds noise in its last step and cannot reach a clean end: use sde-dpmsolver++, or on VP a "
            "grid with final 'sigma_min'."
        )


def _phi(value: float, z: float) -> tuple[float, float]:
    """((e^z - 1) / z, (e^z - 1 - z) / z²) given ``value`` = e^z; z = -inf gives (0, 0), and near 0 a series is used."""
    if math.isinf(z):
        return 0.0, 0.0
    if abs(z) < 1e-3:
        return 1 + z / 2 + z * z / 6 + z**3 / 24, 0.5 + z / 6 + z * z / 24 + z**3 / 120
    return (value - 1) / z, (value - 1 - z) / (z * z)


def step_weights(algorithm: str, start: Node, end: Node) -> Weights:
    """The weights of a step from ``start`` to ``end``.

    With h the step in lambda: for ``dpmsolver++`` those of Lu et al., DPM-Solver++, 2022, equations 9 and A.3, for
    ``dpmsolver`` those of Lu et al., DPM-Solver, NeurIPS 2022, equations 3.7 and B.4, and for the SDEs the same with h
    doubled in the noise's decay (DPM-Solver++, section 5).
    """
    sigma, alpha = end.sigma, end.alpha
    decay = end.sigma * start.alpha / (end.alpha * start.sigma)  # e^-h
    h = math.inf if decay == 0 else -math.log(decay)
    if algorithm == "dpmsolver++":
        phi1, phi2 = _phi(decay, -h)
        first = alpha * (1 - decay)
        second, third = alpha * (1 - phi1), alpha * (0.5 - phi2)
        return Weights(sigma / start.sigma, first, first / 2, second, third, 0.0)
    if algorithm == "sde-dpmsolver++":
        phi1, phi2 = _phi(decay**2, -2 * h)
        first = alpha * (1 - decay**2)
        second, third = alpha * (1 - phi1), alpha * (0.5 - phi2)
        s = sigma * math.sqrt(max(0.0, 1 - decay**2))
        return Weights(sigma / start.sigma * decay, first, first / 2, second, third, s)
    carry = end.alpha / start.alpha
    grown = carry * start.sigma  # sigma' e^h, finite at a clean end too
    if math.isinf(h):
        phi1, phi2 = 0.0, 0.0  # orders above 1 do not reach a clean end
    else:
        phi1, phi2 = (sigma * value for value in _phi(1 / decay, h))
    first, second, third = -(grown - sigma), -(phi1 - sigma), -(phi2 - sigma / 2)
    if algorithm == "dpmsolver":
        return Weights(carry, first, first / 2, second, third, 0.0)
    s = math.sqrt(max(0.0, grown**2 - sigma**2))
    return Weights(carry, 2 * first, first, 2 * second, 2 * third, s)
