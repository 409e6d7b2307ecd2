"""What calls cost, which settings are the fastest by it, and the warning when none is."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from paraflowkit import registry
from paraflowkit.cli import app
from paraflowkit.config import RunConfig, load, loads
from paraflowkit.core.cost import CostCurve
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.mesh import MeshStrategy
from paraflowkit.fabric.predict import predict
from paraflowkit.fabric.sizes import Sizes
from paraflowkit.fabric.tune import tune
from paraflowkit.models.gaussian_mixture import GaussianMixture
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


def test_a_curve_is_straight_between_what_was_measured_and_in_proportion_beyond() -> None:
    curve = CostCurve((2, 4, 8), (1.0, 1.5, 3.5))
    assert [curve(rows) for rows in (0, 1, 2, 3, 4, 6, 8, 16)] == [0.0, 1.0, 1.0, 1.25, 1.5, 2.5, 3.5, 7.0]
    two = curve.shared(2)
    assert [two(rows) for rows in (2, 4, 8, 16)] == [1.0, 1.0, 1.5, 3.5]


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


def test_solvers_that_cannot_be_tried_are_left_out(tmp_path: Path) -> None:
    run = config(tmp_path, stepper={"name": "clipped-ddim", "clip": 1.0}, model="digits-vp", grid={"steps": 2})
    found = tune(run, error=1e-2, solvers=["parataa"])
    assert not found.trials
    assert "affine" in found.left_out["parataa"]
    assert "sample sequentially" in found.verdict()
    assert found.config.solver.name == "sequential"


def _tuned(rank: int, folder: Path, run: str) -> None:
    fabric = fabric_of(rank, 2, MeshStrategy(time=2))
    found = tune(loads(run), fabric, error=1e-2, solvers=["paraflow"], model=Timed(0.002 * rank, 0.001))
    (folder / f"{rank}.json").write_text(json.dumps([t.tolerance for t in found.trials] + list(found.curve.seconds)))
    made = predict(loads(run), fabric, save=False, model=idle())
    assert made.summary.gather_seconds > 0
    assert made.summary.gather_seconds <= made.summary.model_seconds


def test_processes_that_measure_different_times_choose_alike(tmp_path: Path) -> None:
    run_ranks(_tuned, 2, tmp_path, json.dumps(RUN))
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()


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
        (["-e", "0"], "must be more than 0"),
        (["-e", "inf"], "finite"),
        (["-s", "sequential"], "compared with"),
        (["-s", "paraflo"], "Did you mean 'paraflow'?"),
    ):
        refused = CliRunner().invoke(app, ["tune", "-c", str(path), *options])
        assert refused.exit_code == 2
        assert said in refused.output
        assert refused.output.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "compare", "warned"), [(proportional, False, True), (proportional, True, False), (idle, False, False)]
)
def test_predict_says_when_its_first_sweeps_are_slower(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: Any, compare: bool, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING, "paraflowkit"):
        predict(config(tmp_path, run={"compare": compare}, window={"size": 8}), model=model())
    said = [record.getMessage() for record in caplog.records if "slower" in record.getMessage()]
    assert len(said) == warned
    if warned:
        numbers = re.search(r"takes (\S+) s, and sequential sampling would take about (\S+) s", said[0])
        assert numbers is not None
        assert float(numbers[1]) > float(numbers[2]) >= 0.31  # 16 calls of two rows, rounded


@given(st.lists(st.integers(1, 500), max_size=60))
def test_calls_are_filled_up_to_few_sizes(asked: list[int]) -> None:
    sizes = Sizes()
    made: set[int] = set()
    for rows in asked:
        most = sizes.most(rows, None)
        size, new = sizes.choose(rows if most is None else min(rows, most))
        assert new == (size not in made)
        made.add(size)
        assert size >= min(rows, most or rows)
        if len(made) < 8:
            assert size <= 2 * rows
    assert len(made) <= 8


def test_a_compiled_network_is_called_with_few_numbers_of_rows(tmp_path: Path) -> None:
    model, plain = Timed(0.0, 0.0), Timed(0.0, 0.0)
    run = {"window": {"size": 6}, "grid": {"steps": 16}}
    made = predict(config(tmp_path, fabric={"compile": True}, **run), save=False, model=model)
    without = predict(config(tmp_path, **run), save=False, model=plain)
    assert model.compiled == 1
    assert not plain.compiled
    assert len(set(model.rows)) < len(set(plain.rows))
    assert made.summary.iterations == without.summary.iterations
    torch.testing.assert_close(made.samples, without.samples, rtol=0, atol=1e-6)
    assert made.summary.compile_seconds > 0
    assert without.summary.compile_seconds == 0


@pytest.mark.slow  # the compiler
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, when it is imported
def test_a_really_compiled_network_gives_the_same_samples(tmp_path: Path) -> None:
    from torch._inductor import config as compiler

    sections = {"requests": [{"classes": [1], "guidance": 3.0}], "grid": {"steps": 4}, "window": {"size": 4}}
    sections |= {"solver": {"name": "paraflow", "tolerance": 0}}
    without = predict(config(tmp_path, **sections), save=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "compile_threads", 1)  # no processes that outlive the test
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
        made = predict(config(tmp_path, fabric={"compile": True}, **sections), save=False)
    assert made.summary.compile_seconds > made.summary.steady_seconds
    torch.testing.assert_close(made.samples, without.samples, rtol=0, atol=1e-5)


def test_memory_that_does_not_suffice_for_a_padded_call_makes_smaller_ones(tmp_path: Path) -> None:
    class Small(Timed):
        failed = 0

        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
            if len(x) > 5:
                self.failed += 1
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x, t, cond)

    model = Small(0.0, 0.0)
    made = predict(config(tmp_path, fabric={"compile": True}, window={"size": 6}), save=False, model=model)
    assert made.rows[0]["result"] == "converged"
    assert model.failed == 2  # 12 rows, then 6; 3 from then on
    assert max(model.rows) == 3


def test_a_wanted_error_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ParaflowkitError, match="tolerance 0 is exact"):
        tune(config(tmp_path), error=0.0)
