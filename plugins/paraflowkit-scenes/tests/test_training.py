"""The optimizer, the loop that goes on where it stopped, the command and the model card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from paraflowkit_scenes.training import __main__ as command
from paraflowkit_scenes.training import flow
from paraflowkit_scenes.training.assemble import NETWORKS, card
from paraflowkit_scenes.training.batches import batch, generator
from paraflowkit_scenes.training.loop import Run, Settings, Stopped
from paraflowkit_scenes.training.optimizer import MuonAdamW, orthogonal
from paraflowkit_scenes.training.vae import CROP, crops


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_the_newton_schulz_iteration_makes_singular_values_alike(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5
    assert values.max() < 1.3
    # The singular vectors are those of the matrix: the result is a polynomial in it.
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    rotated = u.mT @ made @ v.mT
    assert (rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-3


def test_muon_and_adam_share_the_parameters_by_kind_and_name() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.LayerNorm(5))
    optimizer = MuonAdamW(network.named_parameters(), 1e-2, adam=("0.",))
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 5]
    torch.manual_seed(0)
    before = [p.detach().clone() for p in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    # A step of either kind has a root mean square of about the learning rate.
    for parameter, old in zip(network.parameters(), before, strict=True):
        size = (parameter - old * (1 - 1e-2 * 0.01)).square().mean().sqrt()
        assert 0.001 < size < 0.02
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: None)


def test_bfloat16_products_change_a_step_of_muon_little_and_one_of_adam_not() -> None:
    torch.manual_seed(0)
    start, grads = [torch.randn(12, 20), torch.randn(20)], [torch.randn(12, 20), torch.randn(20)]
    moved: dict[torch.dtype, list[Tensor]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        parameters = [nn.Parameter(value.clone()) for value in start]
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.clone()
        optimizer = MuonAdamW([("matrix", parameters[0]), ("vector", parameters[1])], 1e-2, dtype=dtype)
        optimizer.step()
        moved[dtype] = [p.detach() - value for p, value in zip(parameters, start, strict=True)]
        assert optimizer.state[parameters[0]]["momentum"].dtype == torch.float32
    (matrix, vector), (coarse, same) = moved.values()
    assert 0 < (matrix - coarse).norm() < 0.03 * matrix.norm()
    assert torch.equal(vector, same)


SETTINGS = Settings(steps=6, batch=4, learning_rate=1e-2, warmup=2)


def _loss(network: nn.Module, step: int) -> Tensor:
    x = torch.randn(4, 3, generator=generator(0, step))
    return (network(x) - x.sum(-1, keepdim=True)).square().mean()


def _run(fabric: Fabric, folder: Path, settings: Settings = SETTINGS) -> Run:
    torch.manual_seed(settings.seed)
    return Run(fabric, nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), settings, folder)


def test_a_run_that_was_interrupted_is_the_run_that_was_not(fabric: Fabric, tmp_path: Path) -> None:
    lines: list[str] = []
    whole = _run(fabric, tmp_path / "whole")
    whole.fit(lambda step: _loss(whole.network, step), log=lines.append, log_every=3)
    assert [line.split(",")[0] for line in lines] == ["step 3/6", "step 6/6"]

    for _ in range(5):
        piece = _run(fabric, tmp_path / "pieces")
        with pytest.raises(Stopped, match="the same command goes on"):
            piece.fit(lambda step, run=piece: _loss(run.network, step), log=lines.append, stop_after=0.0)
    piece = _run(fabric, tmp_path / "pieces")
    assert piece.step == 5
    piece.fit(lambda step: _loss(piece.network, step), log=lines.append)
    for name, value in whole.average.items():
        assert torch.equal(value, piece.average[name])
    assert not list(tmp_path.rglob("*.new"))


def test_a_run_may_be_prolonged_but_not_changed(fabric: Fabric, tmp_path: Path) -> None:
    run = _run(fabric, tmp_path)
    run.fit(lambda step: _loss(run.network, step), log=lambda line: None)
    assert _run(fabric, tmp_path, replace(SETTINGS, steps=9)).step == 6
    with pytest.raises(ValueError, match="has other settings"):
        _run(fabric, tmp_path, replace(SETTINGS, learning_rate=1.0))


def test_a_loss_that_is_not_finite_ends_the_run(fabric: Fabric, tmp_path: Path) -> None:
    run = _run(fabric, tmp_path)
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        run.fit(lambda step: _loss(run.network, step) * float("nan"), log=lambda line: None)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = Settings(steps=100, batch=1, learning_rate=1.0, warmup=10, cooldown=0.2)
    assert [settings.rate(step) for step in (0, 4, 9, 50, 80, 90, 100)] == [0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_ranks_share_a_step_without_overlap() -> None:
    whole, pictures = batch(0, 3, 6)
    parts = [batch(0, 3, 6, rank, 3) for rank in range(3)]
    assert torch.equal(torch.stack([parts[i % 3][0][i // 3] for i in range(6)]), whole)
    assert [parts[i % 3][1][i // 3] for i in range(6)] == pictures
    assert generator(0, 3, 0).initial_seed() != generator(0, 3, 1).initial_seed()


def test_crops_show_a_thing() -> None:
    images, pictures = batch(0, 0, 16)
    made = crops(images, pictures, generator(0, 0))
    assert made.shape == (16, 3, CROP, CROP)
    assert (made.flatten(1).std(1) > 0.02).all()


def test_the_second_stage_wants_the_first(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"flow.done: no trained flow there. Give the stage flow as well"):
        command.main(["--out", str(tmp_path), "--stages", "refine", "--accelerator", "cpu"])


def test_the_model_card_shows_precision_and_remarks() -> None:
    old = {"steps": 5, "batch": 4, "learning_rate": 2e-3, "seed": 0, "minutes": 1.5, "on": "a CPU"}
    notes = {**dict.fromkeys(NETWORKS, old), "refine": {**old, "seed": 3, "precision": "bf16-mixed"}}
    notes["flow"] = {**old, "remark": "One minute was not clocked."}
    made = card(notes)
    assert "| transformer and text encoders | 5 of 4 | 0.002 | 0 | 32-true | 1.5 | a CPU |" in made
    assert "| the same, second stage | 5 of 4 | 0.002 | 3 | bf16-mixed | 1.5 | a CPU |" in made
    assert "a CPU |\n\nOne minute was not clocked.\n\n" in made
    assert "With seed 3" in made
    assert "--precision bf16-mixed\n" in made


@pytest.mark.slow
def test_the_command_trains_everything_in_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--out", str(tmp_path), "--steps", "2", "--accelerator", "cpu", "--precision", "bf16-mixed"]
    with pytest.raises(SystemExit, match="no trained autoencoder"):
        command.main([*common, "--stages", "flow"])
    assert command.main([*common, "--minutes", "0"]) == 3
    assert command.main(common) == 0
    said = capsys.readouterr().out
    assert "paused at step 1 of 2" in said
    from diffusers import DiffusionPipeline

    from paraflowkit_scenes.clip import Clip
    from paraflowkit_scenes.detector import Detector

    pipe = DiffusionPipeline.from_pretrained(tmp_path / "weights" / "scenes-sd3", local_files_only=True)
    assert {module.dtype for module in (pipe.vae, pipe.transformer, pipe.text_encoder)} == {torch.float32}
    Detector.from_pretrained(tmp_path / "weights" / "scenes-detector")
    Clip(tmp_path / "weights" / "scenes-clip")
    for stage, precision in (("vae", "32-true"), ("flow", "bf16-mixed"), ("refine", "bf16-mixed")):
        notes = json.loads((tmp_path / "weights" / "scenes-sd3" / f"training-{stage}.json").read_text())
        assert (notes["steps"], notes["precision"]) == (2, precision)
    folders = [tmp_path / "weights" / "scenes-sd3", tmp_path / "refine" / "done", tmp_path / "flow" / "done"]
    for part in flow.PARTS:
        shipped, second, first = (load_file(next((folder / part).glob("*.safetensors"))) for folder in folders)
        assert shipped.keys() == second.keys()
        assert all(torch.equal(shipped[name], value.half()) for name, value in second.items())
        assert not all(torch.equal(shipped[name], value.half()) for name, value in first.items())
    assert command.main(common) == 0
    assert "finished already" in capsys.readouterr().out
