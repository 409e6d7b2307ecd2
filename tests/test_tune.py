"""What calls cost, which settings are the fastest by it, and the warning when none is."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from typer.testing import CliRunner

from paraflowkit import registry
from paraflowkit.cli import app
from paraflowkit.config import RunConfig, load, loads
from paraflowkit.core.cost import CostCurve
from paraflowkit.core.solver import Sweep
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric import alike
from paraflowkit.fabric.mesh import MeshStrategy
from paraflowkit.fabric.predict import predict
from paraflowkit.fabric.tune import tune
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.solvers.paraflow import ParaFlow
from tests.ranks import fabric_of, run_ranks

RUN: dict[str, Any] = {
    "model": "gaussian-mixture",
    "solver": "paraflow",
    "grid": {"steps": 16},
    "requests": [{"classes": [0, 1]}],
    "output": {"images": False, "plot": False},
}


def config(folder: Path, **sections: Any) -> RunConfig:
    output = {**RUN["output"], "folder": str(folder / "run")}
    return loads(json.dumps({**RUN, "output": output, **sections}), "run.yaml")


class Timed(GaussianMixture):
    """An exact network whose calls take as long as the test wants, and that notes their rows."""

    def __init__(self, call: float, row: float) -> None:
        super().__init__(registry.config_class("model", "gaussian-mixture")())
        self.call, self.row = call, row
        self.rows: list[int] = []
        self.compiled = 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        self.rows.append(len(x))
        time.sleep(self.call + self.row * len(x))
        return super().forward(x, t, cond)

    def compile_network(self) -> None:
        self.compiled += 1


def proportional(row: float = 0.01) -> Timed:
    """A device that is busy with a single row, as a CPU is with a large network."""
    return Timed(0.0, row)


def idle() -> Timed:
    """A device with room for all rows."""
    return Timed(0.01, 0.0)


@pytest.mark.slow
def test_a_device_that_is_busy_with_one_row_is_told_to_sample_sequentially(tmp_path: Path) -> None:
    found = tune(config(tmp_path), error=1e-2, solvers=["paraflow"], model=proportional(0.003))
    assert found.curve(16) / found.curve(2) > 4
    assert found.config.solver.name == "sequential"
    assert found.trials
    assert all(trial.error <= 1e-2 for trial in found.trials)
    words = found.verdict()
    assert words.startswith("Parallel sampling is slower here")
    times = re.search(r"takes ([\d.]+) times as long as one of 2", words)
    assert times is not None
    assert float(times[1]) == pytest.approx(found.curve(max(found.trials[0].rows)) / found.curve(2), abs=0.06)
    speedup, _ = found.speedup()
    assert 0 < speedup < 1
    assert found.speedup(8)[0] > speedup  # rows on devices of their own are no longer slower


def test_a_device_with_room_gets_the_fastest_settings_and_their_error_is_as_told(tmp_path: Path) -> None:
    found = tune(config(tmp_path), error=1e-2, solvers=["paraflow", "parataa"], model=idle())
    assert found.config.solver.name in ("paraflow", "parataa")
    speedup, best = found.speedup()
    assert speedup > 1.2
    assert best is not None
    assert best == found.trials[0]
    assert found.sequential.iterations == 16
    assert sum(found.sequential.rows) == 2 * 16
    again = predict(
        loads(
            json.dumps(
                {
                    **RUN,
                    "solver": {"name": best.solver.name, **best.solver.settings.model_dump(exclude_unset=True)},
                    "window": {"name": "sliding", "size": best.size},
                    "run": {"compare": True},
                }
            )
        ),
        save=False,
    )
    assert again.summary.rmse == pytest.approx(best.error, rel=1e-3)
    assert again.summary.iterations == best.iterations


def test_a_small_error_is_met_by_tolerance_0(tmp_path: Path) -> None:
    run = config(tmp_path, run={"max_sweeps": 3})
    found = tune(run, error=1e-30, solvers=["paraflow"], model=Timed(0.0, 0.0))
    assert {trial.tolerance for trial in found.trials} == {0.0}
    assert found.config.run.max_sweeps is None  # which the trials did not have


def test_a_sequential_sampler_that_gives_nan_is_told_before_anything_is_tried(tmp_path: Path) -> None:
    class Lost(Timed):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
            return super().forward(x, t, cond) * torch.nan

    told: list[str] = []
    with pytest.raises(ParaflowkitError, match="not finite for 2 of 2 samples, and there is nothing to compare"):
        tune(config(tmp_path), model=Lost(0.0, 0.0), on_trial=told.append)
    assert told == ["sequential sampling"]


class Broken(ParaFlow):
    """Fails where windows are larger than four steps, in the ranks that are told so."""

    ranks: ClassVar[set[int]] = {0, 1}

    def sweep(self, state: Any, sweep: Sweep) -> Any:
        if sweep.n.shape[1] > 4 and (not dist.is_initialized() or dist.get_rank() in self.ranks):
            raise RuntimeError("no such thing\nas this")
        return super().sweep(state, sweep)


BROKEN = "tests.test_tune:Broken"
WHY = r"failed with a window of 8 and tolerance 0\.\d+: RuntimeError: no such thing"


def test_a_solver_that_fails_is_left_out_with_the_reason(tmp_path: Path) -> None:
    found = tune(config(tmp_path), error=1e-2, solvers=[BROKEN, "paraflow"], model=idle())
    assert {trial.size for trial in found.trials if trial.solver.name == BROKEN} == {4}
    assert {trial.size for trial in found.trials if trial.solver.name == "paraflow"} == {4, 8, 16}
    assert set(found.left_out) == {BROKEN}
    assert re.fullmatch(WHY, found.left_out[BROKEN])


def test_solvers_that_could_not_be_faster_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (1, 20, 80, 160, 320)
    steep = CostCurve(rows, tuple(1e-3 * each**2 for each in rows))  # of which no number of devices makes a bargain
    monkeypatch.setattr(CostCurve, "measure", lambda problem, counts: steep)
    run = config(tmp_path, requests=[{"classes": [0, 1, 2, 3], "count": 5}])
    found = tune(run, error=1e-2, solvers=["paraflow", "paradigms"], model=Timed(0.0, 0.0))
    assert {trial.solver.name for trial in found.trials} == {"paraflow"}
    assert found.left_out["paradigms"].startswith("could not be faster than those that were tried before it")


@pytest.mark.slow
def test_tune_keeps_to_the_rows_of_a_call(tmp_path: Path) -> None:
    model = idle()
    run = config(tmp_path, requests=[{"classes": [0, 1], "guidance": 2.0}], run={"max_rows": 7})
    found = tune(run, error=1e-2, solvers=["paraflow"], model=model)
    assert found.curve.rows == (2, 4, 6)  # pairs of a guided and an unguided row
    assert max(model.rows) == 6
    assert found.trials
    assert found.config.run.max_rows == 7


def test_solvers_that_cannot_be_tried_are_left_out(tmp_path: Path) -> None:
    run = config(tmp_path, stepper={"name": "clipped-ddim", "clip": 1.0}, model="digits-vp", grid={"steps": 2})
    found = tune(run, error=1e-2, solvers=["parataa"])
    assert not found.trials
    assert "affine" in found.left_out["parataa"]
    assert "sample sequentially" in found.verdict()
    assert found.config.solver.name == "sequential"


def _tuned(rank: int, folder: Path, run: str) -> None:
    fabric = fabric_of(rank, MeshStrategy(time=2))
    found = tune(loads(run), fabric, error=1e-2, solvers=["paraflow", BROKEN], model=Timed(0.002 * rank, 0.001))
    said = [*(t.tolerance for t in found.trials), *found.curve.seconds, found.left_out]
    (folder / f"{rank}.json").write_text(json.dumps(said))
    assert BROKEN in found.left_out
    made = predict(loads(run), fabric, save=False, model=idle())
    assert made.summary.gather_seconds > 0
    assert made.summary.gather_seconds <= made.summary.model_seconds


@pytest.mark.slow
def test_processes_that_measure_different_times_choose_alike(tmp_path: Path) -> None:
    run_ranks(_tuned, 2, tmp_path, json.dumps(RUN))
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()


def _apart(rank: int, folder: Path, run: str) -> None:
    os.environ["TORCHELASTIC_ERROR_FILE"] = str(folder / f"said-{rank}")
    registry.get("solver", BROKEN).ranks.remove(0)
    alike.PATIENCE = 1.0
    tune(loads(run), fabric_of(rank, MeshStrategy(time=2)), solvers=[BROKEN], model=idle())


@pytest.mark.slow
def test_a_solver_that_fails_in_one_process_alone_ends_all(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError, match=f"Solver {BROKEN!r}: {WHY} \\(in this process, and not in all\\)"):
        run_ranks(_apart, 2, tmp_path, json.dumps(RUN), seconds=20.0)
    assert time.monotonic() - began < 15
    said = json.loads((tmp_path / "said-0").read_text())["message"]
    assert said.startswith(f"Rank 1 of 2 on {platform.node()} failed: Solver {BROKEN!r}: failed with a window of 8")


@pytest.mark.parametrize("columns", ["80", "120"])
def test_tables_fit_the_terminal(tmp_path: Path, columns: str) -> None:
    path, out = tmp_path / "run.yaml", tmp_path / "tuned.yaml"
    path.write_text(json.dumps({**RUN, "grid": {"steps": 30}}))
    solvers = [word for name in ("parasolver-turbo", BROKEN) for word in ("-s", name)]
    command = ["tune", "-c", str(path), "-e", "0.05", *solvers, "-o", str(out)]
    done = CliRunner().invoke(app, command, env={"COLUMNS": columns})
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()[:-1]  # the last one is a path
    assert all(len(line) <= int(columns) for line in lines)
    assert "…" not in done.output
    assert re.search(r"\n +solver +window tolerance +error iterations +NFE by rows seconds *\n", done.output)
    rows = [line.split() for line in lines]
    assert ["parasolver-turbo", "24", "(8)"] in [row[:3] for row in rows]
    assert ["sequential", "1", "0"] in [row[:3] for row in rows]
    said = re.sub(r"[\s│]+", " ", done.output)
    assert re.search(WHY, said)
    made = load(out)
    if made.solver.name == "parasolver-turbo":  # what is told is what is written
        sizes = made.window.settings.size, made.solver.settings.degree
        assert f"parasolver-turbo with a window of {sizes[0]} ({sizes[1]} evaluated) and tolerance" in said


def test_tune_on_the_command_line_writes_a_run_file(tmp_path: Path) -> None:
    path, out = tmp_path / "run.yaml", tmp_path / "tuned.yaml"
    path.write_text(json.dumps(RUN))
    done = CliRunner().invoke(app, ["tune", "-c", str(path), "-e", "0.05", "-s", "paraflow", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "wanted error 0.05" in done.output
    assert load(out).solver.name in ("paraflow", "sequential")
    assert load(out).grid.steps == 16
    for options, said in (
        (["-o", str(out)], "exists already"),
        (["-o", str(tmp_path / "nowhere" / "tuned.yaml")], "there is no folder"),
        (["-o", str(tmp_path / (300 * "x"))], "cannot be written: File name too long: choose another --output"),
        (["-e", "0"], "must be more than 0"),
        (["-e", "inf"], "finite"),
        (["-s", "sequential"], "compared with"),
        (["-s", "paraflo"], "Did you mean 'paraflow'?"),
    ):
        refused = CliRunner().invoke(app, ["tune", "-c", str(path), *options])
        assert refused.exit_code == 2
        assert said in refused.output
        assert refused.output.count("\n") == 1


def test_a_wanted_error_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ParaflowkitError, match=r"more than 0 and finite, got 0: 0\.01, for instance"):
        tune(config(tmp_path), error=0.0)
