"""The step from one noise level to a lower one, given the data prediction: DDIM, DDPM and the ancestral samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from paraflowkit.grid import TimeGrid
from paraflowkit.steppers._nodes import need_noise


def posterior_std(nodes: TimeGrid, name: str) -> Tensor:
    """Standard deviation of q(x' | x, data), float64 ``(N,)``, for any alpha and sigma.

    ``s² = sigma'² (1 - (alpha sigma' / (alpha' sigma))²)``; for VP it is equation 7 of Ho et al. 2020.

    Raises:
        ValueError: a state without noise is not the last one. name: of the stepper, for the message.
    """
    alpha, sigma = nodes.alpha, nodes.sigma
    need_noise(nodes, name)
    # A schedule may start at alpha = 0 (flow matching): then the ratio is 0, all noise is new.
    kept = (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])).square()
    return sigma[1:] * (1 - kept).clamp(min=0).sqrt()


def step_with_noise(nodes: TimeGrid, s: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b), ``(N, 1)`` each, of ``x' = alpha' f + sqrt(sigma'² - s²) e + s z`` with e = (x - alpha f) / sigma."""
    alpha, sigma = nodes.alpha, nodes.sigma
    carry = (sigma[1:].square() - s.square()).clamp(min=0).sqrt() / sigma[:-1]
    return carry[:, None], (alpha[1:] - carry * alpha[:-1])[:, None]


def forward_std(nodes: TimeGrid) -> Tensor:
    """Standard deviation of q(x | x'), the noise that the forward process adds in the step, float64 ``(N,)``."""
    alpha, sigma = nodes.alpha, nodes.sigma
    return (sigma[:-1].square() - (alpha[:-1] / alpha[1:] * sigma[1:]).square()).clamp(min=0).sqrt()


def silent_end(nodes: TimeGrid, s: Tensor) -> Tensor:
    """s without noise in the step that reaches the clean end (Ho et al. 2020, algorithm 2)."""
    return torch.where(nodes.sigma[1:] > 0, s, 0.0)
