"""What goes wrong with one of several processes, or between two runs: nobody waits for ever, and nothing is lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import platform
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor
from typer.testing import CliRunner

from paraflowkit.config import RunConfig, loads
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric import folder as folder_module
from paraflowkit.fabric.callbacks import Callback, Run
from paraflowkit.fabric.folder import open_folder
from paraflowkit.fabric.launch import PARENT
from paraflowkit.fabric.lock import Lock
from paraflowkit.fabric.mesh import MeshStrategy
from paraflowkit.fabric.pieces import make_fabric
from paraflowkit.fabric.predict import Prediction, predict
from paraflowkit.fabric.watch import Place, Watch, end_with_parent
from paraflowkit.models.configs import GaussianMixtureConfig
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.requests import read_requests
from paraflowkit.solution import Result
from tests import test_resume
from tests.ranks import fabric_of, run_ranks
from tests.test_resume import config, files

POINTS: dict[str, Any] = {
    "model": "gaussian-mixture",
    "grid": {"steps": 8},
    "solver": {"name": "paraflow", "tolerance": 1e-3},
    "requests": [{"classes": [0, 1, 2]}],
    "output": {"images": False, "plot": False},
    "run": {"batch": 2},
}


def points(**sections: dict[str, Any]) -> RunConfig:
    return loads(json.dumps({**POINTS, **{k: {**POINTS.get(k, {}), **v} for k, v in sections.items()}}), "run.yaml")


#: Fixtures: a Fabric of one process, and what a run of it leaves that nobody disturbs.
fabric, undisturbed = test_resume.fabric, test_resume.undisturbed


class Spoilt(GaussianMixture):
    """The second process gets NaN from its first calls."""

    def __init__(self, calls: int) -> None:
        super().__init__(GaussianMixtureConfig())
        self.left = calls

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        out = super().forward(x, t, cond)
        self.left -= 1
        return out * torch.nan if dist.get_rank() == 1 and self.left >= 0 else out


def _spoilt(rank: int, folder: Path, nonfinite: str, calls: int, time: int) -> None:
    run = points(run={"nonfinite": nonfinite}, output={"folder": str(folder / "run")})
    made = predict(run, fabric_of(rank, MeshStrategy(time=time)), model=Spoilt(calls))
    written = [json.loads(line) for line in (folder / "run" / "results.jsonl").read_text().splitlines()]
    assert written == made.rows
    (folder / f"made-{rank}").write_text(json.dumps([made.rows, made.samples.tolist()]))


@pytest.mark.parametrize(
    ("nonfinite", "calls", "time", "results"),
    [
        # The first sample is left alone at the end, and its two rows are shared again.
        ("stop", 1000, 2, ["nonfinite"] * 3),
        ("stop", 1000, 1, ["converged", "converged", "nonfinite"]),
        # Alone and one step at a time, the last sample of a batch has a single row, which the first process takes.
        ("sequential", 1000, 2, ["fell_back", "nonfinite", "fell_back"]),
        ("sequential", 1, 2, ["converged", "fell_back", "converged"]),
    ],
)
def test_nan_on_one_rank_is_the_same_on_all(
    tmp_path: Path, fabric: Fabric, nonfinite: str, calls: int, time: int, results: list[str]
) -> None:
    run_ranks(_spoilt, 2, tmp_path, nonfinite, calls, time)
    assert (tmp_path / "made-0").read_bytes() == (tmp_path / "made-1").read_bytes()
    rows, samples = json.loads((tmp_path / "made-0").read_text())
    assert [row["result"] for row in rows] == results
    assert all(row["message"] == Result[row["result"].upper()].value for row in rows)
    assert "use float32" in Result.NONFINITE.value.lower()
    assert torch.tensor(samples).isfinite().all()
    exact = predict(points(solver={"name": "sequential", "tolerance": 0.0}), fabric, save=False)
    for sample, wanted, result in zip(torch.tensor(samples), exact.samples, results, strict=True):
        assert torch.allclose(sample, wanted, atol=1e-2 if result == "converged" else 1e-5) == (result != "nonfinite")


class Ends(Callback):
    """Ends its process, as if all had been killed, before the third batch or a later one."""

    def on_batch_start(self, run: Run, batch: int) -> None:
        if batch >= 2:
            os._exit(0)


class Seen(Callback):
    """Numbers of the batches that were begun."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def on_batch_start(self, run: Run, batch: int) -> None:
        self.batches.append(batch)


def _begin(rank: int, folder: Path, run: Path, time: int) -> None:
    predict(config(run), fabric_of(rank, MeshStrategy(time=time)), callbacks=[Ends()])
    raise AssertionError("it came to its end")


