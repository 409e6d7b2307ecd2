"""Several processes from the command line: the same images, and a sentence when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paraflowkit.cli import app

RUN: dict[str, Any] = {
    "model": "digits-flow",
    "grid": {"steps": 6},
    "stepper": "euler",
    "requests": [{"classes": [0, 1, 2], "seeds": [3], "guidance": 2.0}],
    "output": {"images": False, "plot": False},
    "fabric": {"devices": 2},
    "run": {"batch": 2},
}

#: A model whose second process comes to grief when it is first called.
FAILING = """
import os, pathlib, signal, time
from paraflowkit.models.digits.adapter import DigitsFlow

class Failing(DigitsFlow):
    def forward(self, x, t, cond):
        if os.environ["RANK"] == "1":
            (pathlib.Path(__file__).parent / "when").write_text(str(time.time()))
            {fault}
        return super().forward(x, t, cond)
"""


def _command(tmp_path: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**RUN, **changes, "output": {**RUN["output"], "folder": str(tmp_path / "run")}}))
    return subprocess.run(
        [sys.executable, "-m", "paraflowkit", "predict", "-c", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_two_devices_share_a_run(tmp_path: Path) -> None:
    made = _command(tmp_path, mesh={"time": 2})
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("Written to") == 1
    assert "GLOBAL_RANK" not in made.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ('raise TypeError("no such thing")', "TypeError: no such thing"),
        ("os.kill(os.getpid(), 9)", "it was ended by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", ""),
    ],
)
def test_a_rank_that_fails_ends_all_with_its_name(tmp_path: Path, fault: str, cause: str) -> None:
    (tmp_path / "failing.py").write_text(FAILING.format(fault=fault))
    made = _command(tmp_path, model="failing:Failing")
    assert made.returncode == 2
    assert time.time() - float((tmp_path / "when").read_text()) < 15
    how = f"failed: {cause}" if cause else "has given no sign of life for 8 s"
    assert made.stderr.splitlines()[-1].startswith(f"Rank 1 of 2 on {os.uname().nodename} {how}")


@pytest.mark.slow
def test_samples_that_fail_are_no_fall_of_a_process(tmp_path: Path) -> None:
    made = _command(tmp_path, run={"batch": 2, "max_sweeps": 1})
    assert made.returncode == 1
    assert "failed" not in made.stderr
    assert "3 of 3 samples" in made.stdout


@pytest.mark.slow
def test_ctrl_c_ends_all_with_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    (tmp_path / "slow_model.py").write_text(FAILING.format(fault="time.sleep(60)"))
    run = {**RUN, "model": "slow_model:Failing", "output": {**RUN["output"], "folder": str(tmp_path / "run")}}
    path.write_text(json.dumps(run))
    command = subprocess.Popen(
        [sys.executable, "-m", "paraflowkit", "predict", "-c", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "when").exists():
        assert command.poll() is None
        time.sleep(0.2)
    os.killpg(command.pid, signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 130
    assert said.strip().splitlines()[-1].startswith("Stopped. What was finished is kept")
    assert "Traceback" not in said


def test_a_mesh_that_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**RUN, "mesh": {"time": 3}}))
    result = CliRunner().invoke(app, ["predict", "-c", str(path)])
    assert result.exit_code == 2
    assert result.stderr == (
        "mesh.time=3 does not fit 2 processes: choose sizes whose product is 2, or leave one out.\n"
    )
