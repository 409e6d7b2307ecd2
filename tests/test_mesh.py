"""Solves that several processes share: the mesh of ranks, and equality with one process."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric

from paraflowkit import registry
from paraflowkit.config import loads
from paraflowkit.core.problem import make_problem
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.evaluator import Evaluator
from paraflowkit.fabric.launch import mesh_sizes
from paraflowkit.fabric.mesh import Mesh, MeshStrategy
from paraflowkit.fabric.predict import predict
from paraflowkit.fabric.watch import Watch
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid
from tests.problems import make_solver, make_stepper, sliding
from tests.ranks import fabric_of, run_ranks

SOLVERS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "paradigms": {"tolerance": 1e-2},
    "parataa": {"tolerance": 1e-3},
    "parasolver": {"tolerance": 1e-2},
    "parasolver-turbo": {"tolerance": 1e-2},
    "paraflow": {"tolerance": 5e-3},
}


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_are_even_and_whole(rows: int, ranks: int) -> None:
    shares = Mesh(1, ranks).shares(rows)
    assert [i for share in shares for i in range(rows)[share]] == list(range(rows))
    sizes = [share.stop - share.start for share in shares]
    assert len(sizes) == ranks
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 50), st.integers(1, 9))
def test_each_item_goes_to_one_data_group(count: int, groups: int) -> None:
    parts = [Mesh(groups, 1, rank).mine(list(range(count))) for rank in range(groups)]
    assert sorted(i for part in parts for i in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("processes", "data", "time", "sizes"),
    [(4, None, None, (1, 4)), (4, None, 2, (2, 2)), (6, 2, None, (2, 3)), (3, 3, 1, (3, 1)), (1, None, None, (1, 1))],
)
def test_sizes_make_up_the_processes(
    processes: int, data: int | None, time: int | None, sizes: tuple[int, int]
) -> None:
    assert mesh_sizes(processes, data, time) == sizes


@pytest.mark.parametrize(
    ("processes", "data", "time", "said"),
    [(4, None, 3, "mesh.time=3"), (4, 2, 1, "mesh.data=2 × mesh.time=1"), (2, 4, None, "mesh.data=4")],
)
def test_sizes_that_do_not_fit_are_refused(processes: int, data: int | None, time: int | None, said: str) -> None:
    with pytest.raises(ParaflowkitError, match=f"{said} does not fit {processes} processes"):
        mesh_sizes(processes, data, time)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ParaflowkitError, match=r"mesh\.time must be at least 1, got 0"):
        MeshStrategy(time=0)


def _solve(name: str, mesh: Mesh, stepper: str) -> Solution:
    """Three guided digits in windows of 5 nodes: 30 rows a call, or fewer, or an odd number of them."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model = registry.get("model", "digits-vp")(registry.config_class("model", "digits-vp")())
    sampler = make_stepper(stepper)
    grid = make_grid(model.noise, 12)
    evaluator = Evaluator(fabric, model, sampler.nodes(grid, model.noise).t, torch.float32, mesh)
    problem = make_problem(
        model, sampler, grid, [0, 1, 2], classes=[3, None, 7], guidance=[3.0, 1.0, 2.0], evaluate=evaluator
    )
    solution = solve(problem, make_solver(name, **SOLVERS[name]), sliding(5))
    assert (evaluator.gather_seconds > 0) == (mesh.time > 1)
    return solution


