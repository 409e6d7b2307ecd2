"""Networks that torch compiles for few numbers of rows: the same samples, in one process and in several."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paraflowkit.config import loads
from paraflowkit.fabric.mesh import MeshStrategy
from paraflowkit.fabric.predict import predict
from paraflowkit.fabric.sizes import Sizes
from paraflowkit.fabric.tune import tune
from tests.ranks import fabric_of, run_ranks
from tests.test_tune import RUN, Timed, config


class Compiling(Timed):
    """Takes its time for a number of rows that it meets for the first time, as a compiled network does."""

    def __init__(self, seconds: float) -> None:
        super().__init__(0.0, 0.0)
        self.seconds = seconds

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        if len(x) not in self.rows:
            time.sleep(self.seconds)
        return super().forward(x, t, cond)


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


def _shared(rank: int, folder: Path, run: str, wanted: Tensor) -> None:
    model, plain = Timed(0.0, 0.0), Timed(0.0, 0.0)
    fabric = fabric_of(rank, MeshStrategy())
    made = predict(loads(run), fabric, save=False, model=model)
    assert model.compiled == 1
    torch.testing.assert_close(made.samples, wanted, rtol=0, atol=1e-6)
    without = predict(loads(json.dumps({**json.loads(run), "fabric": {}})), fabric, save=False, model=plain)
    assert [row["iterations"] for row in made.rows] == [row["iterations"] for row in without.rows]
    (folder / f"rows-{rank}").write_text(json.dumps([model.rows, plain.rows]))


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_that_share_calls_compile_for_the_same_numbers_at_the_same_calls(tmp_path: Path, ranks: int) -> None:
    run = {**RUN, "requests": [{"classes": [1]}], "window": {"size": 7}, "fabric": {"compile": True}}
    alone = predict(loads(json.dumps({**run, "fabric": {}})), save=False)
    run_ranks(_shared, ranks, tmp_path, json.dumps(run), alone.samples)
    compiled, plain = zip(*(json.loads((tmp_path / f"rows-{rank}").read_text()) for rank in range(ranks)), strict=True)
    assert plain[0] != plain[-1]  # shares are uneven, and at the end there are fewer rows than processes
    assert all(rows == compiled[0] for rows in compiled)
    assert len(set(compiled[0])) < len(set(plain[0]))


def _really(rank: int, folder: Path, sections: dict[str, Any], wanted: Tensor) -> None:
    from torch._inductor import config as compiler

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
    torch._dynamo.reset()  # what an earlier test compiled came along
    compiler.compile_threads = 1
    made = predict(config(folder, **sections), fabric_of(rank, MeshStrategy()), save=False)
    assert made.summary.compile_seconds > made.summary.steady_seconds
    torch.testing.assert_close(made.samples, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow  # the compiler
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, when it is imported
def test_really_compiled_networks_of_two_processes(tmp_path: Path) -> None:
    sections = {"requests": [{"classes": [1]}], "grid": {"steps": 4}, "window": {"size": 3}}
    sections |= {"solver": {"name": "paraflow", "tolerance": 0}}
    alone = predict(config(tmp_path, **sections), save=False)
    sections |= {"fabric": {"compile": True}}
    run_ranks(_really, 2, tmp_path / "ranks", sections, alone.samples, seconds=300.0)


def test_seconds_of_compilation_are_told_in_all_and_are_in_no_other_figure(tmp_path: Path) -> None:
    model = Compiling(0.5)
    run = config(tmp_path, fabric={"compile": True}, run={"compare": True, "batch": 1}, window={"size": 6})
    summary = predict(run, save=False, model=model).summary
    sizes = set(model.rows)
    assert 1 in sizes  # of the sequential sampler, which the warm-up has compiled
    assert summary.compile_seconds >= 0.5 * len(sizes)
    assert summary.sequential is not None
    assert summary.sequential["compile_seconds"] >= 0.5
    assert summary.sequential["seconds"] < 0.5
    assert summary.steady_seconds < 0.5 < summary.seconds


def test_tune_measures_the_numbers_of_rows_that_solves_of_a_compiled_network_have(tmp_path: Path) -> None:
    model = Compiling(0.0)
    run = config(tmp_path, fabric={"compile": True}, requests=[{"classes": [0, 1, 2], "count": 2}])
    found = tune(run, error=1e-2, solvers=["paraflow", "parasolver"], model=model)
    assert found.curve.rows == (1, 6, 12, 24, 48, 96)
    assert len(set(model.rows)) <= 8
    assert {trial.rows[0] for trial in found.trials if trial.solver.name == "paraflow"} <= {24, 48, 96}
    for trial in found.trials:
        assert set(trial.rows) <= set(model.rows)  # filled up, and so their cost is that of what was called
