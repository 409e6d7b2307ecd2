"""Symmetric matrices fitted to changes of states and predictions, and what they do in a sweep."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from problems import make_solver, make_stepper, mixture, problem, sequential, sliding
from torch import Tensor

from paraflowkit.core import multisecant
from paraflowkit.core.multisecant import Fitted, added, fit
from paraflowkit.core.problem import Problem
from paraflowkit.prediction import Prediction
from paraflowkit.solve import solve

SIZE, NODES = 12, 5


def randoms(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(size: int = SIZE, seed: int = 9) -> Tensor:
    made = randoms(size, size, seed=seed)
    return (made + made.mT) / 4


def matrices(fitted: Fitted, changes: Tensor) -> Tensor:
    """The matrices ``(P, D, D)`` of one sample's nodes, written out."""
    vectors = changes[0][fitted.chosen[0]]
    return vectors.mT @ fitted.weights[0] @ vectors


def fits(dx: Tensor, dh: Tensor, kappa: float, have: list[bool] | None = None, most: float = 1e9, reach: float = 99.0):
    """What is fitted to the changes ``(P, D)`` of one sample, and the changes as the function takes them."""
    changes, count = torch.cat([dx, dh])[None], len(dx)
    there = torch.tensor([have or [True] * count])
    slope, bound = (torch.full((1, count), v, dtype=torch.float64) for v in (kappa, most))
    return fit(changes @ changes.mT, there, torch.arange(count)[None], slope, bound, reach), changes


def best_symmetric(dx: Tensor, dh: Tensor, kappa: float, ridge: float) -> Tensor:
    """The regularised least-squares symmetric matrix by NumPy, over all of the space."""
    size = dx.shape[1]
    length = dx.norm(dim=1, keepdim=True)
    a, b = (dx / length).numpy(), ((dh - kappa * dx) / length).numpy()
    basis = []
    for i, j in itertools.combinations_with_replacement(range(size), 2):
        one = np.zeros((size, size))
        one[i, j] = one[j, i] = 1
        basis.append(one)
    rows = [np.concatenate([(a @ one).ravel(), np.sqrt(ridge) * one.ravel()]) for one in basis]
    found = np.linalg.lstsq(np.stack(rows, 1), np.concatenate([b.ravel(), np.zeros(size * size)]), rcond=None)[0]
    return torch.from_numpy(sum(c * one for c, one in zip(found, basis, strict=True)))


@pytest.mark.parametrize("kappa", [0.0, 0.6])
def test_the_matrix_is_the_best_symmetric_one(kappa: float) -> None:
    dx, dh = randoms(4, SIZE), randoms(4, SIZE, seed=1)
    fitted, changes = fits(dx, dh, kappa)
    for made in matrices(fitted, changes):  # all four changes serve each of the four nodes
        torch.testing.assert_close(made, best_symmetric(dx, dh, kappa, multisecant.RIDGE), rtol=1e-6, atol=1e-8)


def test_with_one_change_it_is_the_update_of_powell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multisecant, "RIDGE", 1e-12)
    dx, dh, kappa = randoms(1, SIZE), randoms(1, SIZE, seed=1), 0.3
    fitted, changes = fits(dx, dh, kappa)
    a, v = dx[0], dh[0] - kappa * dx[0]
    square = a @ a
    powell = (torch.outer(v, a) + torch.outer(a, v)) / square - (a @ v) * torch.outer(a, a) / square**2
    torch.testing.assert_close(matrices(fitted, changes)[0], powell, rtol=1e-5, atol=1e-7)


def test_the_nearest_changes_within_reach_are_taken_and_no_others() -> None:
    dx, dh = randoms(9, SIZE), randoms(9, SIZE, seed=1)
    have = [True, False, True, True, True, True, True, True, True]
    fitted, changes = fits(dx, dh, 0.5, have, reach=2.0)
    made = matrices(fitted, changes)
    for node, near in {0: [0, 2], 1: [0, 2, 3], 2: [0, 2, 3, 4], 8: [6, 7, 8]}.items():
        expected = best_symmetric(dx[near], dh[near], 0.5, multisecant.RIDGE)
        torch.testing.assert_close(made[node], expected, rtol=1e-6, atol=1e-8)
    nothing, changes = fits(dx, dh, 0.5, [False] * 9)
    assert not matrices(nothing, changes).any()


@pytest.mark.parametrize("padding", [1, 3, 24])
def test_padding_changes_nothing(padding: int) -> None:
    dx, dh = randoms(9, SIZE), randoms(9, SIZE, seed=1)
    more = torch.zeros(padding, SIZE, dtype=torch.float64)
    fitted, changes = fits(dx, dh, 0.5)
    padded, wider = fits(torch.cat([dx, more]), torch.cat([dh, more]), 0.5, [True] * 9 + [False] * padding)
    torch.testing.assert_close(matrices(padded, wider)[:9], matrices(fitted, changes), rtol=1e-9, atol=1e-11)