def _share(rank: int, folder: Path, data: int, name: str, stepper: str, wanted: dict[str, Any]) -> None:
    mesh = Mesh.build(data, dist.get_world_size() // data, "cpu")
    assert (mesh.data_rank, mesh.time_rank) == divmod(rank, mesh.time)
    made = _solve(name, mesh, stepper)
    assert [s.tolist() for s in made.stats.strides] == wanted["strides"]
    assert made.stats.evaluations.tolist() == wanted["evaluations"]
    # Calls of fewer rows sum in another order.
    assert float(relative_rmse(made.x, wanted["x"]).max()) <= 1e-6


@pytest.mark.parametrize(
    ("name", "stepper", "ranks", "data"),
    [
        *((name, "ddim", 2, 1) for name in SOLVERS),
        ("paraflow", "ddpm", 3, 1),
        ("parasolver-turbo", "dpm-solver", 3, 1),
        ("paraflow", "ddim", 4, 2),
        *(
            pytest.param(name, *(("ddim", 4, 2) if i % 2 else ("ddpm", 3, 1)), marks=pytest.mark.slow)
            for i, name in enumerate(SOLVERS)
            if name != "paraflow"
        ),
    ],
)
def test_ranks_make_what_one_process_makes(tmp_path: Path, name: str, stepper: str, ranks: int, data: int) -> None:
    alone = _solve(name, Mesh(), stepper)
    wanted = {
        "strides": [s.tolist() for s in alone.stats.strides],
        "evaluations": alone.stats.evaluations.tolist(),
        "x": alone.x,
    }
    run_ranks(_share, ranks, tmp_path, data, name, stepper, wanted)


def _disagree(rank: int, folder: Path) -> None:
    mesh = Mesh.build(1, 2, "cpu")
    assert mesh.agree(torch.tensor([[True, False], [False, rank == 1]])).tolist() == [[True, False], [False, False]]
    assert mesh.agree(torch.tensor([3, 4 + rank])).tolist() == [3, 4]


def test_decisions_are_those_of_the_first_rank(tmp_path: Path) -> None:
    run_ranks(_disagree, 2, tmp_path)


def _launch(rank: int, folder: Path) -> None:
    fabric = fabric_of(rank, MeshStrategy(time=2))
    mesh = Mesh.of(fabric)
    assert (mesh.data, mesh.time, mesh.data_rank, mesh.time_rank) == (2, 2, rank // 2, rank % 2)
    assert mesh.ranks == ((0, 1), (2, 3))[rank // 2]
    network = torch.nn.Linear(2, 2).requires_grad_(False)
    assert fabric.setup_module(network)(torch.zeros(1, 2)).shape == (1, 2)
    plain = fabric_of(rank, "ddp")
    assert (Mesh.of(plain).data, Mesh.of(plain).time) == (1, 4)


def test_the_strategy_puts_ranks_on_the_mesh(tmp_path: Path) -> None:
    run_ranks(_launch, 4, tmp_path)


def _silent(rank: int, folder: Path, fault: str, lost: int) -> None:
    os.environ["TORCHELASTIC_ERROR_FILE"] = str(folder / f"said-{rank}")
    with Watch(fabric_of(rank, MeshStrategy()), patience=3.0):
        time.sleep(1.5)
        if rank == lost:
            if fault == "raises":
                raise ParaflowkitError("the disk is full")
            os.kill(os.getpid(), signal.SIGSTOP if fault == "stops" else signal.SIGKILL)
        time.sleep(30)


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        ("raises", 1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("stops", 0), ("stops", 1), ("dies", 1), ("dies", 0), ("raises", 0))
        ),
    ],
)
def test_a_rank_that_is_lost_ends_the_others(tmp_path: Path, fault: str, lost: int) -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError):
        run_ranks(_silent, 3, tmp_path, fault, lost, seconds=15.0)
    assert time.monotonic() - began < 12
    how = "failed: the disk is full" if fault == "raises" else "has given no sign of life for 3 s"
    for rank in {0, 1, 2} - {lost}:
        said = json.loads((tmp_path / f"said-{rank}").read_text())["message"]
        assert said.startswith(f"Rank {lost} of 3 on {platform.node()} {how}")
    assert not (tmp_path / f"said-{lost}").exists()


def _busy(rank: int, folder: Path) -> None:
    with Watch(fabric_of(rank, MeshStrategy()), patience=2.0):
        if rank:
            time.sleep(4.0)  # as a long network call: no silence


@pytest.mark.slow
def test_a_long_call_is_no_silence(tmp_path: Path) -> None:
    run_ranks(_busy, 2, tmp_path)


def _other_runs(rank: int, folder: Path) -> None:
    run = {
        "model": "digits-flow", "requests": [{"classes": [1]}], "solver": {"name": "paraflow", "tolerance": 0.1 + rank}
    }  # fmt: skip
    with pytest.raises(ParaflowkitError) as error:
        predict(loads(json.dumps(run), "run.yaml"), fabric_of(rank, MeshStrategy()))
    said = (
        f"Rank 1 on {platform.node()} was given another run than rank 0 on {platform.node()}: solver.tolerance was 0.1"
    )
    assert str(error.value).startswith(said)


