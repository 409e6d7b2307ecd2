"""Runs that are ended half-way, and what is left to make when they are resumed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file
from typer.testing import CliRunner

from paraflowkit.cli import app
from paraflowkit.config import RunConfig, loads
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric import folder as folder_module
from paraflowkit.fabric.mesh import MeshStrategy
from paraflowkit.fabric.predict import Prediction, predict
from tests.ranks import run_ranks

RUN: dict[str, Any] = {
    "model": "digits-flow",
    "grid": {"steps": 8},
    "stepper": "euler",
    "solver": {"name": "paraflow", "tolerance": 1e-2},
    "requests": [{"classes": [0, 1, 2, 3, 4, 5, 6], "seeds": [3], "guidance": 2.0}],
    "output": {"upscale": 1, "plot": False},
    "run": {"batch": 2, "compare": True},
}


def config(folder: Path, **sections: dict[str, Any]) -> RunConfig:
    run = {
        name: {**value, **sections.get(name, {})} if isinstance(value, dict) else value for name, value in RUN.items()
    }
    run["output"]["folder"] = str(folder)
    return loads(json.dumps({**run, **{k: v for k, v in sections.items() if k not in run}}), "run.yaml")


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


def files(folder: Path) -> dict[str, Any]:
    """What a run's folder holds, as far as it depends on what was made and not on when."""
    made: dict[str, Any] = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    made["samples"] = load_file(folder / "samples.safetensors")["samples"].tolist()
    made["rows"] = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    made["summary"] = {name: summary[name] for name in ("samples", "failed", "iterations", "evaluations", "calls")}
    made["summary"] |= {name: summary[name] for name in ("rmse", "worst_rmse", "psnr")}
    made["names"] = sorted(path.name for path in folder.iterdir())
    return made


@pytest.fixture(scope="module")
def undisturbed(fabric: Fabric, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    predict(config(folder), fabric)
    return files(folder)


def _interrupted(folder: Path, fabric: Fabric, at: int = 2, **sections: dict[str, Any]) -> None:
    def stop(batch: int, batches: int, info: Any) -> None:
        if batch == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(config(folder, **sections), fabric, on_sweep=stop)


def test_an_interrupted_run_is_finished_by_resume(tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]) -> None:
    _interrupted(tmp_path / "run", fabric)
    assert (tmp_path / "run" / "results.jsonl").read_text().count("\n") == 4
    assert sorted(path.name for path in (tmp_path / "run").glob("*.png")) == [f"{i:04d}.png" for i in range(4)]
    seen: set[int] = set()
    made = predict(config(tmp_path / "run"), fabric, on_sweep=lambda batch, batches, info: seen.add(batch), resume=True)
    assert seen == {2, 3}
    assert files(tmp_path / "run") == undisturbed
    assert len(made.rows) == len(made.samples) == len(made.images) == made.summary.samples == 7
    assert torch.equal(made.samples, torch.tensor(undisturbed["samples"]))


def test_a_finished_run_is_only_read(tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]) -> None:
    first = predict(config(tmp_path / "run"), fabric)

    def never(*_: object) -> None:
        raise AssertionError("something was made again")

    again = predict(config(tmp_path / "run"), fabric, on_sweep=never, resume=True)
    assert again.folder == first.folder
    assert torch.equal(again.samples, first.samples)
    assert torch.equal(again.images, first.images)
    assert again.rows == first.rows
    assert again.summary.to_dict() == first.summary.to_dict()
    assert files(tmp_path / "run") == undisturbed


def test_resume_begins_where_nothing_is(tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]) -> None:
    predict(config(tmp_path / "run"), fabric, resume=True)
    assert files(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_resume_takes_the_last_folder(tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]) -> None:
    predict(config(tmp_path / "run"), fabric)
    _interrupted(tmp_path / "run", fabric)
    made = predict(config(tmp_path / "run"), fabric, resume=True)
    assert made.folder == tmp_path / "run-2"
    assert files(tmp_path / "run-2") == undisturbed
    assert not (tmp_path / "run-3").exists()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"solver": {"tolerance": 1e-3}}, "solver.tolerance was 0.01, is 0.001"),
        ({"grid": {"steps": 9}}, "grid.steps was 8, is 9"),
        ({"requests": [{"classes": [0, 1], "seeds": [3], "guidance": 2.0}]}, "7 samples were asked for, now 2"),
        ({"requests": [{"classes": [0, 1, 2, 3, 9, 5, 6], "seeds": [3], "guidance": 2.0}]}, "sample 4 is another one"),
        ({"run": {"batch": 3}}, "run.batch was 2, is 3"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, fabric: Fabric, sections: dict[str, Any], said: str) -> None:
    _interrupted(tmp_path / "run", fabric, at=1)
    changed = {**RUN, "output": {**RUN["output"], "folder": str(tmp_path / "run")}}
    for name, value in sections.items():
        changed[name] = value if name == "requests" else {**RUN[name], **value}
    with pytest.raises(ParaflowkitError, match="had other settings") as error:
        predict(loads(json.dumps(changed), "run.yaml"), fabric, resume=True)
    assert said in str(error.value)
    assert "leave out --resume" in str(error.value)
    assert (tmp_path / "run" / "results.jsonl").read_text().count("\n") == 2


