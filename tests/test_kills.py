"""Runs of two processes that are killed at random moments: what was finished is kept, and the rest is made."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paraflowkit.fabric.part import Part
from tests.test_resume import files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc"),
]

RUN: dict[str, Any] = {
    "model": "digits-flow",
    "grid": {"steps": 8},
    "stepper": "euler",
    "solver": {"name": "paraflow", "tolerance": 1e-2},
    "requests": [{"classes": [0, 1, 2, 3], "seeds": [3], "count": 2, "guidance": 2.0}],
    "output": {"upscale": 1, "plot": False},
    "run": {"batch": 1, "compare": True},
    "fabric": {"devices": 2},
    "mesh": {"time": 2},
}
KILLS = 20


def _run_file(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**RUN, **changes, "output": {**RUN["output"], "folder": str(folder / name)}}))
    return path


def _rank(*arguments: str) -> None:
    """A process of the run; the first two arguments tell Python what to start."""
    from paraflowkit.cli import app

    # torch sees to it that a process that it forked ends with its parent; those of the command line have no such help.
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, 0)
    app([*arguments[2:]])


def _agent(path: Path, log: Path) -> None:
    """``paraflowkit predict --resume``, only that its processes are forked, so that nothing is imported again."""
    from torch.distributed.launcher import api

    from paraflowkit.cli import app

    os.setsid()
    torch.set_num_threads(1)
    tempfile.tempdir = str(log.parent)  # what it leaves when it is killed
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    plain: Callable[..., Any] = api.elastic_launch
    api.elastic_launch = lambda config, entrypoint: plain(replace(config, start_method="fork"), _rank)  # type: ignore
    app(["predict", "--config", str(path), "--resume"])


@pytest.fixture
def start() -> Iterator[Callable[[Path], Any]]:
    """Start such a run in a session of its own, which is ended with the test."""
    agents: list[Any] = []

    def begin(path: Path) -> Any:
        agent = multiprocessing.get_context("fork").Process(target=_agent, args=(path, path.with_suffix(".log")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
            agent.start()
        agents.append(agent)
        while agent.is_alive() and os.getsid(agent.pid) != agent.pid:
            time.sleep(0.001)
        return agent

    yield begin
    for agent in agents:
        if agent.is_alive():
            os.killpg(agent.pid, signal.SIGKILL)
        agent.join()


def _living(is_one: Callable[[int, int], bool]) -> list[int]:
    """Numbers of the processes, but for those that only wait to be counted, whose parent and session are right."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX" and is_one(int(parent), int(session)):
            found.append(int(path.parent.name))
    return found


def _wait_until_gone(look: Callable[[], list[int]]) -> None:
    began = time.monotonic()
    while left := look():
        if time.monotonic() - began > 15:
            for number in left:
                os.kill(number, signal.SIGKILL)
            pytest.fail(f"{len(left)} processes were still there after 15 s")
        time.sleep(0.05)


def _finished(folder: Path) -> int:
    return len(list((folder / "parts").glob("*.safetensors")))


def _wait_for(count: int, folder: Path, agent: Any) -> None:
    """Until so many batches are finished, or the run has ended."""
    while _finished(folder) < count and agent.is_alive():
        time.sleep(0.005)


def _check_nothing_is_half_there(folder: Path) -> int:
    """Number of finished batches."""
    parts = sorted((folder / "parts").glob("*.safetensors"))
    for path in parts:
        Part.from_bytes(path.read_bytes())
    if (folder / "results.jsonl").exists():
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        assert len({row["index"] for row in rows}) == len(rows)
    return len(parts)


def test_killed_at_twenty_random_moments(tmp_path: Path, start: Callable[[Path], Any]) -> None:
    """Mostly all processes at once, each fifth time only the one that started them."""
    path = _run_file(tmp_path, "undisturbed")
    began = time.monotonic()
    alone = start(path)
    alone.join(300)
    whole = time.monotonic() - began
    assert alone.exitcode == 0, path.with_suffix(".log").read_text()
    undisturbed = files(tmp_path / "undisturbed")
    assert len(undisturbed["rows"]) == 8

    draw, kills, number, stages = random.Random(7), 0, 0, set[int]()
    while True:
        folder, path = tmp_path / f"run-{number}", _run_file(tmp_path, f"run-{number}")
        had = _finished(folder)
        agent = start(path)
        if kills < KILLS:  # up to two batches later, at a moment that depends on how fast the machine is
            _wait_for(had + kills % 3, folder, agent)
            agent.join(draw.uniform(0, 0.3 * whole) if kills % 3 == 0 else draw.uniform(0, 0.05 * whole))
        else:
            agent.join(300)
        if agent.exitcode is None:
            assert kills < KILLS
            kills += 1
            if kills % 5:
                os.killpg(agent.pid, signal.SIGKILL)
            else:
                os.kill(agent.pid, signal.SIGKILL)
            agent.join()
            _wait_until_gone(lambda session=agent.pid: _living(lambda _, other: other == session))
            stages.add(_check_nothing_is_half_there(folder))
            continue
        assert agent.exitcode == 0, path.with_suffix(".log").read_text()
        assert files(folder) == undisturbed
        if kills == KILLS:
            break
        number += 1
    assert len(stages) > 3  # the kills came at many moments


def test_processes_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    changes = {"solver": {"name": "sequential"}, "grid": {"steps": 200}}
    path, log = _run_file(tmp_path, "run", **changes), tmp_path / "log"
    with log.open("w") as file:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "paraflowkit", "predict", "-c", str(path)],
            env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        )
    parts = tmp_path / "run" / "parts"
    while not list(parts.glob("*.safetensors")):
        assert launcher.poll() is None, log.read_text()
        time.sleep(0.05)
    ranks = _living(lambda parent, _: parent == launcher.pid)
    assert len(ranks) == 2
    launcher.kill()
    launcher.wait()
    _wait_until_gone(lambda: _living(lambda parent, session: session in ranks))
    assert 0 < _check_nothing_is_half_there(tmp_path / "run") < 8
