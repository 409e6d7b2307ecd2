"""CLIP score, PSNR, SSIM and RMSE: against torchmetrics, transformers and formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_pieces import draws, write_clip
from ranks import run_ranks
from safetensors.torch import load_file, save_file
from zoo._parts import clip_tokenizer

from paraflowkit.errors import ParaflowkitError
from paraflowkit.metrics.clip_score import ClipScore
from paraflowkit.metrics.similarity import similarity


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def test_clip_score(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPModel

    metric = ClipScore(clip_folder)
    images, prompts = draws(5, 3, 12, 12).clamp(-1, 1).float(), ["abc", "b", "", "abcdefghijklmnop", "zz"]
    found = metric.scores(images, prompts)
    assert found.shape == (5,)
    # By hand: pixels of 256 levels, normalised with CLIP's mean and deviation, through CLIPModel's own forward.
    model: Any = CLIPModel.from_pretrained(clip_folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    pixels = ((((images + 1) * 127.5).round() / 255) - mean) / deviation
    tokens = clip_tokenizer()(prompts, padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        made = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    cosines = (
        (made.image_embeds * made.text_embeds).sum(1) / made.image_embeds.norm(dim=1) / made.text_embeds.norm(dim=1)
    )
    torch.testing.assert_close(found.float(), 100 * cosines.clamp(min=0), rtol=1e-4, atol=1e-3)
    # Nothing is like its opposite: below 0 the score is 0.
    with monkeypatch.context() as patch:
        patch.setattr(metric, "embed_prompts", lambda prompts: -metric.embed_images(images))
        assert metric.scores(images, prompts).tolist() == [0.0] * 5
    metric.update(images[:2], prompts[:2])
    metric.update(images[2:], prompts[2:])
    assert metric.compute() == pytest.approx(found.mean().item())
    grey = images[:1, :1]
    torch.testing.assert_close(metric.scores(grey, ["a"]), metric.scores(grey.expand(1, 3, -1, -1), ["a"]))
    with pytest.raises(ValueError, match="5 images and 4 prompts"):
        metric.scores(images, prompts[:4])


def clip_in_ranks(rank: int, folder: Path, model: Path) -> None:
    metric = ClipScore(model)
    images = draws(5, 3, 12, 12).clamp(-1, 1).float()
    mine = slice(0, 4) if rank == 0 else slice(4, 5)
    metric.update(images[mine], list("abcde")[mine])
    (folder / f"found-{rank}").write_text(repr(metric.compute()))


def test_clip_score_of_ranks(clip_folder: Path, tmp_path: Path) -> None:
    run_ranks(clip_in_ranks, 2, tmp_path / "ranks", clip_folder)
    whole = ClipScore(clip_folder).scores(draws(5, 3, 12, 12).clamp(-1, 1).float(), list("abcde")).mean().item()
    found = [float((tmp_path / "ranks" / f"found-{rank}").read_text()) for rank in range(2)]
    assert found == pytest.approx([whole, whole], rel=1e-5)
    assert whole > 0


def test_clip_folders_that_will_not_do(clip_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def told(folder: Path) -> str:
        with pytest.raises(ParaflowkitError) as caught:
            ClipScore(folder)
        message = str(caught.value)
        assert message.startswith("metrics.clip: ")
        assert "\n" not in message
        return message

    def copy(name: str, **changed: bytes | None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in clip_folder.iterdir():
            data = changed.get(path.stem, path.read_bytes())
            if data is not None:
                (folder / path.name).write_bytes(data)
        return folder

    assert "there is no file" in told(tmp_path / "nowhere")
    assert "a model of the type 'siglip'" in told(copy("other", config=b'{"model_type": "siglip"}'))
    assert "cannot be read" in told(copy("broken", config=b"{"))
    assert "cannot be loaded" in told(copy("no weights", model=None))
    weights = load_file(clip_folder / "model.safetensors")
    less = {name: value for name, value in weights.items() if name != "visual_projection.weight"}
    half = copy("half")
    save_file(less, half / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors, visual_projection.weight for one" in told(half)
    assert capfd.readouterr().err == ""


def test_clip_score_of_the_scenes() -> None:
    theirs = pytest.importorskip("paraflowkit_scenes.clip", exc_type=ImportError)
    if not (theirs.WEIGHTS / "model.safetensors").is_file():
        pytest.skip("the plugin's weights are not here")
    images = (draws(4, 3, 64, 64).clamp(-1, 1) * 127.5 + 127.5).round().float() / 127.5 - 1
    prompts = ["a red circle", "a blue square left of a green triangle", "", "two yellow circles"]
    torch.testing.assert_close(
        ClipScore(theirs.WEIGHTS).scores(images, prompts).float(),
        theirs.Clip().score(prompts, images),
        rtol=0,
        atol=1e-3,
    )


def test_similarity() -> None:
    images = draws(3, 1, 16, 16, seed=3).clamp(-1, 1)
    other = images.clone()
    other[1] = (images[1] - 0.1).clamp(-1, 1)
    other[2] = -images[2]
    found = similarity(images, other)
    difference = ((images - other) ** 2).mean((1, 2, 3))
    assert found.rmse == pytest.approx(difference.sqrt().tolist())
    assert found.psnr == [None, *(pytest.approx(10 * np.log10(4 / d)) for d in difference[1:].tolist())]
    assert found.ssim[0] == 1.0
    assert found.ssim[0] > (found.ssim[1] or 0) > 0 > (found.ssim[2] or 0)
    assert found.identical == 1
    assert found.mean_psnr == pytest.approx(10 * (4 / difference[1:]).log10().mean().item())
    assert found.mean_rmse == pytest.approx(difference.sqrt().mean().item())
    same = similarity(images, images)
    assert (same.mean_psnr, same.mean_ssim, same.mean_rmse, same.identical) == (None, 1.0, 0.0, 3)
    assert similarity(3 * images, (3 * images).clamp(-1, 1)).identical == 3
    assert similarity(images[:1], other[:1]).ssim == [1.0]
    small = similarity(images[..., :10], other[..., :10])
    assert small.ssim == [None] * 3
    assert small.mean_ssim is None
    assert similarity(images[:0], other[:0]).mean_rmse is None
    with pytest.raises(ValueError, match="cannot be compared"):
        similarity(images, other[..., :8])


def test_ssim_is_the_formula() -> None:
    """Means and covariances under a Gaussian window around each pixel, of an image that is mirrored at its edges."""
    a, b = (draws(1, 1, 14, 12, seed=seed).clamp(-1, 1) for seed in (1, 2))
    b = (a + b) / 2
    x, y = (np.pad((image[0, 0].numpy() + 1) / 2, 5, mode="reflect") for image in (a, b))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    values = list[float]()
    for at in np.ndindex(14, 12):
        u, v = (image[at[0] : at[0] + 11, at[1] : at[1] + 11] for image in (x, y))
        mean_u, mean_v = (window * u).sum(), (window * v).sum()
        cross = (window * u * v).sum() - mean_u * mean_v
        spread = (window * u * u).sum() - mean_u**2 + (window * v * v).sum() - mean_v**2
        means = (2 * mean_u * mean_v + 0.01**2) / (mean_u**2 + mean_v**2 + 0.01**2)
        values.append(means * (2 * cross + 0.03**2) / (spread + 0.03**2))
    assert similarity(a, b).ssim[0] == pytest.approx(np.mean(values), rel=1e-9)
