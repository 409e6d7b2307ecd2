"""Feature networks, and the sets of images that distances compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metric_pieces import Pixels, by_scipy, draws, some_images
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.__main__ import app
from paraflowkit.metrics.digits_reference import FOLDER, digits_images, write_digits_reference
from paraflowkit.metrics.distances import Distances
from paraflowkit.metrics.features import DigitsFeatures, extract, make_features
from paraflowkit.metrics.images import folder_batches, read_image
from paraflowkit.metrics.references import load_references
from paraflowkit.models.digits.data import load_digits
from paraflowkit.report.images import to_image


def test_digits_features_are_what_the_classifier_sees() -> None:
    state = torch.get_rng_state()
    network = make_features("digits")
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(network, DigitsFeatures)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = digits_images()[:70]
    found = extract(network, images)
    assert (found.shape, found.dtype) == ((70, 64), torch.float64)
    head = network.classifier.head
    logits = functional_linear(found, head)
    torch.testing.assert_close(logits.float(), network.classifier(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"see images \(n, 1, 16, 16\), and these are \(2, 3, 8, 8\)"):
        extract(network, torch.zeros(2, 3, 8, 8))


def functional_linear(found: Tensor, head: nn.Linear) -> Tensor:
    return found @ head.weight.double().T + head.bias.double()


def test_features_of_third_parties() -> None:
    network = make_features("metric_pieces:Pixels")
    assert torch.equal(extract(network, some_images()), some_images().flatten(1))
    with pytest.raises(ValueError, match=r"have shape \(20, 12\), and their num_features says \(20, 13\)"):
        extract(make_features("metric_pieces:Wide"), some_images())
    with pytest.raises(ValueError, match="not finite"):
        extract(network, torch.full((2, 3, 2, 2), float("nan")))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nowhere.at_all:Net", "'nowhere.at_all:Net' cannot be imported (ModuleNotFoundError"),
        (
            "torch.nn:Identity",
            "torch.nn:Identity is no feature network: it must be a torch.nn.Module with a text 'name'",
        ),
        ("torch.nn:Linear", "torch.nn:Linear cannot be made without arguments (TypeError"),
        ("missing.safetensors", "missing.safetensors: there is no such file"),
    ],
)
def test_no_features(value: str, words: str) -> None:
    with pytest.raises(ParaflowkitError) as caught:
        make_features(value)
    assert str(caught.value).startswith("metrics.features: ")
    assert words in str(caught.value)


def test_shipped_references_are_the_training_images(tmp_path: Path) -> None:
    (images, labels), _ = load_digits()
    assert torch.equal(digits_images(), images)
    shipped = load_file(FOLDER / "images.safetensors")
    assert torch.equal(shipped["labels"].long(), labels)
    write_digits_reference(tmp_path)
    for name in ("images.safetensors", "README.md"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), f"{name} is stale"
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 500_000


def save(image: Tensor, path: Path) -> None:
    to_image(image).save(path)


def test_a_folder_of_images(tmp_path: Path) -> None:
    images = (some_images() * 127.5).round() / 127.5  # levels of a file lie half a level beside, at most
    for i, image in enumerate(images):
        save(image, tmp_path / f"{i:02d}.{'PNG' if i % 2 else 'png'}")
    (tmp_path / "notes.txt").write_text("no image")
    read = torch.cat(list(folder_batches(tmp_path, rows=7)))
    assert (read - images).abs().max() <= 1 / 255 + 1e-6
    network = Pixels()
    found = load_references(str(tmp_path), network)
    assert found.count == 20
    assert found.features is not None
    assert torch.equal(found.features, read.flatten(1).double())
    torch.testing.assert_close(found.mean, read.flatten(1).double().mean(0))
    torch.testing.assert_close(found.covariance, torch.from_numpy(np.cov(read.flatten(1).double().numpy().T)))


def test_images_of_many_shapes(tmp_path: Path) -> None:
    save(torch.zeros(3, 6, 9), tmp_path / "a.png")
    save(torch.zeros(1, 6, 9), tmp_path / "b.png")
    Image.new("RGBA", (9, 6), (255, 0, 0, 0)).save(tmp_path / "c.png")
    Image.new("RGB", (40, 20), (0, 0, 255)).save(tmp_path / "d.jpg")
    shapes = [tuple(batch.shape) for batch in folder_batches(tmp_path)]
    assert shapes == [(1, 3, 6, 9), (1, 1, 6, 9), (1, 3, 6, 9), (1, 3, 20, 40)]
    assert [tuple(b.shape) for b in folder_batches(tmp_path, 4)] == [(1, 3, 4, 4), (1, 1, 4, 4), (2, 3, 4, 4)]
    # The middle is kept: a white stripe at the left edge of a wide image is cut away.
    wide = -torch.ones(1, 8, 24)
    wide[..., :8] = 1
    save(wide, tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 8)[..., 1:] == -1).all()


def test_a_file_of_features_or_of_their_statistics(tmp_path: Path) -> None:
    network, features, made = Pixels(), draws(30, 12), draws(9, 12, seed=1)
    whole, statistics = tmp_path / "features.safetensors", tmp_path / "statistics.safetensors"
    save_file({"features": features.float()}, whole)
    known = features.float().double()
    save_file({"mean": known.mean(0), "covariance": known.T.cov().contiguous(), "count": torch.tensor(30)}, statistics)
    results = list[dict[str, float | None]]()
    for path in (whole, statistics):
        metric = Distances(network, load_references(str(path), network))
        metric.update(made.view(9, 3, 2, 2))
        results.append(metric.compute())
    assert results[0]["fid"] == pytest.approx(by_scipy(known, made), rel=1e-6)
    assert results[1] == {
        **dict.fromkeys(results[0]), "images": 9, "references": 30, "fid": pytest.approx(results[0]["fid"], rel=1e-9)
    }  # fmt: skip
    assert results[0]["kid"] is not None


def refused(value: str, network: nn.Module | None = None) -> str:
    with pytest.raises(ParaflowkitError) as caught:
        load_references(value, network or Pixels())
    message = str(caught.value)
    assert message.startswith("metrics.references: ")
    assert "\n" not in message
    return message


def test_no_references(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert "there is no folder" in refused(str(tmp_path / "missing"))
    assert "holds no PNG or JPEG files" in refused(str(tmp_path))
    assert "there is no file" in refused(str(path))
    path.write_text("{}")
    assert "cannot be read as a .safetensors file" in refused(str(path))
    save_file({"weights": torch.zeros(3, 12)}, path)
    assert "must hold 'features', or 'mean' and 'covariance'" in refused(str(path))
    save_file({"features": torch.zeros(3, 13)}, path)
    assert "has shape (3, 13), and the features pixels want (n, 12)" in refused(str(path))
    save_file({"features": torch.zeros(1, 12)}, path)
    assert "holds 1 images; a distance needs two or more" in refused(str(path))
    save_file({"features": torch.zeros(3, 12)}, path, metadata={"features": "inception"})
    assert "holds features of inception, and metrics.features is pixels" in refused(str(path))
    save_file({"mean": torch.zeros(12), "covariance": torch.full((12, 12), float("inf"))}, path)
    assert "'covariance'" in refused(str(path))
    path.unlink()
    (tmp_path / "a.png").write_text("no image")
    assert "a.png cannot be read as an image" in refused(str(tmp_path))
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "a.png")
    assert "a.png has pixels of the kind I;16" in refused(str(tmp_path))
    assert "must return images in [-1, 1], and these lie in [" in refused("metric_pieces:loud_images")
    assert "must return a float tensor of images" in refused("metric_pieces:Pixels")
    assert "see images (n, 1, 16, 16), and these are (20, 3, 2, 2)" in refused(
        "metric_pieces:some_images", make_features("digits")
    )


def test_features_are_computed_once_for_all(tmp_path: Path) -> None:
    """``python -m paraflowkit.metrics references``."""
    output = tmp_path / "some.safetensors"
    call = ["references", "metric_pieces:some_images", str(output), "--features", "metric_pieces:Pixels"]
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 0, told.output
    assert "20 images, features pixels" in told.output
    found, again = (load_references(value, Pixels()) for value in (call[1], str(output)))
    assert found.features is not None
    assert again.features is not None
    assert torch.equal(found.features, again.features)
    assert "holds features of pixels, and metrics.features is digits" in refused(str(output), make_features("digits"))
    wrong = CliRunner().invoke(app, [*call[:2], str(tmp_path / "some.pt")])
    assert wrong.exit_code == 2
    assert "must end with .safetensors" in wrong.output