@pytest.mark.slow
def test_where_it_runs_may_change(tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]) -> None:
    _interrupted(tmp_path / "run", fabric)
    made = predict(config(tmp_path / "run", output={"columns": 7}, run={"max_rows": 100}), fabric, resume=True)
    assert made.folder is not None
    assert files(made.folder)["rows"] == undisturbed["rows"]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, fabric: Fabric) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.jsonl").touch()
    with pytest.raises(ParaflowkitError, match=r"manifest\.json cannot be read.*leave out --resume"):
        predict(config(tmp_path / "run"), fabric, resume=True)


@pytest.mark.slow
def test_a_damaged_part_is_made_again(tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]) -> None:
    _interrupted(tmp_path / "run", fabric)
    parts = tmp_path / "run" / "parts"
    (parts / "000000.safetensors").write_bytes(b"\x00" * 20)
    (parts / ".000002.safetensors.77").write_bytes(b"half")
    predict(config(tmp_path / "run"), fabric, resume=True)
    assert files(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("call", [2, *(pytest.param(call, marks=pytest.mark.slow) for call in (5, 8))])
def test_a_full_disk_loses_nothing(
    tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call + 2:  # the first two write configuration and manifest
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, "fsync", full)
        with pytest.raises(ParaflowkitError, match=r"No space left on device.*go on with --resume"):
            predict(config(tmp_path / "run"), fabric)
    assert not list((tmp_path / "run").rglob(".*"))
    predict(config(tmp_path / "run"), fabric, resume=True)
    assert files(tmp_path / "run") == undisturbed


def _child(folder: Path) -> None:
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    predict(config(folder), fabric, resume=True)
    os._exit(0)


def _killed(folder: Path, seconds: float) -> bool:
    """Run or resume in a process that is killed after so many seconds; whether it had ended before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = multiprocessing.get_context("fork").Process(target=_child, args=(folder,), daemon=True)
        child.start()
    child.join(seconds)
    if not child.is_alive():
        assert child.exitcode == 0
        return True
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return False


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_killed_at_random_moments(tmp_path: Path, undisturbed: dict[str, Any], seed: int) -> None:
    """Killed four times and then left alone."""
    draw = random.Random(seed)
    for _ in range(4):
        _killed(tmp_path / "run", draw.uniform(0.05, 1.0))
    assert _killed(tmp_path / "run", 60)
    assert files(tmp_path / "run") == undisturbed


def _rank(rank: int, folder: Path, run: Path, ranks: int, size: int) -> None:
    os.environ.update(
        LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(ranks), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(ranks),
        TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT="1",
    )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=ranks, strategy=MeshStrategy(time=size))
    fabric.launch()
    made: Prediction = predict(config(run), fabric)
    assert [row["index"] for row in made.rows] == list(range(7))
    assert made.samples.shape[0] == made.images.shape[0] == made.summary.samples == 7


@pytest.mark.parametrize(
    ("ranks", "size"), [(2, 1), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((2, 2), (3, 1), (4, 2)))]
)
def test_ranks_share_a_run(tmp_path: Path, undisturbed: dict[str, Any], ranks: int, size: int) -> None:
    run_ranks(_rank, ranks, tmp_path / "ranks", tmp_path / "run", ranks, size)
    found = files(tmp_path / "run")
    assert found["names"] == undisturbed["names"]
    for ours, theirs in zip(found["rows"], undisturbed["rows"], strict=True):
        assert {k: v for k, v in ours.items() if k not in ("rmse", "max_difference", "psnr")} == {
            k: v for k, v in theirs.items() if k not in ("rmse", "max_difference", "psnr")
        }
    off = torch.tensor(found["samples"]) - torch.tensor(undisturbed["samples"])
    assert float(off.square().mean().sqrt()) < 1e-6
    assert found["summary"]["evaluations"] == undisturbed["summary"]["evaluations"]


def test_ctrl_c_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("paraflowkit.fabric.predict.predict", stop)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**RUN, "output": {"folder": str(tmp_path / "run")}}))
    result = CliRunner().invoke(app, ["predict", "-c", str(path)])
    assert result.exit_code == 130
    assert "the same command with --resume makes the rest" in result.stderr
