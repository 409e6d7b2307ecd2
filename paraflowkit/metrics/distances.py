"""FID [1], KID [2], precision and recall [3] of images, all from one pass through the feature network.

[1] Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, NeurIPS 2017.
[2] Bińkowski et al., Demystifying MMD GANs, ICLR 2018. [3] Kynkäänniemi et al., Improved Precision and Recall Metric
for Assessing Generative Models, NeurIPS 2019.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from paraflowkit.metrics.features import device_of, extract, width_of
from paraflowkit.metrics.precision_recall import precision_recall
from paraflowkit.metrics.references import References

#: What :class:`Distances` computes; what cannot be said is None.
#:
#: - ``images``, ``references``: how many there were. Few images make a large FID: figures of different numbers are not
#:   to be compared.
#: - ``fid``: of two images or more. Fewer images than features make the covariance singular: still a number.
#: - ``kid``, ``kid_deviation``: mean and standard deviation over subsets, of ``kid_subset`` images each. The estimate
#:   is unbiased and may be negative.
#: - ``precision``, ``recall``: in 0 … 1, of more than k images. Balls of few images are wide, and hold almost anything.
KEYS = ("images", "references", "fid", "kid", "kid_deviation", "kid_subset", "precision", "recall")


class _Given(nn.Module):
    """Features that were computed before, to torchmetrics a feature network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(features: Tensor, references: References) -> float | None:
    """FID of features ``(n, d)`` by torchmetrics; None of fewer than two."""
    if len(features) < 2:
        return None
    metric: Any = FrechetInceptionDistance(_Given(features.shape[1]), sync_on_compute=False).to(features.device)
    # torchmetrics keeps sums. Those of any two features with the references' mean and covariance give both back.
    mean, covariance = references.mean.to(features.device), references.covariance.to(features.device)
    metric.real_features_num_samples += 2
    metric.real_features_sum += 2 * mean
    metric.real_features_cov_sum += covariance + 2 * mean.outer(mean)
    metric.update(features, real=False)
    # Of two equal sets rounding leaves something about zero, on either side.
    return max(metric.compute().item(), 0.0)


def kernel(
    features: Tensor, references: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float, int] | None:
    """KID of features ``(n, d)`` to references ``(m, d)`` by torchmetrics, over random subsets.

    Args:
        subsets, size: how many, and of how many images of each set; a smaller set makes them as small as itself.
        seed: of the draws.

    Returns:
        Mean and standard deviation over the subsets, and the images in each; None where a set has fewer than two.
    """
    size = min(size, len(features), len(references))
    if size < 2:
        return None
    if size == len(features) == len(references):
        subsets = 1  # all of both: there is no other subset
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features
        metric: Any = KernelInceptionDistance(
            _Given(features.shape[1]), subsets=subsets, subset_size=size, sync_on_compute=False
        )
        metric.to(features.device)
        metric.update(references, real=True)
        metric.update(features, real=False)
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return mean.item(), deviation.item(), size


class Distances(Metric):
    """Gathers features of generated images; ``compute()`` returns figures by :data:`KEYS`.

    In a process group each process updates with its own images, if need be with none, and all compute together: the
    result is that of all images, in the order of the ranks. With ``sync_on_compute=False`` each stays by itself.

    Args:
        network: see :func:`paraflowkit.metrics.features.make_features`. references: seen by the same network.
        neighbours: k of precision and recall. subsets, subset_size, seed: of KID, see :func:`kernel`.
        options: of torchmetrics.
    """

    full_state_update = False
    features: list[Tensor]

    def __init__(
        self,
        network: nn.Module,
        references: References,
        *,
        neighbours: int = 3,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.network = network
        self.references = references
        self.neighbours = neighbours
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.add_state("features", [], dist_reduce_fx="cat")

    def update(self, images: Tensor) -> None:
        """Add images ``(n, c, h, w)`` in [-1, 1]; n may be 0.

        Raises:
            ValueError: the network refuses them.
        """
        self.features.append(extract(self.network, images))

    def _nothing(self) -> Tensor:
        return torch.zeros(0, width_of(self.network), dtype=torch.float64, device=device_of(self.network))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the features of all processes; one that has none takes part with an empty matrix."""
        if not self.features:
            self.features = [self._nothing()]
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float | None]:
        """The distances of all images so far, by :data:`KEYS`."""
        given: Any = self.features  # once they are gathered, torchmetrics has made one tensor of the list
        made = given if isinstance(given, Tensor) else torch.cat([self._nothing(), *given])
        theirs = self.references.features
        kid, shares = None, None
        if theirs is not None:
            theirs = theirs.to(made.device)
            kid = kernel(made, theirs, self.subsets, self.subset_size, self.seed)
            shares = precision_recall(theirs, made, self.neighbours)
        found = [len(made), self.references.count, frechet(made, self.references)]
        found += [*(kid or (None, None, None)), *(shares or (None, None))]
        return dict(zip(KEYS, found, strict=True))
