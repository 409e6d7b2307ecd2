"""FID, KID, precision and recall: against torchmetrics, against formulas, and in several processes."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_pieces import Pixels, by_scipy, draws
from ranks import run_ranks
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from paraflowkit.metrics.digits_reference import digits_images
from paraflowkit.metrics.distances import Distances, frechet, kernel
from paraflowkit.metrics.features import extract, make_features
from paraflowkit.metrics.precision_recall import precision_recall
from paraflowkit.metrics.references import References
from paraflowkit.models.digits.data import load_digits


def by_eigenvalues(a: Tensor, b: Tensor) -> float:
    """FID by symmetric roots, which do not mind singular covariances."""
    first, second = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross).item()


def by_pairs(a: Tensor, b: Tensor) -> float:
    """KID of whole sets: the unbiased squared MMD of the cubic kernel, pair by pair."""
    x, y = a.numpy(), b.numpy()

    def kernel_of(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (u @ v.T / u.shape[1] + 1) ** 3

    def unlike(k: np.ndarray) -> float:
        return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))

    return unlike(kernel_of(x, x)) + unlike(kernel_of(y, y)) - 2 * float(kernel_of(x, y).mean())


def test_distances_are_torchmetrics_own() -> None:
    network = make_features("digits")
    (images, _), (held, _) = load_digits()
    images, held = images[:150], held[:90]
    ours = Distances(network, References.of("some", extract(network, images)))
    ours.update(held[:50])
    ours.update(held[50:])
    found = ours.compute()
    fid: Any = FrechetInceptionDistance(network)
    kid: Any = KernelInceptionDistance
    with pytest.warns(UserWarning, match="save all extracted features"):
        kid = KernelInceptionDistance(network, subset_size=90)
    for metric in (fid, kid):
        metric.update(images, real=True)
        metric.update(held, real=False)
    # Features are float32, in batches of other sizes, and kernels differ between processors.
    assert found["fid"] == pytest.approx(fid.compute().item(), rel=1e-6)
    torch.manual_seed(0)
    mean, deviation = kid.compute()
    assert (found["kid"], found["kid_deviation"]) == pytest.approx((mean.item(), deviation.item()), rel=1e-5)
    assert (found["images"], found["references"], found["kid_subset"]) == (90, 150, 90)


def test_distances_are_the_formulas() -> None:
    a, b = draws(60, 7), 1.3 * draws(60, 7, seed=1) + 0.4
    references = References.of("a", a)
    assert frechet(b, references) == pytest.approx(by_scipy(a, b), rel=1e-9)
    assert frechet(b, references) == pytest.approx(by_eigenvalues(a, b), rel=1e-9)
    before = torch.get_rng_state()
    mean, deviation, size = kernel(b, a) or (0, 0, 0)
    assert torch.equal(before, torch.get_rng_state())
    assert (mean, deviation, size) == (pytest.approx(by_pairs(a, b), rel=1e-9), 0, 60)
    mean, deviation, size = kernel(b[:20], a, subsets=400) or (0, 0, 0)  # each a draw of 20 of a
    assert size == 20
    assert mean == pytest.approx(by_pairs(a, b[:20]), abs=4 * deviation / 20)
    assert deviation > 0


def test_fewer_images_than_features() -> None:
    """The covariance is singular: still a number, and the right one."""
    a, b = draws(40, 64), draws(10, 64, seed=1) + 0.1
    assert frechet(b, References.of("a", a)) == pytest.approx(by_eigenvalues(a, b), rel=1e-6)
    for some in (a, b, b[:2], torch.zeros(5, 64).double()):  # of itself
        found = frechet(some, References.of("itself", some))
        assert found is not None
        assert 0 <= found < 1e-5


def test_what_few_images_cannot_say() -> None:
    network = Pixels()
    metric = Distances(network, References.of("a", draws(30, 12)))
    told = dict[int, dict[str, float | None]]()
    for count in (0, 1, 2, 3, 4):
        metric.reset()
        metric.update(draws(count, 3, 2, 2))
        told[count] = metric.compute()
        assert told[count]["images"] == count
        assert all(value is None or np.isfinite(value) for value in told[count].values())
    assert [count for count in told if told[count]["fid"] is not None] == [2, 3, 4]
    assert [count for count in told if told[count]["kid"] is not None] == [2, 3, 4]
    assert [count for count in told if told[count]["precision"] is not None] == [4]


def brute(references: Tensor, made: Tensor, k: int) -> tuple[float, float]:
    def share(points: np.ndarray, centres: np.ndarray) -> float:
        balls = [sorted(float(np.linalg.norm(c - other)) for other in centres)[k] for c in centres]
        inside = [any(np.linalg.norm(p - c) <= r for c, r in zip(centres, balls, strict=True)) for p in points]
        return sum(inside) / len(inside)

    return share(made.numpy(), references.numpy()), share(references.numpy(), made.numpy())


def test_precision_and_recall() -> None:
    a, b = draws(50, 3), 0.4 * draws(35, 3, seed=1)
    assert precision_recall(a, b, 3) == pytest.approx(brute(a, b, 3))
    precision, recall = precision_recall(a, b, 3) or (0, 0)
    assert recall < precision == 1  # a narrow generator: what it makes is real, and much is not made
    assert precision_recall(a, a + 100) == (0, 0)
    # On a line, k = 1: balls of radius 1 around 0, 1 and of radius 4 around 5.
    line = torch.tensor([[0.0], [1.0], [5.0]]).double()
    assert precision_recall(line, torch.tensor([[-1.5], [1.5], [2.0], [9.0]]).double(), 1) == (0.75, 1.0)
    assert precision_recall(line, a[:, :1], 3) is None


def test_the_table_of_the_documentation() -> None:
    """docs/metrics.md: real images against real images."""
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\S+) \| (\S+) ± (\S+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    features = extract(make_features("digits"), digits_images())
    mixed = features[torch.randperm(1352, generator=torch.Generator().manual_seed(0))]
    references = References.of("half", mixed[676:])
    assert [int(row[0]) for row in rows] == [10, 50, 100, 300, 676]
    for count, *told in rows:
        made = mixed[: int(count)]
        mean, deviation, _ = kernel(made, mixed[676:]) or (0, 0, 0)
        found = (frechet(made, references), mean, deviation, *(precision_recall(mixed[676:], made) or ()))
        for text, value in zip(told, found, strict=True):
            assert float(text) == pytest.approx(value, abs=0.75 * 10 ** -len(text.partition(".")[2])), (count, text)


def in_ranks(rank: int, folder: Path, bounds: list[int]) -> None:
    mine = slice(bounds[rank], bounds[rank + 1])
    images, network = digits_images(), make_features("digits")
    metric = Distances(network, References.of("some", extract(network, images[100:300])))
    if mine.start < mine.stop:
        metric.update(images[mine][:5])
        metric.update(images[mine][5:])
    alone = Distances(network, metric.references, sync_on_compute=False)
    alone.update(images[mine])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method")  # torchmetrics's, of one that was never updated
        found = {"all": metric.compute(), "mine": alone.compute()}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


def test_ranks_measure_what_one_does(tmp_path: Path) -> None:
    def measured(*bounds: int) -> list[dict[str, Any]]:
        folder = tmp_path / "-".join(map(str, bounds))
        run_ranks(in_ranks, len(bounds) - 1, folder, list(bounds))
        return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(len(bounds) - 1)]

    (one,) = measured(0, 70)
    assert one["all"] == pytest.approx(one["mine"], rel=1e-6)  # float32, in batches of other sizes
    assert one["all"]["images"] == 70
    for bounds in ((0, 35, 70), (0, 52, 70), (0, 70, 70)):  # even, uneven, and a process without any images
        for rank, found in enumerate(measured(*bounds)):
            assert found["all"] == pytest.approx(one["all"], rel=1e-6)
            assert found["mine"]["images"] == bounds[rank + 1] - bounds[rank]
            assert found["mine"]["fid"] != found["all"]["fid"] or found["mine"]["images"] == 70
