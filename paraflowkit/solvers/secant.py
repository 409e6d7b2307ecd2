"""Quasi-Newton iteration with secant slopes on every step of the window: exact at tolerance 0."""

from __future__ import annotations

from paraflowkit.core.quasi_newton import QuasiNewton
from paraflowkit.solvers.configs import SecantConfig


class Secant(QuasiNewton[SecantConfig]):
    """The march whose surrogate is the network's last data prediction, corrected along the state by a slope.

    ``ĥ_n(x) = h_n + κ_n (x - x°_n)``, κ_n being the secant of the node's last two evaluations pooled with its
    neighbours', and a Gaussian prior's slope before there are two; where the sampler is affine, in the directions of
    these changes a symmetric matrix takes its place (:mod:`paraflowkit.core.multisecant`). Picard iteration is κ = 1 on
    a flow, Jacobi iteration κ = 0. A few of the nodes lie far ahead; between them the corrected predictions are
    interpolated, and beyond the last one its value is held. Any sampler, of any history, deterministic or not; for
    affine ones a sweep is one small linear system.

    The idea of Newton's method over all steps, with a full or diagonal Jacobian in place of secants, is that of

    .. code-block:: bibtex

        @inproceedings{danieli2023deeppcr,
          title     = {DeepPCR: Parallelizing Sequential Operations in Neural Networks},
          author    = {Danieli, Federico and Sarabia, Miguel and Suau, Xavier and others},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2023}
        }
    """

    config_cls = SecantConfig