def _finish(rank: int, folder: Path, run: Path, time: int) -> None:
    seen = Seen()
    made: Prediction = predict(config(run), fabric_of(rank, MeshStrategy(time=time)), callbacks=[seen], resume=True)
    assert {2, 3}.issuperset(seen.batches)
    assert [row["index"] for row in made.rows] == list(range(7))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 1)), ((1, 1), (3, 3)), ((2, 1), (4, 2))])
def test_resume_on_other_ranks(
    tmp_path: Path,
    fabric: Fabric,
    undisturbed: dict[str, Any],
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    run = tmp_path / "run"
    run_ranks(_begin, before[0], tmp_path / "before", run, before[1])
    assert [path.stem for path in sorted((run / "parts").glob("*.safetensors"))] == ["000000", "000001"]
    run_ranks(_finish, after[0], tmp_path / "after", run, after[1])
    found = files(run)
    assert found["names"] == undisturbed["names"]
    errors = ("rmse", "max_difference", "psnr")
    for ours, theirs in zip(found["rows"], undisturbed["rows"], strict=True):
        assert {k: v for k, v in ours.items() if k not in errors} == {
            k: v for k, v in theirs.items() if k not in errors
        }
    off = torch.tensor(found["samples"]) - torch.tensor(undisturbed["samples"])
    assert float(off.square().mean().sqrt()) < 1e-6  # calls of fewer rows sum in another order
    assert found["summary"]["evaluations"] == undisturbed["summary"]["evaluations"]


def _full(rank: int, folder: Path, run: Path) -> None:
    os.environ["TORCHELASTIC_ERROR_FILE"] = str(folder / f"said-{rank}")
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:  # both images of the first batch are written, its part is not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if rank == 1:
        folder_module.os.fsync = full
    predict(config(run), fabric_of(rank, MeshStrategy(time=1)))


@pytest.mark.slow
def test_a_full_disk_of_one_group_ends_all_and_loses_nothing(
    tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]
) -> None:
    run, began = tmp_path / "run", time.monotonic()
    with pytest.raises(AssertionError, match="No space left on device"):
        run_ranks(_full, 2, tmp_path / "ranks", run, seconds=15.0)
    assert time.monotonic() - began < 12
    said = json.loads((tmp_path / "ranks" / "said-0").read_text())["message"]
    part = run / "parts" / "000001.safetensors"
    assert said == (
        f"Rank 1 of 2 on {platform.node()} failed: {part}: cannot be written: No space left on device. What was "
        "finished before is kept: mend that, and go on with --resume."
    )
    assert not part.exists()
    assert not list(run.rglob(".*"))
    predict(config(run), fabric, resume=True)
    assert files(run) == undisturbed


def _fork(function: Callable[..., None], *given: Any) -> Any:
    child = multiprocessing.get_context("fork").Process(target=function, args=given, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        child.start()
    return child


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def _node(rank: int, nodes: int, port: int, path: Path, said: Path) -> None:
    """What torchrun starts on one of several machines that have a device each."""
    torch.set_num_threads(1)
    os.environ.update(
        LOCAL_RANK="0", RANK=str(rank), WORLD_SIZE=str(nodes), GROUP_RANK=str(rank), LOCAL_WORLD_SIZE="1",
        TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    from paraflowkit.cli import app

    sys.stderr = said.open("w")
    try:
        app(["predict", "-c", str(path)])
    except SystemExit as ended:
        sys.stderr.flush()
        os._exit(int(ended.code or 0))


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        (
            [{"mesh": {"time": 2}}],
            [{"mesh": {"time": 2}, "solver": {"name": "paraflow", "tolerance": 0.5}}],
            "solver.tolerance was 0.001, is 0.5",
        ),
        pytest.param(
            [{}], [{"requests": [{"classes": [0]}]}], "3 samples were asked for, now 1", marks=pytest.mark.slow
        ),
        pytest.param(  # groups of processes that none of the others joins
            [{"mesh": {"time": 2}}] * 2, [{"mesh": {"time": 4}}] * 2, "mesh.time was 2, is 4", marks=pytest.mark.slow
        ),
    ],
)
def test_nodes_with_other_settings_end_with_what_differs(
    tmp_path: Path, here: list[dict[str, Any]], there: list[dict[str, Any]], said: str
) -> None:
    port, nodes = _free_port(), []
    for rank, changes in enumerate([*here, *there]):
        path, told = tmp_path / f"run-{rank}.yaml", tmp_path / f"said-{rank}"
        path.write_text(json.dumps({**POINTS, "output": {"folder": str(tmp_path / "made")}, **changes}))
        nodes.append(_fork(_node, rank, len(here) + len(there), port, path, told))
    for node in nodes:
        node.join(30)
    late = [node for node in nodes if node.is_alive()]
    for node in late:
        node.kill()
        node.join()
    assert not late
    host = platform.node()
    for rank, node in enumerate(nodes):
        assert node.exitcode == 2
        assert (tmp_path / f"said-{rank}").read_text() == (
            f"Rank {len(here)} on {host} was given another run than rank 0 on {host}: {said} there. Start all "
            "processes with the same run file and overrides.\n"
        )
    assert not (tmp_path / "made").exists()


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    requests, gate = read_requests(run), threading.Barrier(8)
    opened: list[Any] = []

    def begin() -> None:
        gate.wait()
        opened.append(open_folder(run, requests, resume=False))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {"run", *(f"run-{number}" for number in range(2, 9))}
    assert {folder.path.name for folder in opened} == names == {path.name for path in tmp_path.iterdir()}
    assert all((folder.path / "manifest.json").exists() for folder in opened)
    for folder in opened:
        folder.close()


