"""The bench files of the papers: valid, complete, with settings that runs accept and numbers as they are printed."""

from __future__ import annotations

import copy
import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from paraflowkit.bench.config import BenchConfig, load
from paraflowkit.config import COMPONENTS, RunConfig, loads
from paraflowkit.errors import ConfigError
from paraflowkit.noise import EDM, VP, FlowMatching
from paraflowkit.spacing import make_grid

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "bench"
#: Tables and figures of issue 8, and how many rows of the paper each file holds: 0 for a figure without numbers.
PAPERS = {
    "paraflow_t1": 8,
    "paraflow_t2": 4,
    "paraflow_t3": 8,
    "paraflow_t4": 6,
    "paraflow_t5": 5,
    "parasolver_t1": 15,
    "parasolver_t2": 2,  # of 9: the text has lost the table
    "parasolver_t3": 3,  # of 5: two have lost their M
    "parasolver_t4": 5,
    "parasolver_t5": 12,
    "parasolver_t6": 1,  # the table is lost, its caption is not
    "parasolver_fig1": 0,
    "turbo_t1": 20,
    "turbo_t2": 24,
    "turbo_t3": 18,
    "turbo_t4": 11,
    "turbo_t5": 12,
}
EQUATION = ("model", "stepper", "grid", "prediction", "requests")
AXES = {
    "grid.steps": "steps",
    "solver.tolerance": "tolerance",
    "window.size": "window",
    "solver.precondition": "M",
    "solver.subintervals": "N",
    "fabric.devices": "GPUs",
    "solver.degree": "ϱ",
}
NUMBERS = {
    "iterations": "",
    "evaluations": "",
    "clip_score": "",
    "fid": "",
    "seconds": "",
    "speedup": "×",
    "batch_per_device": "",
    "utilisation": " %",
}


def raw(name: str, loader: Any = yaml.SafeLoader) -> dict[str, Any]:
    return yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), loader)


def merged(file: dict[str, Any], method: dict[str, Any], at: dict[str, Any]) -> str:
    """The run of a method at a place as YAML, put together without the loader."""
    run = copy.deepcopy(file["run"])
    for section, value in copy.deepcopy(method).items():
        below = run.get(section)
        both = isinstance(below, dict) and isinstance(value, dict) and section not in COMPONENTS
        run[section] = {**below, **value} if both else value
    for axis, value in at.items():
        section, key = axis.split(".")
        below = run.get(section, {})
        run[section] = {**({"name": below} if isinstance(below, str) else below), key: value}
    return yaml.safe_dump(run, allow_unicode=True)


def places(file: dict[str, Any], method: dict[str, Any]) -> list[dict[str, Any]]:
    """Values of the axes that concern a method."""
    solver = method["solver"]
    name = solver if isinstance(solver, str) else solver["name"]
    sections = ("grid", "fabric") if name == "sequential" else ("grid", "fabric", "solver", "window")
    axes = {key: values for key, values in file.get("axes", {}).items() if key.split(".")[0] in sections}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


@cache
def shipped(name: str) -> BenchConfig:
    return load(FOLDER / f"{name}.yaml")


def test_every_table_and_figure_has_a_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"default", *PAPERS}


@pytest.mark.parametrize("name", ["default", *PAPERS])
def test_each_method_is_a_run_at_each_place(name: str) -> None:
    file, config = raw(name), shipped(name)
    expected: dict[str, list[tuple[dict[str, Any], RunConfig]]] = {}
    for label, method in file["methods"].items():
        expected[label] = [(at, loads(merged(file, method, at), name, base=FOLDER)) for at in places(file, method)]
    found = {label: [(s.at, s.config) for s in config.spots if s.method == label] for label in expected}
    assert found == expected
    assert config.settings.title
    assert config.settings.about
    assert config.settings.timing.repetitions == (5 if name == "default" else 3)


@pytest.mark.parametrize("name", ["default", *PAPERS])
def test_each_solver_has_a_sequential_row_of_its_equation(name: str) -> None:
    spots = shipped(name).spots
    plain = [[getattr(s.config, part) for part in EQUATION] for s in spots if s.sequential]
    for spot in spots:
        assert [getattr(spot.config, part) for part in EQUATION] in plain, spot.method


@pytest.mark.parametrize("name", ["default", *PAPERS])
def test_grids_can_be_made(name: str) -> None:
    processes = {"digits-flow": FlowMatching(), "digits-vp": VP()}
    for spot in shipped(name).spots:
        settings = spot.config.grid.model_dump(exclude_unset=True)
        assert make_grid(processes[spot.config.model.name], **settings).steps == settings["steps"]


