"""What network calls cost: the curve of seconds against rows, and the warning by the first sweeps of a run."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paraflowkit.core.cost import CostCurve
from paraflowkit.fabric.predict import predict
from tests.test_tune import config, idle, proportional


def test_a_curve_is_straight_between_what_was_measured_and_in_proportion_beyond() -> None:
    curve = CostCurve((2, 4, 8), (1.0, 1.5, 3.5))
    assert [curve(rows) for rows in (0, 1, 2, 3, 4, 6, 8, 16)] == [0.0, 1.0, 1.0, 1.25, 1.5, 2.5, 3.5, 7.0]
    two = curve.shared(2)
    assert [two(rows) for rows in (2, 4, 8, 16)] == [1.0, 1.0, 1.5, 3.5]


def test_what_was_not_timed_for_want_of_time_is_told() -> None:
    class Calls:
        x0 = torch.zeros(2, 3)

        def agree(self, decision: Tensor) -> Tensor:
            return decision

        def network_rows(self, sample: Tensor) -> int:
            return 2 * len(sample)

        def output(self, x: Tensor, node: Tensor, sample: Tensor) -> Tensor:
            return x

    problem: Any = Calls()
    whole = CostCurve.measure(problem, [1, 2, 4, 8])
    assert (whole.rows, whole.cut) == ((2, 4, 8, 16), "")
    cut = CostCurve.measure(problem, [1, 2, 4, 8], budget=0.0)
    assert cut.rows == (2, 16)
    assert cut.cut == (
        "The 0 s for timing calls did not suffice: calls of 4, 8 rows were left out and each number of rows was timed "
        "1 of 5 times."
    )


def test_predict_times_a_step_in_calls_of_max_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = proportional()
    requests = [{"classes": [0, 1], "guidance": 2.0}]
    run = config(tmp_path, requests=requests, run={"max_rows": 3}, window={"size": 8})
    with caplog.at_level(logging.WARNING, "paraflowkit"):
        predict(run, model=model)
    assert max(model.rows) == 2  # a sample's pair
    said = next(record.getMessage() for record in caplog.records if "slower" in record.getMessage())
    step = re.search(r"A call for one step takes (\S+) s", said)
    assert step is not None
    assert float(step[1]) >= 0.04  # four rows in two calls


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
