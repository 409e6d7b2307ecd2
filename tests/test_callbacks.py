"""Callbacks of the predict loop, and Fabric's loggers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from torch import Tensor

from paraflowkit.config import RunConfig, loads
from paraflowkit.fabric.callbacks import Callback, Run
from paraflowkit.fabric.predict import Prediction, predict
from paraflowkit.solve import SweepInfo

RUN: dict[str, Any] = {
    "model": "gaussian-mixture",
    "grid": {"steps": 6},
    "requests": [{"classes": [0, 1, 2]}],
    "output": {"images": False, "plot": False},
    "run": {"batch": 2, "compare": True},
}


def config(folder: Path, **output: Any) -> RunConfig:
    return loads(json.dumps({**RUN, "output": {**RUN["output"], "folder": str(folder), **output}}), "run.yaml")


class Notes(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[Any, ...]] = []

    def on_predict_start(self, run: Run) -> None:
        self.notes.append(("start", len(run.requests), run.batches))

    def on_batch_start(self, run: Run, batch: int) -> None:
        self.notes.append(("batch", batch))

    def on_sweep_end(self, run: Run, batch: int, info: SweepInfo) -> None:
        if info.sweep == 1:
            self.notes.append(("sweep", batch))

    def on_request_end(self, run: Run, row: dict[str, Any], sample: Tensor) -> None:
        assert run.folder is not None
        assert list((run.folder / "parts").glob("*.safetensors"))  # it is written before it is told
        self.notes.append(("request", row["index"], tuple(sample.shape)))

    def on_batch_end(self, run: Run, batch: int) -> None:
        self.notes.append(("batch end", batch))

    def on_predict_end(self, run: Run, prediction: Prediction) -> None:
        self.notes.append(("end", len(prediction.rows)))

    def on_exception(self, run: Run, error: BaseException) -> None:
        self.notes.append(("exception", type(error).__name__))


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


def test_the_order_of_calls(tmp_path: Path, fabric: Fabric) -> None:
    notes = Notes()
    predict(config(tmp_path / "run"), fabric, callbacks=[notes])
    assert notes.notes == [
        ("start", 3, 2),
        *(("batch", 0), ("sweep", 0), ("request", 0, (2,)), ("request", 1, (2,)), ("batch end", 0)),
        *(("batch", 1), ("sweep", 1), ("request", 2, (2,)), ("batch end", 1)),
        ("end", 3),
    ]


def test_an_exception_is_told_and_goes_on(tmp_path: Path, fabric: Fabric) -> None:
    class Stops(Callback):
        def on_batch_start(self, run: Run, batch: int) -> None:
            if batch == 1:
                raise KeyboardInterrupt

    notes = Notes()
    with pytest.raises(KeyboardInterrupt):
        predict(config(tmp_path / "run"), fabric, callbacks=[Stops(), notes])
    assert notes.notes[-1] == ("exception", "KeyboardInterrupt")
    resumed = Notes()
    predict(config(tmp_path / "run"), fabric, callbacks=[resumed], resume=True)
    assert ("batch", 0) not in resumed.notes
    assert ("request", 2, (2,)) in resumed.notes


def _logged(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _check(path: Path, made: Prediction) -> None:
    lines = _logged(path)
    requests = {int(line["step"]): line for line in lines if line["request/iterations"]}
    assert sorted(requests) == [0, 1, 2]
    for row in made.rows:
        assert float(requests[row["index"]]["request/evaluations"]) == row["evaluations"]
        assert float(requests[row["index"]]["request/rmse"]) == pytest.approx(row["rmse"])
    sweeps = [line for line in lines if line["sweep/front"]]
    assert len(sweeps) == sum(stats.sweeps for stats in made.summary.stats)
    assert float(sweeps[-1]["sweep/front"]) == 6.0


def test_fabrics_loggers_are_fed(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, loggers=CSVLogger(tmp_path / "mine", name="x", version="1"))
    fabric.launch()
    made = predict(config(tmp_path / "run"), fabric, save=False)
    _check(tmp_path / "mine" / "x" / "1" / "metrics.csv", made)


def test_a_run_file_names_its_logger(tmp_path: Path, fabric: Fabric) -> None:
    made = predict(config(tmp_path / "run", logger="csv"), fabric)
    _check(tmp_path / "run" / "logs" / "metrics.csv", made)
