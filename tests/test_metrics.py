"""All metrics of a bench together, and their settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from metric_pieces import draws, requested, write_clip
from pydantic import ValidationError
from ranks import run_ranks

from paraflowkit.metrics.clip_score import ClipScore
from paraflowkit.metrics.config import MetricsConfig
from paraflowkit.metrics.digits_reference import digits_images
from paraflowkit.metrics.instruments import KEYS, Instruments
from paraflowkit.metrics.similarity import similarity


def heard() -> tuple[list[str], Callable[[str], None]]:
    lines: list[str] = []
    return lines, lines.append


def test_measure() -> None:
    lines, log = heard()
    instruments = Instruments.build(MetricsConfig(), log=log)
    assert instruments.about == "features: digits; references: digits, 1352 images"
    images = digits_images()[:40]
    sequential = (images + 0.05).clamp(-1, 1)
    found = instruments.measure(images, requested(40), sequential)
    assert tuple(found) == KEYS
    assert (found["images"], found["references"], found["kid_subset"], found["identical"]) == (40, 1352, 40, 0)
    assert [key for key, value in found.items() if value is None] == ["clip_score"]
    assert 0 < (found["fid"] or 0) < 20
    assert found["precision"] == 1  # they are among the references
    assert found["rmse"] == pytest.approx(similarity(images, sequential).mean_rmse)
    assert instruments.measure(images, requested(40), sequential) == found  # nothing is left of the first
    noise = instruments.measure(draws(40, 1, 16, 16).float(), requested(40), None)
    assert tuple(noise) == KEYS
    assert (noise["fid"] or 0) > 3 * (found["fid"] or 0)
    assert (noise["precision"] or 0) < 0.2 > (noise["recall"] or 0)
    assert [noise[key] for key in ("psnr", "ssim", "rmse", "identical")] == [None] * 4
    assert (lines, instruments.missing) == ([], [])


def instruments_in_ranks(rank: int, folder: Path) -> None:
    instruments = Instruments.build(MetricsConfig())
    count = 6 + rank
    found = instruments.measure(digits_images()[:count], requested(count))
    (folder / f"found-{rank}").write_text(repr(found["images"]))


def test_processes_measure_each_for_itself(tmp_path: Path) -> None:
    run_ranks(instruments_in_ranks, 2, tmp_path / "ranks")
    assert [(tmp_path / "ranks" / f"found-{rank}").read_text() for rank in range(2)] == ["6", "7"]


def test_what_is_missing_is_said_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines, log = heard()
    config = MetricsConfig(
        features=str(tmp_path / "inception.safetensors"), clip=str(tmp_path / "clip"), scores={"mine": "nowhere:score"}
    )
    instruments = Instruments.build(config, log=log)
    images = digits_images()[:4]
    for _ in range(2):
        found = instruments.measure(images, requested(4, "a digit"), images)
        assert found == {**dict.fromkeys(KEYS), "images": 4, "rmse": 0.0, "ssim": 1.0, "identical": 4}
    assert lines == instruments.missing
    assert len(lines) == 3
    assert lines[0].startswith(f"No FID, KID, precision and recall: metrics.features: {tmp_path}")
    assert lines[1].startswith(f"No CLIP score: metrics.clip: there is no file '{tmp_path}")
    assert lines[2].startswith("No score mine: metrics.scores.mine: 'nowhere:score' cannot be imported")


def test_images_that_do_not_fit() -> None:
    lines, log = heard()
    instruments = Instruments.build(MetricsConfig(), log=log)
    before = instruments.missing
    images = draws(3, 3, 12, 12).float()
    for _ in range(2):
        found = instruments.measure(images, requested(3, "a prompt"))
        assert found == {**dict.fromkeys(KEYS), "images": 3}
    assert len(lines) == 2
    assert "see images (n, 1, 16, 16), and these are (3, 3, 12, 12)" in lines[0]
    assert lines[1].startswith("No CLIP score: metrics.clip is not set")
    assert before == []  # what was handed out does not change
    for wrong in ({"images": images[0]}, {"requests": requested(2)}, {"sequential": images[:2]}):
        given: dict[str, Any] = {"images": images, "requests": requested(3), "sequential": images, **wrong}
        with pytest.raises(ValueError, match="images"):
            instruments.measure(**given)


def test_images_that_are_not_finite() -> None:
    lines, log = heard()
    instruments = Instruments.build(MetricsConfig(scores={"b": "metric_pieces:brightness"}), log=log)
    images, sequential = digits_images()[:12].clone(), digits_images()[:12] * 0.9
    whole = instruments.measure(images[2:], requested(10), sequential[2:])
    images[0, 0, 3, 3] = float("nan")
    images[1] = float("inf")
    found = instruments.measure(images, requested(12), sequential)
    assert found == whole
    assert found["images"] == 10
    assert lines == ["2 of 12 images hold numbers that are not finite: not measured."]
    sequential[2] = float("nan")
    again = instruments.measure(images, requested(12), sequential)
    assert again["images"] == 10
    assert again["rmse"] == similarity(images[3:], sequential[3:]).mean_rmse
    none = instruments.measure(images[:2], requested(2), sequential[:2])
    assert none == {**dict.fromkeys(found), "images": 0, "references": 1352, "identical": 0}


def test_scores_of_ones_own(tmp_path: Path) -> None:
    clip_folder = write_clip(tmp_path)
    lines, log = heard()
    names = ("brightness", "darkness", "clashing")
    config = MetricsConfig(
        features=None, clip=str(clip_folder), scores={name: f"metric_pieces:{name}" for name in names}
    )
    instruments = Instruments.build(config, log=log)
    images = draws(4, 3, 12, 12).float().clamp(-1, 1)
    requests = [*requested(3, "abc"), *requested(1)]
    found = instruments.measure(images, requests)
    mean = images.mean().item()
    assert tuple(found) == (*KEYS, "brightness", "broken", "darkness")
    assert (found["brightness"], found["darkness"], found["broken"]) == (mean, -mean, None)
    assert found["clip_score"] == ClipScore(clip_folder).scores(images[:3], ["abc"] * 3).mean().item()
    dark = instruments.measure(-torch.ones(4, 3, 12, 12), requests)
    assert (dark["brightness"], dark["darkness"]) == (-1.0, None)
    assert lines == [
        "metrics.scores.clashing: metric_pieces:clashing failed: 'fid' is the name of another figure.",
        "metrics.scores.darkness: metric_pieces:darkness failed: RuntimeError: too dark to tell.",
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"features": "digit"}, "Did you mean 'digits'"),
        ({"features": "inception.pth"}, "is a pickle, which is never read"),
        ({"features": "pkg:"}, "expects digits, a .safetensors file or package.module:Class"),
        ({"scores": {"mine": "pkg.module"}}, "'mine' expects package.module:callable"),
        ({"reference_size": 8}, "resizes the images of a folder"),
        ({"reference_size": 0, "references": "folder"}, "greater than or equal to 1"),
        ({"feature": "digits"}, "Extra inputs"),
    ],
)
def test_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MetricsConfig.model_validate(settings)
    assert words in str(caught.value)


def test_settings_need_no_torch() -> None:
    code = "import sys, paraflowkit.metrics.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
