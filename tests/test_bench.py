"""Benches: what is compared, the search for equal errors, rows that are kept, tables and reports."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from paraflowkit import registry
from paraflowkit.bench import run as running
from paraflowkit.bench.command import run
from paraflowkit.bench.config import load
from paraflowkit.bench.contents import contents
from paraflowkit.bench.folder import BenchFolder
from paraflowkit.bench.jobs import jobs
from paraflowkit.bench.remembered import Remembered
from paraflowkit.bench.search import Found, Point, fewest, loosest
from paraflowkit.bench.solves import Made
from paraflowkit.bench.tables import csv_text, markdown, tables
from paraflowkit.bench.verdict import verdicts
from paraflowkit.cli import app
from paraflowkit.errors import ConfigError
from paraflowkit.solvers.paraflow import ParaFlow

BENCH: dict[str, Any] = {
    "title": "A small bench",
    "about": "What it is for.",
    "run": {"model": "digits-flow", "requests": [{"classes": [0, 1], "guidance": 3.0}], "grid": {"steps": 8}},
    "methods": {
        "Euler": {"solver": "sequential"},
        "ParaFlow": {"solver": {"name": "paraflow", "tolerance": 5e-3}, "window": {"size": 4}},
    },
    "timing": {"repetitions": 0},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**BENCH, **changes}, sort_keys=False))
    return path


def made(folder: Path, **changes: Any) -> BenchFolder:
    return run(load(write(folder, **changes)), folder / "out", log=lambda line: None)


# The search


def point(error: float) -> Point:
    return Point(1.0, 1.0, error, error)


def search(error_of: Callable[[float], float], wanted: float, start: float) -> tuple[Found, int]:
    asked: list[float] = []

    def solve(tolerance: float) -> Point:
        asked.append(tolerance)
        return point(error_of(tolerance))

    return loosest(solve, {}, wanted, start), len(asked)


@pytest.mark.parametrize("start", [1e-5, 1e-2, 1.0])
@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
def test_the_loosest_tolerance_is_found(start: float, power: float) -> None:
    """On a known law, error = (2 tolerance)^power, in few solves."""
    found, solves = search(lambda t: (2 * t) ** power, 1e-2, start)
    exact = 0.5 * 1e-2 ** (1 / power)
    assert found.met
    assert exact / 1.3 <= found.setting <= exact
    assert solves <= 12


def test_what_cannot_be_met_is_said() -> None:
    found, _ = search(lambda t: 0.5 + t, 1e-2, 0.1)
    assert not found.met
    assert found.setting == 0

    def fixed(tolerance: float) -> float:
        if tolerance == 0:
            raise ValueError("settings that do not go with tolerance 0")
        return 0.5

    found, solves = search(fixed, 1e-2, 0.1)
    assert not found.met
    assert found.setting > 0
    assert solves <= 5
    found, solves = search(lambda t: 1e-4, 1e-2, 0.1)
    assert found.met
    assert found.setting == 1e4
    assert solves <= 5


@pytest.mark.parametrize("wanted", [0.3, 0.1, 0.021, 0.001])
def test_the_fewest_steps_are_found(wanted: float) -> None:
    """On a known law, error = 1 / K²."""
    tried: dict[int, Point] = {}
    found = fewest(lambda steps: point(steps**-2.0), tried, wanted, 50)
    assert found.met
    assert found.setting == next(k for k in range(1, 51) if k**-2.0 <= wanted)
    assert len(tried) < 16


def test_a_better_stepper_may_pass_the_reference_on_its_way() -> None:
    found = fewest(lambda steps: point(abs(steps - 23) / 100 + 0.005), {}, 0.015, 50)
    assert (found.setting, found.met) == (22, True)
    found = fewest(lambda steps: point(abs(steps - 23) / 100 + 0.005), {}, 0.001, 50)
    assert not found.met


def test_a_row_is_evaluated_once() -> None:
    inner = registry.get("model", "digits-flow")(registry.config_class("model", "digits-flow")())
    model = Remembered(inner)
    cond = inner.condition([1, 2, 1], [None] * 3)
    x, t = torch.randn(3, *inner.shape, generator=torch.manual_seed(0)), torch.full((3,), 0.5, dtype=torch.float64)
    x[2] = x[0]
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, cond), inner(x, t, cond), rtol=0, atol=1e-6)
        assert (model.asked, model.evaluated) == (3, 2)
        first = model(x, t, cond)
        assert (model.asked, model.evaluated) == (6, 2)
        other = model(x, t + 0.1, cond)
        assert model.evaluated == 4
    assert not torch.equal(first, other)


# The file


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"titel": "x"}, r"small.yaml:\d+:1: titel: unknown section. Did you mean 'title'"),
        ({"grid": {"steps": 3}}, r"grid: unknown section. It is a section of runs: put it under 'run'"),
        ({"title": None}, r"title: expects text, got nothing"),
        ({"timing": {"repetition": 1}}, r"timing.repetition: unknown setting. Did you mean 'repetitions'"),
        ({"errors": [0]}, r"errors.0: must be more than 0, got 0"),
        ({"axes": {"grid.steps": []}}, r"axes.grid.steps: must not be empty"),
        ({"axes": {"grid.stepps": [1]}}, r"grid.stepps: unknown setting. Did you mean 'steps'"),
        ({"axes": {"griid.steps": [1]}}, r"axes.griid.steps: a run has no setting 'griid.steps' to vary"),
        ({"methods": {"Euler": "sequential"}}, r"methods.Euler: expects settings of a run"),
        ({"methods": {}}, r"the section 'methods' is missing, empty or no mapping"),
        ({"methods": {"A": {"solver": "paraflow"}}}, r"methods: none of them is sequential"),
        (
            {"methods": {**BENCH["methods"], "B": {"solver": {"name": "paraflow", "tolerence": 1}}}},
            r"small.yaml:\d+:\d+: solver.tolerence: unknown setting. Did you mean 'tolerance'",
        ),
        (
            {"run": {**BENCH["run"], "model": {"name": "digits-flow", "x": "???"}}},
            r"model.x: has to be given: add run.mod",
        ),
        (
            {"paper": {"source": "P", "rows": [{"method": "Oiler"}]}},
            r"'Oiler' is none of the methods. Did you mean 'Eu",
        ),
        ({"paper": {"source": "P", "rows": [{"method": "Euler", "at": {"x": 1}}]}}, r"at.x: is none of the axes"),
        ({"fewer": ["eulr"]}, r"eulr"),
        ({"fewer": [{"order": 2}]}, r"fewer.0: needs the name of a stepper"),
        ({"axes": {"fabric.precision": ["32-true", "bf16-mixed"]}}, r"run.fabric: is that of the whole bench"),
    ],
)
def test_a_mistake_gets_its_place_and_remedy(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(write(tmp_path, **changes))


def test_axes_are_all_combinations_and_do_not_multiply_the_sequential_sampler(tmp_path: Path) -> None:
    axes = {"grid.steps": [4, 6], "window.size": [2, 3], "solver.tolerance": [0.1, 0.2]}
    found = load(write(tmp_path, axes=axes))
    assert [spot.method for spot in found.spots].count("Euler") == 2
    ours = [spot for spot in found.spots if spot.method == "ParaFlow"]
    settings: list[Any] = [(s.config.grid.steps, s.config.window.settings, s.config.solver.settings) for s in ours]
    assert {(n, w.size, s.tolerance) for n, w, s in settings} == {
        (n, w, t) for n in (4, 6) for w in (2, 3) for t in (0.1, 0.2)
    }


def test_overrides_and_the_papers_models(tmp_path: Path) -> None:
    path = write(
        tmp_path, paper_run={"model": {"name": "diffusers-pipeline", "folder": "???"}}, axes={"grid.steps": [4, 6]}
    )
    found = load(path, ["axes.grid.steps=[5]", "run.run.batch=3", "methods.ParaFlow.window.size=2"])
    assert {spot.config.grid.steps for spot in found.spots} == {5}
    assert {spot.config.run.batch for spot in found.spots} == {3}
    with pytest.raises(ConfigError, match=r"model.folder: has to be given: add run.model.folder=VALUE"):
        load(path, models="paper")
    whole = load(path, [f"run.model.folder={tmp_path}"], models="paper")
    assert whole.spots[0].config.model.name == "diffusers-pipeline"


# The run


def test_a_bench_of_equal_errors(tmp_path: Path) -> None:
    folder = made(tmp_path, errors=[0.05], fewer=["euler"], timing={"repetitions": 2})
    equal, given = tables(folder)
    plain, ours, fewer = equal.lines
    assert [line.method for line in equal.lines[:2]] == ["Euler", "ParaFlow"]
    assert plain.figures["iterations"] == plain.figures["evaluations"] == 8
    assert ours.figures["error"] <= 0.05
    assert 2 <= ours.figures["iterations"] < 8
    assert fewer.method.startswith("fewer steps: euler, ")
    assert fewer.figures["error"] <= 0.05
    assert fewer.figures["iterations"] < 8
    assert all(line.figures["seconds"] > 0 for line in equal.lines)
    assert plain.figures["speedup"] == 1.0
    assert [line.method for line in given.lines] == ["Euler", "ParaFlow"]
    assert given.lines[1].figures["setting"] == 5e-3
    for name in ("report.html", "table.md", "table.csv", "curves.png", "rows.jsonl", "bench.json"):
        assert (folder.path / name).stat().st_size > 100
    rows = list(csv.DictReader((folder.path / "table.csv").read_text().splitlines()))
    assert float(rows[1]["iterations"]) == ours.figures["iterations"]
    page = (folder.path / "report.html").read_text()
    assert "A small bench" in page
    assert "times fewer sequential calls" in page
    assert page.count("data:image/png") >= 2


def test_tolerance_zero_is_sequential_and_costs_nothing_in_quality(tmp_path: Path) -> None:
    methods = {**BENCH["methods"], "Exact": {"solver": {"name": "paraflow", "tolerance": 0.0}, "window": {"size": 4}}}
    folder = made(tmp_path, methods=methods)
    plain, _, exact = tables(folder)[0].lines
    assert exact.figures["error"] < 1e-5
    assert exact.figures["fid"] == pytest.approx(plain.figures["fid"], rel=1e-3)


@pytest.mark.slow
def test_rows_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path, timing={"repetitions": 1})
    lines = (folder.path / "rows.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(running._Bench, "_measure", lambda *a: pytest.fail("measured again"))  # pyright: ignore
        same = run(load(write(tmp_path, timing={"repetitions": 1})), folder.path, resume=True, log=lambda line: None)
    assert (same.path / "rows.jsonl").read_text() == lines
    # A line that a killed bench had begun is measured again; what is new is added.
    (folder.path / "rows.jsonl").write_text(lines[: lines.index("\n") + 20])
    told: list[str] = []
    again = run(load(write(tmp_path, errors=[0.1])), folder.path, resume=True, log=told.append)
    assert any("1 of 3 rows are in" in line for line in told)
    assert len(BenchFolder.open(again.path).rows) == 3
    # Other settings are other rows, and a folder that is taken gets a number.
    assert {job.key for job in jobs(load(write(tmp_path)))}.isdisjoint(
        job.key for job in jobs(load(write(tmp_path), ["run.grid.steps=9"]))
    )
    assert made(tmp_path).path.name == "out-2"


def test_a_sought_tolerance_takes_the_place_of_a_wanted_error(tmp_path: Path) -> None:
    methods = {"Euler": {"solver": "sequential"}, "L": {"solver": {"name": "lattice", "error": 0.01}}}
    given, sought = [j for j in jobs(load(write(tmp_path, methods=methods, errors=[0.1]))) if j.spot.method == "L"]
    assert given.spot.config.solver.settings.model_dump()["error"] == 0.01
    found = sought.with_setting(0.03).solver.settings.model_dump()
    assert (found["error"], found["tolerance"]) == (None, 0.03)


def test_other_weights_are_other_rows(tmp_path: Path) -> None:
    features, weights = tmp_path / "inception.safetensors", tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    features.write_bytes(b"one")
    run_ = {**BENCH["run"], "model": {"name": "digits-flow", "folder": str(weights)}}
    path = write(tmp_path, metrics={"features": str(features)}, run=run_)

    def keys() -> set[str]:
        return {job.key for job in jobs(load(path))}

    before = keys()
    assert before == keys()
    features.write_bytes(b"other")
    between = keys()
    assert before.isdisjoint(between)
    (weights / "model.safetensors").write_bytes(b"new")
    assert between.isdisjoint(keys())
    plain = contents({"model": {"name": "digits-flow", "folder": None}, "features": "digits", "list": ["a/b"]})
    assert plain == {}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    def rows(devices: int) -> list[dict[str, Any]]:
        out = tmp_path / f"out{devices}"
        command = ["bench", "--config", str(path), "--output", str(out), f"run.fabric.devices={devices}"]
        program = "from paraflowkit.cli import app; app()"
        done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]

    path = write(tmp_path, timing={"repetitions": 1}, metrics={"features": None, "references": None})
    one, two = rows(1), rows(2)
    assert [row["kind"] for row in one] == ["given", "given", "time"]
    for alone, together in zip(one, two, strict=True):
        assert [alone.get(name) for name in ("kind", "method", "at")] == [
            together.get(name) for name in ("kind", "method", "at")
        ]
        for name in ("iterations", "evaluations", "samples"):
            assert alone.get(name) == together.get(name)
        for name in ("error", "worst_error", "psnr", "ssim"):
            if alone.get(name) is None:
                assert together.get(name) is None
            else:
                assert together[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-6)


def test_a_method_that_refuses_does_not_end_the_bench(tmp_path: Path) -> None:
    methods = {"Euler": {"solver": "sequential"}, "TAA": {"solver": "parataa"}, **BENCH["methods"]}
    grid = {
        "run": {
            "model": "digits-vp",
            "stepper": {"name": "clipped-ddim", "clip": 1.0},
            "requests": [{"classes": [1]}],
            "grid": {"steps": 4},
        }
    }
    folder = made(tmp_path, methods=methods, **grid)
    lines = {line.method: line for line in tables(folder)[0].lines}
    assert lines["TAA"].note.startswith("refused: ")
    assert not lines["TAA"].figures
    assert lines["ParaFlow"].figures["iterations"] >= 1
    assert "refused" in (folder.path / "table.md").read_text()


@pytest.mark.slow
def test_what_is_compared_belongs_together(tmp_path: Path) -> None:
    """Two sequential samplers: each has its own baseline and its own verdict."""
    five = {"grid": {"steps": 5}}
    methods = {
        "S8": {"solver": "sequential"},
        "P8": {"solver": "paraflow", "window": {"size": 8}},
        "S5": {**five, "solver": "sequential"},
        "P5": {**five, "solver": "paraflow", "window": {"size": 5}},
    }
    folder = made(tmp_path, methods=methods, errors=[0.3], fewer=["euler"])
    lines = {line.method: line for line in tables(folder)[0].lines}
    fewer = {name: line for name, line in lines.items() if name.startswith("fewer")}
    assert len(fewer) == 2
    for name, line in fewer.items():
        assert line.figures["iterations"] < (8 if "for S8" in name else 5)
        assert line.figures["error"] <= 0.3
    said = verdicts(folder)
    assert [sentence.split(":")[0] for sentence in said] == ["S8", "S5"]
    assert "by P8" in said[0]
    assert "by P5" in said[1]
    assert "in place of 5" in said[1]


def test_a_solver_that_fails_costs_its_row_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(ParaFlow, "sweep", fail)
        folder = made(tmp_path)
    ours = tables(folder)[0].lines[1]
    assert ours.note == "refused: RuntimeError: no luck"
    told: list[str] = []
    again = run(load(write(tmp_path)), folder.path, resume=True, log=told.append)
    assert any("1 of 2 rows are in" in line for line in told)
    assert tables(again)[0].lines[1].figures["iterations"] >= 2


def test_samples_that_fail_are_no_small_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = torch.tensor([True, False])
    whole = Made(torch.zeros(2, 1, 2, 2), torch.ones(2), torch.ones(2), fine)
    assert whole.failed == 1
    assert whole.point(torch.zeros(2, 1, 2, 2), 1.0).error == float("inf")


def test_nothing_that_meets_the_error_is_said(tmp_path: Path) -> None:
    methods = {"Euler": {"solver": "sequential"}, "Late": {"solver": {"name": "paraflow", "tolerance": 1.0}}}
    folder = made(tmp_path, methods=methods, errors=[0.05])
    row = next(row for row in folder.rows.values() if row["kind"] == "error")
    row["met"] = False
    assert verdicts(folder) == ["Euler: no solver meets the error."]


@pytest.mark.slow
def test_a_papers_figures_stand_beside_ours(tmp_path: Path) -> None:
    rows = [
        {"method": "Euler", "at": {"grid.steps": 4}, "iterations": 4, "fid": 50.75},
        {"method": "ParaFlow", "at": {"grid.steps": 4}, "iterations": 3.25, "speedup": 1.5},
    ]
    folder = made(tmp_path, axes={"grid.steps": [5, 4]}, paper={"source": "A paper", "rows": rows})
    text = markdown(folder)
    assert "| grid.steps | method |" in text
    assert "[3.25]" in text
    assert "[50.8]" in text
    assert "[1.50×]" in text
    assert "In brackets: A paper." in text
    found = list(csv.DictReader(csv_text(folder).splitlines()))
    assert [row["grid.steps"] for row in found] == ["5", "5", "4", "4"]
    assert [row["paper_iterations"] for row in found] == ["", "", "4.0", "3.25"]


def test_the_command(tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["bench", "-c", str(write(tmp_path)), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert f"Written to {tmp_path / 'out'}" in done.output
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["title"] == "A small bench"
    wrong = runner.invoke(app, ["bench", "-c", str(tmp_path / "none.yaml")])
    assert wrong.exit_code == 2
    assert "there is no such file" in wrong.output


def test_a_stale_table_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[1]
    script = runpy.run_path(str(root / "docs" / "examples" / "bench_tables.py"))
    folder = made(tmp_path)
    page = tmp_path / "README.md"
    page.write_text("Before\n\n<!-- bench: small -->\n\nold\n\n<!-- end -->\n\nafter\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "configs" / "bench").mkdir(parents=True)
    write(tmp_path / "configs" / "bench")
    names = script["stale"].__globals__
    monkeypatch.setitem(names, "ROOT", tmp_path)
    monkeypatch.setitem(names, "DATA", tmp_path / "data")
    assert script["main"]([str(folder.path)]) == 0
    text = page.read_text()
    assert text.startswith("Before\n\n<!-- bench: small -->")
    assert text.endswith("<!-- end -->\n\nafter\n")
    assert "| ParaFlow |" in text
    assert "old" not in text
    assert script["main"](["--check"]) == 0
    page.write_text(text.replace("| ParaFlow |", "| ParaFlow! |"))
    assert script["main"](["--check"]) == 1
    page.write_text(text)
    write(tmp_path / "configs" / "bench", run={**BENCH["run"], "grid": {"steps": 9}})
    assert script["main"](["--check"]) == 1