def _claim(rank: int, folder: Path, run: Path) -> None:
    dist.barrier()
    opened = open_folder(config(run), read_requests(config(run)), resume=False)
    (opened.path / "mine").write_text(str(rank))
    dist.barrier()
    opened.close()


def test_processes_that_begin_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    run_ranks(_claim, 3, tmp_path / "ranks", tmp_path / "runs" / "run")
    taken = {path.parent.name: path.read_text() for path in (tmp_path / "runs").glob("*/mine")}
    assert set(taken) == {"run", "run-2", "run-3"}
    assert set(taken.values()) == {"0", "1", "2"}


def test_a_run_that_is_still_being_made_is_not_resumed(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    requests = read_requests(run)
    said = re.escape(
        f"{tmp_path / 'run'}: process {os.getpid()} on {platform.node()} is still making the run there: wait for its "
        "end, or end it, before --resume"
    )
    first = open_folder(run, requests, resume=False)
    with pytest.raises(ParaflowkitError, match=said):
        open_folder(run, requests, resume=True)
    (first.path / "results.jsonl").unlink()  # as in the moment before there is one
    with pytest.raises(ParaflowkitError, match=said):
        open_folder(run, requests, resume=True)
    first.close()
    first.close()
    again = open_folder(run, requests, resume=True)
    assert again.path == first.path
    again.close()


def test_a_run_holds_its_folder_until_it_ends(tmp_path: Path, fabric: Fabric, undisturbed: dict[str, Any]) -> None:
    class Greedy(Callback):
        def on_batch_start(self, run: Run, batch: int) -> None:
            if batch == 1:
                with pytest.raises(ParaflowkitError, match="is still making the run there"):
                    predict(config(tmp_path / "run"), fabric, resume=True)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(config(tmp_path / "run"), fabric, callbacks=[Greedy()])
    predict(config(tmp_path / "run"), fabric, resume=True)
    assert files(tmp_path / "run") == undisturbed


def _mourn(rank: int, folder: Path, lost: int, numbering: str | None) -> None:
    place = Place(platform.node(), numbering or Place.here().numbering, lost)
    Watch(Fabric(accelerator="cpu", devices=1))._end("It was lost.", place)


@pytest.mark.parametrize("numbering", [None, "of another container"])
def test_a_lost_process_is_only_ended_where_its_number_means_it(tmp_path: Path, numbering: str | None) -> None:
    lost = _fork(time.sleep, 60)
    with pytest.raises(AssertionError):  # who tells of it ends as well
        run_ranks(_mourn, 1, tmp_path, lost.pid, numbering)
    lost.join(1.0 if numbering is None else 0.2)
    assert lost.is_alive() == (numbering is not None)
    lost.kill()
    lost.join()


def _bear(lock: Path, variable: str) -> None:
    if os.fork() == 0:
        os.environ[variable] = str(os.getppid())
        held = Lock.take(lock)
        end_with_parent()
        lock.with_suffix(".held").touch()
        time.sleep(60)
        os._exit(held is None)
    time.sleep(60)


@pytest.mark.parametrize("variable", [PARENT, "TORCHELASTIC_RUN_ID"])
def test_a_process_ends_when_what_started_it_is_killed(tmp_path: Path, variable: str) -> None:
    lock = tmp_path / "lock"
    parent = _fork(_bear, lock, variable)
    while not lock.with_suffix(".held").exists():
        time.sleep(0.01)
    assert Lock.take(lock) is None
    parent.kill()
    parent.join()
    killed = time.monotonic()
    while (taken := Lock.take(lock)) is None:  # a lock goes with the process that has it
        assert time.monotonic() - killed < 5
        time.sleep(0.05)
    taken.release()


@pytest.mark.parametrize(
    ("environment", "sections", "said"),
    [
        ({"WORLD_SIZE": "4"}, {}, "WORLD_SIZE=4, but not which of those processes this one is"),
        ({"WORLD_SIZE": "many"}, {}, "WORLD_SIZE=many, where a number from 1 on belongs"),
        ({"WORLD_SIZE": "4"}, {"fabric": {"devices": 3}}, "WORLD_SIZE=4, no multiple of fabric.devices=3"),
        ({"LOCAL_WORLD_SIZE": "2"}, {}, "fabric.devices is 1, but 2 processes were started on this machine"),
        ({"RANK": "2"}, {}, "RANK=2, but there are 1 such processes"),
        (
            {"WORLD_SIZE": "4", "LOCAL_RANK": "2", "RANK": "2"},
            {"fabric": {"devices": 2}},
            "LOCAL_RANK=2, but there are 2 such processes",
        ),
        ({"LOCAL_RANK": "0"}, {"fabric": {"devices": 2}}, "LOCAL_RANK=0, but has no MASTER_ADDR and no MASTER_PORT"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sections: dict[str, Any], said: str
) -> None:
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(ParaflowkitError, match=re.escape(said)):
            make_fabric(points(**sections))


@pytest.mark.parametrize("command", ["predict", "tune"])
@pytest.mark.parametrize("variable", ["SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"])
def test_processes_of_srun_start_no_others(tmp_path: Path, command: str, variable: str) -> None:
    from paraflowkit.cli import app

    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**POINTS, "output": {"folder": str(tmp_path / "run")}}))
    environment = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "job", variable: "2"}
    refused = CliRunner().invoke(app, [command, "-c", str(path), "fabric.devices=2"], env=environment)
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"srun has started 2 processes ({variable}), and fabric.devices=2 would start 2 more in each: give srun one "
        f"task a machine (--ntasks-per-node=1), on several machines that of torchrun; or unset {variable} if srun has "
        "not started this.\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_task_of_srun_starts_the_processes_of_its_machine(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**POINTS, "output": {**POINTS["output"], "folder": str(tmp_path / "run")}}))
    task = {
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NAME": "job",
    }
    made = subprocess.run(
        [sys.executable, "-m", "paraflowkit", "predict", "-c", str(path), "fabric.devices=2"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **task, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("Written to") == 1
    assert (tmp_path / "run" / "results.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"mesh": {"time": 2}}, "mesh.time=2 needs several processes, but there is one"),
        ({"mesh": {"time": 1, "data": 3}}, "mesh.time=1 × mesh.data=3 needs several processes"),
        ({"mesh": {"time": 2}, "fabric": {"devices": 2, "strategy": "ddp"}}, "mesh.time=2 needs the strategy auto"),
    ],
)
def test_a_mesh_that_would_be_ignored_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ParaflowkitError, match=said):
        make_fabric(points(**sections))


