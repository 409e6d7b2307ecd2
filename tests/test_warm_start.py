"""Trajectories that are saved, loaded and started from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import STEPPERS, make_solver, mixture, problem, sequential, sliding
from safetensors.torch import load_file

from paraflowkit.cli import app
from paraflowkit.config import loads
from paraflowkit.errors import ConfigError, ParaflowkitError
from paraflowkit.fabric.predict import predict
from paraflowkit.solve import solve
from paraflowkit.spacing import make_grid
from paraflowkit.trajectory import load_trajectory, save_trajectory

RUN = """
model: {name: gaussian-mixture, dimension: 5, classes: 4}
grid: {steps: 20}
solver: {name: paraflow, tolerance: 1.0e-3}
requests: [{classes: [0, 1], seeds: [3], count: 2, guidance: 2.0}]
output: {folder: %s, trajectory: true}
run: {batch: 3, dtype: float64}
"""


@pytest.mark.parametrize("solver", ["paraflow", "parataa", "parasolver", "parasolver-turbo"])
@pytest.mark.parametrize("width", [4, 20])
def test_the_own_trajectory_is_recognised_at_once(solver: str, width: int) -> None:
    """Started from the solution itself, every sweep accepts its whole window, and the result stays."""
    p = problem(mixture(), STEPPERS["euler"], 20, 3, guidance=2.0)
    reference = sequential(p)
    degree = {"degree": width} if solver == "parasolver-turbo" else {}  # beyond it, it makes guesses of its own
    made = make_solver(solver, tolerance=1e-9, norm="absolute", **degree)
    found = solve(p, made, sliding(width), warm=reference.trajectory)
    first = 1 if "parasolver" in solver else 0
    assert found.stats.sweeps <= first + -(-20 // width)
    torch.testing.assert_close(found.x, reference.x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", ["paraflow", "parataa", "parasolver", "parasolver-turbo"])
def test_a_neighbours_trajectory_saves_iterations_and_changes_nothing(solver: str) -> None:
    """Another guidance scale: at tolerance 0 the result is exact, at a tolerance the start is worth iterations."""
    old = problem(mixture(), STEPPERS["euler"], 40, 8, guidance=2.0)
    new = problem(mixture(), STEPPERS["euler"], 40, 8, guidance=2.2)
    warm, reference = sequential(old).trajectory, sequential(new).x
    exact = solve(new, make_solver(solver, tolerance=0.0), sliding(10), warm=warm)
    assert exact.stats.sweeps <= 40
    torch.testing.assert_close(exact.x, reference, rtol=0, atol=1e-10)
    degree = {"degree": 40} if solver == "parasolver-turbo" else {}
    loose = make_solver(solver, tolerance=3e-4, norm="absolute", **degree)
    cold, started = solve(new, loose, sliding(40)), solve(new, loose, sliding(40), warm=warm)
    assert started.stats.sample_iterations.sum() < cold.stats.sample_iterations.sum()


def test_one_trajectory_serves_all_samples_and_other_seeds() -> None:
    p = problem(mixture(), STEPPERS["ddim-1"], 12, 3, guidance=2.0)
    warm = sequential(problem(mixture(), STEPPERS["ddim-1"], 12, 1, guidance=2.0)).trajectory
    found = solve(p, make_solver("paraflow", tolerance=0.0), sliding(5), warm=warm)
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 13, 5), (3, 12, 5), (3, 13, 4), (13, 5), ()])
def test_a_trajectory_of_another_problem_gets_a_sentence(shape: tuple[int, ...]) -> None:
    p = problem(mixture(), STEPPERS["euler"], 12, 3)
    with pytest.raises(ValueError, match=r"3 samples on 13 nodes need \(3, 13, 5\)"):
        solve(p, make_solver("paraflow"), sliding(4), warm=torch.zeros(shape))
    with pytest.raises(ValueError, match="not finite"):
        solve(p, make_solver("paraflow"), sliding(4), warm=torch.full((3, 13, 5), torch.nan))


def test_a_run_saves_and_another_starts_from_it(tmp_path: Path) -> None:
    first = predict(loads(RUN % (tmp_path / "a")))
    assert first.folder is not None
    file = first.folder / "trajectory.safetensors"
    saved = load_file(file)
    assert saved["trajectory"].shape == (4, 21, 5)  # two batches, of 3 and 1
    torch.testing.assert_close(saved["trajectory"][:, -1], first.samples)
    again = predict(loads(RUN % (tmp_path / "b"), overrides=[f"run.warm_start={file}"]))
    assert again.summary.iterations < first.summary.iterations
    torch.testing.assert_close(again.samples, first.samples, rtol=0, atol=0.05)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.yaml"
    run.write_text((RUN % (tmp_path / "a")).replace(", trajectory: true", ""))
    app(["predict", "-c", str(run), "--save-trajectory"], standalone_mode=False)
    file = tmp_path / "a" / "trajectory.safetensors"
    assert file.is_file()
    app(["predict", "-c", str(run), "--warm-start", str(file)], standalone_mode=False)
    assert "Time outside the network" in capsys.readouterr().out
    assert not (tmp_path / "a-2" / "trajectory.safetensors").exists()


def test_a_file_that_is_not_there_is_found_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"run.warm_start: there is no file 'gone.safetensors'; a run with"):
        loads(RUN % "x", overrides=["run.warm_start=gone.safetensors"])


def _mistakes(tmp_path: Path) -> dict[str, tuple[Any, str]]:
    flow = mixture()
    nodes, states = make_grid(flow.noise, 12), torch.zeros(3, 13, 5)
    path = tmp_path / "t.safetensors"

    def saved(trajectory: torch.Tensor, on: Any = nodes) -> None:
        save_trajectory(path, trajectory, on)

    shifted = make_grid(flow.noise, 12, shift=3.0)
    return {
        "garbage": (lambda: path.write_bytes(b"not safetensors"), "is not a trajectory that paraflowkit saved"),
        "other tensors": (lambda: save_trajectory_without_nodes(path), "is not a trajectory"),
        "steps": (lambda: saved(torch.zeros(3, 11, 5), make_grid(flow.noise, 10)), "has 10 steps and this run 12"),
        "levels": (lambda: saved(states, shifted), "other noise levels"),
        "shape": (lambda: saved(torch.zeros(3, 13, 4)), r"shape \(4,\), this model makes \(5,\)"),
        "samples": (lambda: saved(torch.zeros(2, 13, 5)), "holds 2 samples and this run makes 3"),
        "nan": (lambda: saved(states * torch.nan), "not finite"),
    }


def save_trajectory_without_nodes(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"samples": torch.zeros(3)}, path)


@pytest.mark.parametrize("name", ["garbage", "other tensors", "steps", "levels", "shape", "samples", "nan"])
def test_files_that_do_not_fit_get_a_sentence(name: str, tmp_path: Path) -> None:
    make, words = _mistakes(tmp_path)[name]
    make()
    with pytest.raises(ParaflowkitError, match=words):
        load_trajectory(tmp_path / "t.safetensors", make_grid(mixture().noise, 12), 3, (5,))