def test_the_levels_of_turbo_t3_suit_the_papers_process() -> None:
    model = raw("turbo_t3")["paper_run"]["model"]
    process = EDM(sigma_min=model["sigma_min"], sigma_max=model["sigma_max"], sigma_data=model["sigma_data"])
    firsts: dict[str, float] = {}
    for spot in shipped("turbo_t3").spots:
        grid = make_grid(process, **spot.config.grid.model_dump(exclude_unset=True))
        firsts[spot.method] = float(grid.sigma[0])
        assert grid.steps == 13
    assert firsts["EDM"] == pytest.approx(80)
    assert firsts["VE"] == pytest.approx(100)
    # Karras et al., table 1: sigma = sqrt(exp(19.9 t² / 2 + 0.1 t) - 1) at t = 1.
    assert firsts["VP"] == pytest.approx(152.167, rel=1e-4)


@pytest.mark.parametrize("name", PAPERS)
def test_with_the_papers_model(name: str, tmp_path: Path) -> None:
    wanted = [f"run.{path}" for path in unset(raw(name)["paper_run"])]
    assert "run.model.folder" in wanted
    with pytest.raises(ConfigError) as caught:
        load(FOLDER / f"{name}.yaml", models="paper")
    for path in wanted:
        assert any(f"add {path}=" in message for message in caught.value.messages)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a fox in the snow", "seed": 0, "guidance": 7.0}\n', encoding="utf-8")
    values = {"run.model.folder": "somewhere", "run.requests": str(prompts)}
    config = load(FOLDER / f"{name}.yaml", [f"{path}={values.get(path, 1024)}" for path in wanted], models="paper")
    assert {spot.config.model.name for spot in config.spots} == {raw(name)["paper_run"]["model"]["name"]}
    assert {spot.config.fabric.accelerator for spot in config.spots} == {"auto"}
    assert [(s.method, s.at, s.config.solver, s.config.window, s.config.stepper) for s in config.spots] == [
        (s.method, s.at, s.config.solver, s.config.window, s.config.stepper) for s in shipped(name).spots
    ]


def unset(data: Any, path: str = "") -> list[str]:
    if isinstance(data, dict):
        return [found for key, value in data.items() for found in unset(value, f"{path}.{key}" if path else key)]
    return [path] if data == "???" else []


@pytest.mark.parametrize("name", ["parasolver_t5", "turbo_t2"])
def test_the_number_of_devices_can_be_given(name: str) -> None:
    config = load(FOLDER / f"{name}.yaml", ["axes.fabric.devices=[8]"])
    assert {spot.config.fabric.devices for spot in config.spots} == {8}


def test_published_settings() -> None:
    def settings(name: str, method: str, **at: Any) -> tuple[Any, Any]:
        (spot,) = [s for s in shipped(name).spots if s.method == method and s.at == at]
        return spot.config.solver.settings, spot.config.window.settings

    solver, window = settings("paraflow_t1", "Euler + ParaFlow", **{"grid.steps": 100})
    assert (solver.tolerance, solver.norm, window.size) == (0.005, "absolute", 8)
    assert settings("paraflow_t4", "2048 × 2048: Euler + ParaFlow")[0].tolerance == 0.0028
    assert settings("paraflow_t5", "Euler + ParaFlow", **{"window.size": 24})[0].tolerance == 0.01
    for method, tolerance in (("DDPM + ParaDiGMS, 1000", 0.5), ("DDPM + ParaSolver, 1000", 0.55)):
        assert settings("parasolver_t1", f"{method} steps")[0].tolerance == tolerance
    for method, tolerance in (("DDIM + ParaDiGMS, 50", 0.01), ("DPMSolver + ParaSolver, 25", 0.05)):
        assert settings("parasolver_t1", f"{method} steps")[0].tolerance == tolerance
    solver, window = settings("parasolver_t4", "DDIM + ParaSolver", **{"solver.subintervals": 15})
    assert (solver.tolerance, solver.precondition, solver.norm, window.size) == (0.005, 10, "sigma", 30)
    # ParaSolver-Turbo, appendix D, has another tolerance for ParaSolver than its own paper.
    assert settings("turbo_t1", "DDIM + ParaSolver, 50 steps")[0].tolerance == 0.01
    solver, window = settings("turbo_t1", "DDPM + ParaSolver-Turbo, 1000 steps")
    assert (solver.tolerance, solver.degree, solver.accept, window.size) == (0.5, 8, "all", 100)
    place = {"grid.steps": 50, "fabric.devices": 1}
    solver, window = settings("turbo_t2", "DDPM + ParaSolver-Turbo", **place)
    assert (solver.degree, window.size) == (8, 24)
    for process, tolerance in (("EDM", 0.01), ("VE", 0.1), ("VP", 0.01)):
        assert settings("turbo_t3", f"{process} + ParaSolver-Turbo", **{"solver.degree": 4})[0].tolerance == tolerance
    assert settings("turbo_t5", "DDIM + ParaSolver-Turbo, 50 steps")[0].tolerance == 0.003