def test_a_mesh_of_one_process_is_no_mistake() -> None:
    assert make_fabric(points(mesh={"time": 1})).world_size == 1


def test_a_resumed_run_keeps_what_was_logged(tmp_path: Path, fabric: Fabric) -> None:
    run = points(output={"folder": str(tmp_path / "run"), "logger": "csv"})

    class Stops(Callback):
        def on_batch_start(self, run: Run, batch: int) -> None:
            if batch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(run, fabric, callbacks=[Stops()])
    before = (tmp_path / "run" / "logs" / "metrics.csv").read_bytes()
    assert before
    predict(run, fabric, resume=True)
    assert (tmp_path / "run" / "logs" / "metrics.csv").read_bytes() == before
    assert (tmp_path / "run" / "logs-2" / "metrics.csv").read_text().count("\n") > 3


def test_a_logger_that_cannot_write_is_a_sentence(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.fabric.loggers import CSVLogger

    def full(self: CSVLogger) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = points(output={"folder": str(tmp_path / "run"), "logger": "csv"})
    with monkeypatch.context() as patch:
        patch.setattr(CSVLogger, "save", full)
        with pytest.raises(ParaflowkitError, match=r"CSVLogger cannot write to .*: No space left.*with --resume"):
            predict(run, fabric)
    assert predict(run, fabric, resume=True).summary.samples == 3
