"""FID's Inception-v3 against another implementation, and files that are not its weights.

The expected numbers come from torch-fidelity 0.4.0 (its FeatureExtractorInceptionV3, float32, CPU), not from this
package: the same weights were drawn, named as in its state dict, and the same images of 256 levels were given to it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics import inception, inception_blocks
from paraflowkit.metrics.features import extract, make_features
from paraflowkit.metrics.inception import Inception

#: Height and width -> of each of two images: every 256th feature; sum and norm of all 2048.
EXPECTED = {
    (64, 48): (
        [
            [0.1535805, 0.0042613, 0.0143120, 0.0932571, 1.3439323, 0.7376505, 0.8651902, 0.9178357],
            [0.1399325, 0.0038739, 0.0167549, 0.1178009, 1.3583422, 0.7780819, 0.7748928, 1.0128471],
        ],
        [[1036.8292, 38.79546], [1099.0851, 41.22930]],
    ),
    (320, 350): (
        [
            [0.2468783, 0.0004367, 0.0288837, 0.1303131, 2.0110521, 1.2366091, 1.0826645, 1.2768004],
            [0.3036903, 0.0034259, 0.0261315, 0.1463071, 1.9609625, 1.2147721, 1.2004712, 1.4804657],
        ],
        [[1615.1203, 60.55680], [1715.5072, 64.29186]],
    ),
}


def drawn(name: str, shape: torch.Size) -> Tensor:
    """Weights of a name: uniform, by a generator seeded with it."""
    u = (
        torch.rand(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())), dtype=torch.float64) * 2
        - 1
    )
    if name.endswith("conv.weight"):
        return (u * (6 / (shape[1] * shape[2] * shape[3])) ** 0.5).float()
    return (1 + 0.2 * u if name.endswith(("bn.weight", "bn.running_var")) else 0.1 * u).float()


def waves(height: int, width: int) -> Tensor:
    """Two images (2, 3, h, w) of 256 levels, in [-1, 1]."""
    k, c, i, j = torch.meshgrid(*(torch.arange(n).double() for n in (2, 3, height, width)), indexing="ij")
    wave = torch.sin(0.31 * i * (1 + k) + 0.17 * j + 1.3 * c) * torch.cos(0.05 * i - 0.11 * j * (1 + k))
    return (127.5 + 127.5 * wave).round().float() / 127.5 - 1


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        empty = Inception().state_dict()
    named = {name: drawn(name, value.shape) for name, value in empty.items() if not name.endswith("tracked")}
    return {**named, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


@pytest.fixture(scope="module")
def network(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """Loaded from a file, as a user's is; 95 MB, which pytest would keep."""
    path = tmp_path_factory.mktemp("inception") / "pt_inception.safetensors"
    save_file(weights, path)
    try:
        return make_features(str(path))
    finally:
        path.unlink()


def error_to_reference(network: nn.Module, size: tuple[int, int], images: int = 2) -> float:
    found = extract(network, waves(*size)[:images])
    some, whole = (torch.tensor(numbers[:images], dtype=torch.float64) for numbers in EXPECTED[size])
    summary = torch.stack([found.sum(1), found.norm(dim=1)], 1)
    return max(
        ((found[:, ::256] - some).abs().max() / some.abs().max()).item(),
        ((summary - whole).abs() / whole).max().item(),
    )


@pytest.mark.parametrize("size", EXPECTED)
def test_features_are_those_of_torch_fidelity(network: nn.Module, size: tuple[int, int]) -> None:
    assert error_to_reference(network, size) < 1e-5


def test_grey_and_beyond(network: nn.Module) -> None:
    grey = waves(24, 20)[:1, :1]
    colour = torch.cat([grey, 3 * grey, (3 * grey).clamp(-1, 1)]).expand(3, 3, -1, -1)
    same, loud, clamped = extract(network, colour)
    torch.testing.assert_close(extract(network, grey)[0], same)
    torch.testing.assert_close(loud, clamped)
    assert (loud - same).norm() > 0.01 * same.norm()
    with pytest.raises(ValueError, match="inception see images"):
        extract(network, torch.zeros(1, 4, 24, 20))
    assert extract(network, torch.zeros(0, 3, 24, 20)).shape == (0, 2048)


@pytest.fixture
def planted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A known variant of Inception or of its input, which is not FID's."""
    name, pool, average = request.param, inception_blocks.pool, functional.avg_pool2d

    def padding_counted(kind: str, x: Tensor) -> Tensor:
        return average(x, 3, stride=1, padding=1) if kind == "average" else pool(kind, x)

    def averages_only(kind: str, x: Tensor) -> Tensor:
        return pool("average" if kind == "maximum" else kind, x)

    def half_pixels(x: Tensor) -> Tensor:
        return functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)

    if name == "half pixels":
        monkeypatch.setattr(inception, "resize", half_pixels)
    else:
        monkeypatch.setattr(inception_blocks, "pool", {"padding": padding_counted, "averages": averages_only}[name])
    return name


@pytest.mark.parametrize("planted", ["padding", "averages", "half pixels"], indirect=True)
def test_the_numbers_tell_variants_apart(network: nn.Module, planted: str) -> None:
    assert error_to_reference(network, (64, 48), images=1) > 1e-3, planted


def refused(path: Path) -> str:
    with pytest.raises(ParaflowkitError) as caught:
        Inception.from_file(path)
    message = str(caught.value)
    assert message.startswith(f"metrics.features: {path}")
    assert "\n" not in message
    return message


def test_files_that_are_not_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    assert "there is no such file" in refused(path)
    path.write_bytes(b"PK\x03\x04 a pickle of torch.save, renamed")
    assert "cannot be read as a .safetensors file" in refused(path)
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, path)
    assert "469 of its 470 tensors are missing" in refused(path)
    assert "such as Conv2d_1a_3x3.bn.weight" in refused(path)
    save_file({"fc.weight": torch.zeros(1000, 2048)}, path)
    assert "torchvision's" in refused(path)


def test_weights_that_are_not_finite(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    bad = weights["Mixed_7c.branch_pool.bn.bias"].clone()
    bad[3] = float("nan")
    save_file({**weights, "Mixed_7c.branch_pool.bn.bias": bad}, path)
    try:
        assert "not finite" in refused(path)
    finally:
        path.unlink()