def test_changes_that_are_the_same_or_nothing_do_no_harm() -> None:
    dx = randoms(1, SIZE).expand(4, SIZE).clone()
    dx[3] = 0
    dh = dx @ symmetric()
    fitted, changes = fits(dx, dh, 0.1)
    one, single = fits(dx[:1], dh[:1], 0.1)
    assert matrices(fitted, changes).isfinite().all()
    once, often = (
        float((m @ dx[0] - (dh - 0.1 * dx)[0]).norm()) for m in (matrices(one, single)[0], matrices(fitted, changes)[0])
    )
    assert often <= once  # three times as heavy against the ridge


def test_the_norm_is_bounded() -> None:
    dx, dh = randoms(4, SIZE), 100 * randoms(4, SIZE, seed=1)
    fitted, changes = fits(dx, dh, 0.5, most=2.0)
    torch.testing.assert_close(matrices(fitted, changes).norm(dim=(1, 2)), torch.full((4,), 2.0, dtype=torch.float64))


def test_what_is_added_is_what_a_march_from_node_to_node_adds() -> None:
    dx = randoms(NODES, SIZE)
    fitted, changes = fits(dx, dx @ symmetric(), 0.2)
    lead = 0.1 * randoms(1, NODES, NODES, seed=2).tril(-1)
    moves = randoms(1, NODES, SIZE, seed=3)
    gram, along = changes @ changes.mT, moves @ changes.mT
    found = added(fitted, gram, along, lead) @ changes
    expected = torch.zeros(NODES, SIZE, dtype=torch.float64)
    for node, matrix in enumerate(matrices(fitted, changes)):
        expected[node] = matrix @ (moves[0, node] + lead[0, node] @ expected)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-4)


def test_nothing_is_added_where_it_does_not_settle() -> None:
    dx = randoms(NODES, SIZE)
    fitted, changes = fits(dx, dx @ symmetric(), 0.2)
    twice = Fitted(fitted.chosen.expand(2, -1, -1), fitted.weights.expand(2, -1, -1, -1))
    changes, moves = changes.expand(2, -1, -1), randoms(2, NODES, SIZE, seed=3)
    lead = torch.stack([0.01 * torch.ones(NODES, NODES), 100 * torch.ones(NODES, NODES)]).double()
    found = added(twice, changes @ changes.mT, moves @ changes.mT, lead)
    assert found[0].any()
    assert not found[1].any()
    moves[0, 1] = torch.nan
    assert not added(twice, changes @ changes.mT, moves @ changes.mT, lead).any()


def directions(p: Problem) -> Problem:
    """The problem with a network that follows the state much more in two directions than in all others."""
    size = p.x0[0].numel()
    axes = torch.linalg.qr(randoms(size, 2, seed=5)).Q
    jacobian = (
        0.1 * torch.eye(size, dtype=torch.float64) + axes @ torch.diag(torch.tensor([0.6, 0.4]).double()) @ axes.mT
    )
    shift = randoms(size, seed=6)
    return dataclasses.replace(
        p,
        evaluate=lambda x, node, cond: x @ jacobian + shift * torch.sin(node / 5.0)[:, None],
        prediction=Prediction.DATA,
        cond=None,
        uncond=None,
        guidance=None,
    )


@pytest.mark.parametrize(
    ("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("vp", "dpm-solver"), ("vp", "ddpm")]
)
def test_a_network_with_few_directions_takes_fewer_sweeps_than_with_numbers_for_slopes(
    process: str, stepper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = directions(problem(mixture(process), make_stepper(stepper), 40, 8))
    solver = make_solver("secant", tolerance=1e-6)
    found = solve(p, solver, sliding(12))
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-5)
    monkeypatch.setattr(multisecant, "PAIRS", 0)
    numbers = solve(p, solver, sliding(12))
    assert found.stats.sample_iterations.sum() < 0.92 * numbers.stats.sample_iterations.sum()
    assert found.stats.evaluations.sum() < 0.95 * numbers.stats.evaluations.sum()


@pytest.mark.parametrize(("process", "stepper"), [("flow", "euler"), ("vp", "ddim"), ("vp", "ddpm")])
def test_a_sample_is_solved_as_if_it_were_alone(process: str, stepper: str) -> None:
    many, one = (problem(mixture(process, dimension=60), make_stepper(stepper), 50, n, guidance=4.0) for n in (6, 1))
    solver = make_solver("secant", tolerance=1e-4)
    together, alone = (solve(p, solver, sliding(8)) for p in (many, one))
    assert alone.stats.sample_iterations[0] == together.stats.sample_iterations[0]
    torch.testing.assert_close(alone.x[0], together.x[0], rtol=0, atol=1e-12)
