"""The set of images that FID, KID, precision and recall compare with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.config import SHIPPED, is_object
from paraflowkit.metrics.digits_reference import digits_images
from paraflowkit.metrics.features import ROWS, device_of, extract, name_of, width_of
from paraflowkit.metrics.files import read_note, read_tensors
from paraflowkit.metrics.images import folder_batches
from paraflowkit.metrics.named import load_object

_SETTING = "metrics.references"


@dataclass(frozen=True)
class References:
    """Features of a set, or what is known of them.

    Attributes:
        name: told in reports. features: ``(n, d)`` float64, or None where only their statistics are known, which is
            enough for FID and for no other. mean, covariance: ``(d,)`` and ``(d, d)`` float64. count: n, or None.
    """

    name: str
    features: Tensor | None
    mean: Tensor
    covariance: Tensor
    count: int | None

    @classmethod
    def of(cls, name: str, features: Tensor) -> References:
        """The set of these features ``(n, d)``.

        Raises:
            ParaflowkitError: fewer than two, which have no covariance.
        """
        if len(features) < 2:
            raise ParaflowkitError(f"{_SETTING}: {name} holds {len(features)} images; a distance needs two or more.")
        wide = features.double()
        return cls(name, wide, wide.mean(0), wide.T.cov(), len(wide))


def load_references(value: str, network: nn.Module, size: int | None = None) -> References:
    """The set that a setting names, seen by a feature network.

    Args:
        value: ``digits``, a folder of PNG or JPEG files, a ``.safetensors`` file with ``features`` ``(n, d)`` or with
            ``mean`` ``(d,)``, ``covariance`` ``(d, d)`` and perhaps ``count``, or ``package.module:function`` that
            returns images ``(n, c, h, w)`` in [-1, 1].
        size: of the images of a folder, see :func:`paraflowkit.metrics.images.read_image`.

    Raises:
        ParaflowkitError: it is not there, or does not fit the network.
    """
    if value.endswith(".safetensors"):
        return _from_file(Path(value), network)
    try:
        made = [extract(network, batch) for batch in _batches(value, size)]
    except ValueError as error:
        raise ParaflowkitError(f"{_SETTING}: {value}: {error}.") from error
    return References.of(value, torch.cat(made))


def _batches(value: str, size: int | None) -> Iterator[Tensor]:
    if value == SHIPPED:
        yield from digits_images().split(ROWS)
    elif is_object(value):
        yield from _called(value).split(ROWS)
    elif Path(value).is_dir():
        yield from folder_batches(Path(value), size, ROWS)
    else:
        raise ParaflowkitError(
            f"{_SETTING}: there is no folder {value!r}: give a folder of PNG or JPEG files, a .safetensors file, "
            "package.module:function or digits."
        )


def _called(value: str) -> Tensor:
    function = load_object(_SETTING, value)
    try:
        images: Any = function()
    except Exception as error:
        raise ParaflowkitError(f"{_SETTING}: {value} failed ({type(error).__name__}: {error}).") from error
    if not (isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point() and len(images)):
        raise ParaflowkitError(f"{_SETTING}: {value} must return a float tensor of images (n, c, h, w).")
    if not (images.isfinite().all() and images.abs().max() <= 1 + 1e-6):
        raise ParaflowkitError(
            f"{_SETTING}: {value} must return images in [-1, 1], and these lie in "
            f"[{images.min().item():g}, {images.max().item():g}]."
        )
    return images


def _from_file(path: Path, network: nn.Module) -> References:
    if not path.is_file():
        raise ParaflowkitError(f"{_SETTING}: there is no file {str(path)!r}.")
    width, given = width_of(network), read_tensors(_SETTING, path)
    made_by = read_note(_SETTING, path).get("features", name_of(network))
    if made_by != name_of(network):
        raise ParaflowkitError(
            f"{_SETTING}: {path} holds features of {made_by}, and metrics.features is {name_of(network)}: make the "
            "file anew, or set metrics.features to what it was made with."
        )
    wanted = {"features": (None, width)} if "features" in given else {"mean": (width,), "covariance": (width, width)}
    for key, shape in wanted.items():
        found = given.get(key)
        if found is None:
            raise ParaflowkitError(f"{_SETTING}: {path} must hold 'features', or 'mean' and 'covariance'.")
        if found.ndim != len(shape) or any(w not in (None, f) for f, w in zip(found.shape, shape, strict=True)):
            spelled = ", ".join("n" if part is None else str(part) for part in shape)
            raise ParaflowkitError(
                f"{_SETTING}: {key!r} of {path} has shape {tuple(found.shape)}, and the features {name_of(network)} "
                f"want ({spelled})."
            )
        if not found.isfinite().all():
            raise ParaflowkitError(f"{_SETTING}: {key!r} of {path} holds numbers that are not finite.")
    device = device_of(network)
    if "features" in given:
        return References.of(str(path), given["features"].double().to(device))
    count = int(given["count"]) if "count" in given and given["count"].numel() == 1 else None
    mean, covariance = (given[key].double().to(device) for key in ("mean", "covariance"))
    return References(str(path), None, mean, covariance, count)


def save_references(references: References, network: nn.Module, path: Path) -> None:
    """Write the features to a file that ``metrics.references`` reads, with the name of the network that made them.

    Raises:
        ParaflowkitError: there are no features, or the file cannot be written.
    """
    from safetensors.torch import save_file

    if references.features is None:
        raise ParaflowkitError(f"{_SETTING}: of {references.name} only mean and covariance are known.")
    try:
        save_file({"features": references.features.cpu()}, path, metadata={"features": name_of(network)})
    except OSError as error:
        raise ParaflowkitError(f"{path} cannot be written ({error}).") from error
