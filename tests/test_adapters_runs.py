"""Runs of pipelines' folders: images, negative prompts, the model's own grid, and the shipped run files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_folders import load, off, save
from lightning.fabric import Fabric
from PIL import Image
from typer.testing import CliRunner

from paraflowkit import config as run_config
from paraflowkit.cli import app
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.predict import predict

ROOT = Path(__file__).parents[1]
# A scheduler of diffusers hands NumPy a tensor in a way that NumPy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    made = Fabric(accelerator="cpu", devices=1)
    made.launch()
    return made


def run_of(
    folder: Path, tmp_path: Path, *overrides: str, requests: str = "[{prompts: [a cat, red], guidance: 3}]"
) -> Any:
    text = f"model: {{name: diffusers-pipeline, folder: {folder}}}\ngrid: {{steps: 5}}\nrequests: {requests}\n"
    return run_config.loads(text, overrides=[f"output.folder={tmp_path / 'run'}", "output.upscale=1", *overrides])


def test_images_are_decoded(root: Path, tmp_path: Path, fabric: Fabric) -> None:
    """PNGs and PSNRs are of decoded images, the raw samples are latents, and the folder records the model's grid."""
    run = run_of(save("sd", root), tmp_path, "stepper=ddim", "run.compare=true", "solver.tolerance=0")
    made = predict(run, fabric)
    model = load(root, "sd")
    assert made.samples.shape == (2, 4, 8, 8)
    assert made.images.shape == (2, 3, 16, 16)
    assert off(model.decode(made.samples), made.images) < 1e-5
    assert made.folder is not None
    with Image.open(made.folder / "0001.png") as image:
        shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    wanted = ((made.images[1].double().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(shown, wanted)
    assert len({tuple(row) for row in shown.flatten(1).T.tolist()}) > 20  # a picture, not one colour
    assert (made.folder / "grid.png").is_file()
    assert all("psnr" in row for row in made.rows)
    again = run_config.load(made.folder / "config.yaml")
    assert again.grid.spacing == "leading"
    assert again.grid.steps_offset == 1
    assert again.grid.convention == "ddim"
    assert torch.equal(predict(again, fabric, save=False).samples, made.samples)


def test_a_grid_section_of_ones_own_stands_alone(root: Path, tmp_path: Path, fabric: Fabric) -> None:
    folder = save("sd3", root)
    own, shifted = (predict(run_of(folder, tmp_path, *o), fabric, save=False) for o in ((), ("grid.shift=1.5",)))
    plain = predict(run_of(folder, tmp_path, "grid.shift=3", "grid.spacing=linspace"), fabric, save=False)
    assert torch.equal(own.samples, plain.samples)
    assert not torch.equal(own.samples, shifted.samples)


def test_nothing_is_decoded_without_images(root: Path, tmp_path: Path, fabric: Fabric) -> None:
    made = predict(run_of(save("sd", root), tmp_path, "stepper=ddim", "output.images=false"), fabric)
    assert torch.equal(made.images, made.samples)
    assert made.folder is not None
    assert not list(made.folder.glob("0*.png"))


def test_negative_prompts_of_requests(root: Path, tmp_path: Path, fabric: Fabric) -> None:
    """Each sample has its own; one that has none has the model's."""
    folder = save("sd", root)
    lines = [
        {"prompt": "a cat", "guidance": 3, "negative_prompt": "ugly"},
        {"prompt": "a cat", "guidance": 3},
        {"prompt": "a cat", "guidance": 3, "negative_prompt": "night"},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    run = run_of(folder, tmp_path, "stepper=ddim", "model.negative_prompt=night", requests=str(tmp_path / "r.jsonl"))
    made = predict(run, fabric)
    assert [row["negative_prompt"] for row in made.rows] == ["ugly", None, "night"]
    assert off(made.samples[1], made.samples[2]) < 1e-5
    assert off(made.samples[0], made.samples[1]) > 1e-3
    group = "[{prompts: [a cat], guidance: 3, negative_prompt: ugly}]"
    alone = predict(run_of(folder, tmp_path, "stepper=ddim", requests=group), fabric, save=False)
    assert off(alone.samples[0], made.samples[0]) < 1e-5
    (tmp_path / "r.csv").write_text("prompt,negative_prompt,guidance\na cat,ugly,3\n")
    table = predict(run_of(folder, tmp_path, "stepper=ddim", requests=str(tmp_path / "r.csv")), fabric, save=False)
    assert torch.equal(table.samples, alone.samples)
    with pytest.raises(ParaflowkitError, match="no effect at guidance 1"):
        predict(run_of(folder, tmp_path, requests="[{prompts: [a], negative_prompt: b}]"), fabric)


@pytest.mark.slow
def test_many_prompts_in_batches(root: Path, tmp_path: Path, fabric: Fabric) -> None:
    """Batches of other sizes give the same samples, in low precision and in float64 too."""
    folder = save("sd3", root)
    requests = "[{prompts: [a cat, red, two boats, blue night], guidance: 2}]"
    for more, within in ((["run.dtype=float64"], 1e-10), (["model.dtype=bfloat16"], 0.05)):
        one, four = (
            predict(run_of(folder, tmp_path, *more, f"run.batch={n}", requests=requests), fabric, save=False)
            for n in (1, 4)
        )
        assert off(one.samples, four.samples) < within


SHIPPED = {
    "sd2": ("sd-v", "ddim", "parasolver-turbo", 0.03, 24, 50, []),
    "sd3_medium": ("sd3", "euler", "paraflow", 0.005, 8, 50, ["model.dtype=float32"]),
    "flux_dev": (
        "flux",
        "euler",
        "paraflow",
        0.01,
        8,
        50,
        ["model.dtype=float32", "model.height=32", "model.width=32"],
    ),
    "lsun_church": ("ddim-clipped", "clipped-ddim", "parasolver", 0.005, 36, 50, ["solver.precondition=2"]),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_run_files(root: Path, tmp_path: Path, name: str) -> None:
    """Their settings are those of the papers, and with a tiny folder of the same family they run."""
    folder, stepper, solver, tolerance, window, steps, overrides = SHIPPED[name]
    path = ROOT / "configs" / f"{name}.yaml"
    run = run_config.load(path)
    assert run.model.name == "diffusers-pipeline"
    assert (run.stepper.name, run.solver.name) == (stepper, solver)
    solver_settings: Any = run.solver.settings
    assert solver_settings.tolerance == tolerance
    window_settings: Any = run.window.settings
    assert (window_settings.size, run.grid.steps) == (window, steps)
    tiny = [
        f"model.folder={save(folder, root)}",
        f"output.folder={tmp_path / name}",
        "grid.steps=5",
        "output.plot=false",
    ]
    result = CliRunner().invoke(app, ["predict", "--config", str(path), *tiny, *overrides])
    assert result.exit_code == 0, result.output
    images = sorted((tmp_path / name).glob("0*.png"))
    assert len(images) == (4 if name == "lsun_church" else 1)
    with Image.open(images[0]) as image:
        assert image.size == {"flux_dev": (32, 32), "lsun_church": (8, 8)}.get(name, (16, 16))
    rows = [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
    assert all(row["result"] == "converged" for row in rows)


def test_a_hub_name_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(
        app, ["predict", "--config", str(ROOT / "configs" / "sd2.yaml"), f"output.folder={tmp_path / 'r'}"]
    )
    assert result.exit_code == 2
    assert "set model.download to true" in " ".join(result.output.split())
    assert not (tmp_path / "r").exists()