def test_processes_that_were_given_other_runs_do_not_begin(tmp_path: Path) -> None:
    run_ranks(_other_runs, 2, tmp_path)


def test_on_cuda_the_device_clocks_the_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device that is made up: what is told is the time between two events on its stream, once it is known."""
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            done.append(f"record on {stream}")

        def synchronize(self) -> None:
            done.append("synchronize")

        def elapsed_time(self, end: Event) -> float:
            assert done[-1] == "synchronize"
            return 250.0  # milliseconds

    evaluator: Any = Evaluator.__new__(Evaluator)
    evaluator._waited, evaluator._marks = 0.0, []
    evaluator.mesh = SimpleNamespace(gather=lambda out: done.append("gather"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "current_stream", lambda device: "the stream")
        for _ in range(2):
            evaluator._gather(SimpleNamespace(device=SimpleNamespace(type="cuda")))
    assert done == ["record on the stream", "gather", "record on the stream"] * 2  # nothing waits for the device
    assert evaluator.gather_seconds == 0.5
    assert evaluator.gather_seconds == 0.5


def _other_sizes(rank: int, folder: Path) -> None:
    run = loads(json.dumps({"model": "digits-flow", "requests": [{"classes": [1]}]}), "run.yaml")
    host, whole = platform.node(), "MeshStrategy(data=1, time=2)"
    for strategy, said in (
        (
            MeshStrategy(time=2 - rank),
            f"Rank 1 on {host} was started with MeshStrategy(data=2, time=1), rank 0 on {host}",
        ),
        (MeshStrategy(shard=rank == 1), f"MeshStrategy(data=1, time=2, shard=True), rank 0 on {host} with {whole}"),
        (MeshStrategy(tensor=1 + rank), f"MeshStrategy(data=1, time=1, tensor=2), rank 0 on {host} with {whole}: give"),
        (MeshStrategy(data=1) if rank else MeshStrategy(time=1), f"{whole}, rank 0"),
        (MeshStrategy(time=2 + rank), "mesh.time=3 does not fit 2 processes"),
        ("ddp" if rank else MeshStrategy(data=2), f"{whole}, rank 0"),
    ):
        fabric = fabric_of(rank, strategy)
        with pytest.raises(ParaflowkitError, match=re.escape(said)):
            Mesh.of(fabric)
    with pytest.raises(ParaflowkitError, match=re.escape(said)):
        predict(run, fabric, save=False)
    for strategy in (MeshStrategy(data=1) if rank else MeshStrategy(time=2), "ddp" if rank else MeshStrategy()):
        assert Mesh.of(fabric_of(rank, strategy)).time == 2


def test_strategies_that_make_other_meshes_are_refused(tmp_path: Path) -> None:
    run_ranks(_other_sizes, 2, tmp_path)


def _broken(rank: int, folder: Path) -> None:
    mesh = Mesh.build(1, 2, "cpu")
    if rank == 1:
        os._exit(0)
    with pytest.raises(ParaflowkitError, match="connection to another process of this solve broke"):
        mesh.gather(torch.zeros(4, 2))
    os._exit(0)  # without the farewell of the harness, which would wait


def test_a_rank_that_has_ended_is_a_sentence(tmp_path: Path) -> None:
    run_ranks(_broken, 2, tmp_path)


def _other_weights(rank: int, folder: Path) -> None:
    model = registry.get("model", "digits-flow")(registry.config_class("model", "digits-flow")())
    if rank:
        model.unet.conv_in.bias.data += 1e-6
    run = loads(json.dumps({"model": "digits-flow", "requests": [{"classes": [1]}]}), "run.yaml")
    with pytest.raises(ParaflowkitError, match=r"Rank 1 on .* has other weights than rank 0"):
        predict(run, fabric_of(rank, MeshStrategy()), model=model, save=False)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    run_ranks(_other_weights, 2, tmp_path)


def _measured_window(rank: int, folder: Path) -> None:
    data = {"model": "digits-flow", "requests": [{"classes": [1]}], "window": "fit"}
    with pytest.raises(ParaflowkitError, match="window fit measures the memory of one device"):
        predict(loads(json.dumps(data), "run.yaml"), fabric_of(rank, MeshStrategy()), save=False)


def test_windows_that_fit_one_devices_memory_are_refused(tmp_path: Path) -> None:
    run_ranks(_measured_window, 2, tmp_path)