@pytest.mark.parametrize(
    ("name", "method", "at", "numbers"),
    [
        ("paraflow_t1", "Euler + ParaFlow", {"grid.steps": "100"}, "26.47 211.78 32.37 51.62 5.55 3.3"),
        ("paraflow_t2", "Euler + ParaFlow", {"solver.tolerance": "0.01"}, "12.16 97.32 32.31 55.59 3.08 1.7"),
        ("paraflow_t3", "Euler + ParaFlow", {"grid.steps": "100"}, "23.49 187.95 32.40 55.28 22.16 4.0"),
        ("paraflow_t4", "2048 × 2048: Euler + ParaFlow", {}, "14.30 114.37 31.31 56.46 65.86 1.7"),
        ("paraflow_t5", "Euler + ParaFlow", {"window.size": "8"}, "15.44 123.51 32.16 52.58 5.58 4.3"),
        ("parasolver_t1", "DDPM, 1000 steps", {}, "1000 1000 25.6 55.9 128.01 1.0"),
        ("parasolver_t1", "DDPM + ParaSolver, 1000 steps", {}, "32 1065 25.6 55.3 15.9 8.1"),
        ("parasolver_t3", "DDPM + ParaSolver", {"solver.precondition": "10"}, "42 1066 12.7 4.1 12.1"),
        ("parasolver_t4", "DDIM + ParaSolver", {"solver.subintervals": "15"}, "15.2 0.9"),
        ("parasolver_t5", "DDPM + ParaDiGMS", {"fabric.devices": "4"}, "15.2 3.3"),
        ("turbo_t1", "DDPM + ParaSolver-Turbo, 1000 steps", {}, "32 195 25.6 55.7 3.2 40.0"),
        ("turbo_t2", "DDPM + ParaSolver-Turbo", {"grid.steps": "1000", "fabric.devices": "8"}, "43.7 1 19"),
        ("turbo_t3", "VP + ParaSolver-Turbo", {"solver.degree": "4"}, "12 35.8963"),
        ("turbo_t4", "DPMSolver + ParaSolver-Turbo", {"solver.degree": "15"}, "11 123 25.61 57.14 3.1"),
        ("turbo_t5", "DDPM + ParaSolver-Turbo, 1000 steps", {}, "42 196 12.7 1.0 50.0"),
    ],
)
def test_well_known_cells_are_as_printed(name: str, method: str, at: dict[str, str], numbers: str) -> None:
    rows = raw(name, yaml.BaseLoader)["paper"]["rows"]
    (row,) = [row for row in rows if row["method"] == method and row["at"] == at]
    assert " ".join(row[key] for key in NUMBERS if key in row) == numbers


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_numbers_fit_each_other(name: str) -> None:
    """Slips of copying: each row once, speedups that follow from seconds, evaluations that follow from iterations."""
    paper = shipped(name).settings.paper
    rows = [] if paper is None else paper.rows
    assert len(rows) == PAPERS[name]
    assert len({(row.method, str(row.at)) for row in rows}) == len(rows)
    plain = None
    for row in rows:
        figures = row.model_dump(exclude_none=True, exclude={"method", "at"})
        assert figures, row
        if row.speedup == 1.0 and row.seconds is not None:
            plain = row.seconds
        elif row.speedup is not None and row.seconds is not None and plain is not None:
            # The papers' own roundings: DDIM of 25 steps in table 1 of Turbo has 3.4 / 3.2 s and 1.2×.
            assert plain / row.seconds == pytest.approx(row.speedup, rel=0.13), row
        if name.startswith("paraflow") and row.evaluations != row.iterations:
            window = row.at.get("window.size", 8)
            assert row.iterations is not None
            assert row.evaluations == pytest.approx(window * row.iterations, rel=1e-3), row


def test_the_page_has_the_papers_numbers_and_a_place_for_ours() -> None:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert "\npapers\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    parts = re.split(r"^<!-- bench: (\w+) -->$", text, flags=re.MULTILINE)
    assert parts[1::2] == [*PAPERS][:5] + [f"parasolver_t{i}" for i in range(1, 7)] + ["parasolver_fig1"] + [
        f"turbo_t{i}" for i in range(1, 6)
    ]
    for before, name, after in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
        assert after.count("<!-- end -->") == 1, name
        assert "What differs:" in after.split("<!-- end -->")[1], name
        # What stands above the mark and below the one before is the paper's table.
        above = before.split("<!-- end -->")[-1].split("\n### ")[-1]
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in above.split("\n") if line[:1] == "|"]
        rows = raw(name, yaml.BaseLoader).get("paper", {"rows": []})["rows"]
        axes = [axis for axis in AXES if any(axis in row["at"] for row in rows)]
        numbers = [key for key in NUMBERS if any(key in row for row in rows)]
        shown = [
            [
                row["method"],
                *(row["at"].get(axis, "") for axis in axes),
                *(row[key] + NUMBERS[key] if key in row else "" for key in numbers),
            ]
            for row in rows
        ]
        assert lines[2:] == shown, name
        assert not rows or lines[0][1 : 1 + len(axes)] == [AXES[axis] for axis in axes], name
