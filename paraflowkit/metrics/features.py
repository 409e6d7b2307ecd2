"""Networks that turn images into features, for distances between sets of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.config import SHIPPED
from paraflowkit.metrics.named import load_object
from paraflowkit.models.digits.classifier import DigitsClassifier
from paraflowkit.models.digits.data import SIZE

#: Images in a call of a feature network.
ROWS = 32


class ImageFeatures(nn.Module, ABC):
    """A frozen network: images ``(n, c, h, w)`` in [-1, 1] -> features ``(n, num_features)`` float64.

    Other classes need not inherit: a module with the two attributes and that call will do, in torchmetrics too.

    Attributes:
        name: told in reports, and written into files of features. num_features: width d of a feature.
    """

    name: str
    num_features: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Raises:
            ValueError: images of a shape that the network does not see.
        """


class DigitsFeatures(ImageFeatures):
    """The 64 penultimate features of the shipped classifier of 16x16 digits.

    Distances in them are for this package's own demonstrations; they cannot be compared with published figures.
    """

    name = SHIPPED
    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.classifier = DigitsClassifier.shipped()

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (1, SIZE, SIZE):
            raise ValueError(
                f"the features digits see images (n, 1, {SIZE}, {SIZE}), and these are {tuple(images.shape)}: set "
                "metrics.features to a .safetensors file of FID's Inception, or to package.module:Class"
            )
        return self.classifier.body(images.float().clamp(-1, 1)).double()


def make_features(value: str, device: torch.device | str = "cpu") -> nn.Module:
    """The feature network that a setting names, frozen, on the device.

    Args:
        value: ``digits``, a ``.safetensors`` file of FID's Inception, or ``package.module:Class`` with a constructor
            that takes no arguments.

    Raises:
        ParaflowkitError: the file is missing or another network's, or the class is no feature network.
    """
    with torch.random.fork_rng(devices=[]):  # constructors draw weights, which are replaced; a run's draws stay its own
        if value == SHIPPED:
            network: nn.Module = DigitsFeatures()
        elif value.endswith(".safetensors"):
            from paraflowkit.metrics.inception import Inception

            network = Inception.from_file(Path(value))
        else:
            network = _foreign(value)
    return network.to(device).eval().requires_grad_(False)


def _foreign(value: str) -> nn.Module:
    made: Any = load_object("metrics.features", value)
    try:
        network: Any = made() if isinstance(made, type) else made
    except Exception as error:
        raise ParaflowkitError(
            f"metrics.features: {value} cannot be made without arguments ({type(error).__name__}: {error})."
        ) from error
    width = getattr(network, "num_features", None)
    if not (isinstance(network, nn.Module) and isinstance(width, int) and isinstance(getattr(network, "name", 0), str)):
        raise ParaflowkitError(
            f"metrics.features: {value} is no feature network: it must be a torch.nn.Module with a text 'name' and a "
            "whole number 'num_features'."
        )
    return network


def width_of(network: nn.Module) -> int:
    """Its ``num_features``."""
    return cast(int, network.num_features)


def name_of(network: nn.Module) -> str:
    """Its ``name``."""
    return cast(str, network.name)


def device_of(network: nn.Module) -> torch.device:
    """Of its weights; the CPU of a network without any."""
    weights = [*network.parameters(), *network.buffers()]
    return weights[0].device if weights else torch.device("cpu")


@torch.no_grad()
def extract(network: nn.Module, images: Tensor, rows: int = ROWS) -> Tensor:
    """Features ``(n, d)`` float64 of images ``(n, c, h, w)`` in [-1, 1], ``rows`` at a time, on the network's device.

    Raises:
        ValueError: the network refuses the images, or returns another shape than it says, or numbers that are not
            finite.
    """
    width, device = width_of(network), device_of(network)
    made = [torch.zeros(0, width, dtype=torch.float64, device=device)]
    for part in images.split(rows) if len(images) else ():
        found = network(part.to(device)).double()
        if found.shape != (len(part), width):
            raise ValueError(
                f"the features {name_of(network)} of {len(part)} images have shape {tuple(found.shape)}, and their "
                f"num_features says {(len(part), width)}"
            )
        if not found.isfinite().all():
            raise ValueError(f"the features {name_of(network)} hold numbers that are not finite")
        made.append(found)
    return torch.cat(made)
