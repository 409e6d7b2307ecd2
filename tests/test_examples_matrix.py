"""The examples that write docs/exactness.md and the table of iterations at an equal error."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from paraflowkit import registry

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(scope="module")
def matrix() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "exactness_matrix.py"))


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "iterations_at_error.py"))


def check(found: dict[tuple[str, str], Any]) -> None:
    """Exact within rounding, in at most N sweeps, and only the pairs that cannot be are refused."""
    for (stepper, solver), one in found.items():
        if stepper.startswith("clipped-ddim") and registry.get("solver", solver.split(",")[0]).needs_table:
            assert "affine" in one.refused
            continue
        multistep = stepper.split(",")[0] in ("dpm-solver", "unipc", "lms")  # of order 1 they can be cut
        if solver == "parasolver,subintervals=4" and multistep and one.refused is not None:
            assert "look back" in one.refused
            continue
        assert one.refused is None
        assert one.processes, f"{stepper} ran nowhere"
        assert one.solves >= 4 * len(one.processes)
        assert one.difference < 1e-9, f"{solver} with {stepper}: {one.difference}"
        assert 0 < one.sweeps <= 1, f"{solver} with {stepper}: {one.sweeps}"


def test_a_part_of_the_exactness_matrix(matrix: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "exactness.md"
    solvers = ["parataa", "parasolver,subintervals=4,inner=parallel", "parasolver-turbo,degree=2"]
    steppers = ["dpm-solver,order=2", "clipped-ddim,clip=1.0"]
    found = matrix["main"](
        ["--solvers", *solvers, "--steppers", *steppers, "--processes", "vp", "flow", "--write", str(page)]
    )
    check(found)
    assert found["dpm-solver,order=2", "parataa"].processes == ["vp", "flow"]
    assert found["clipped-ddim,clip=1.0", "parasolver,subintervals=4,inner=parallel"].processes == ["vp"]
    lines = page.read_text().splitlines()
    assert sum(line.startswith("| `clipped-ddim,clip=1.0` | vp | refused |") for line in lines) == 2


def test_the_matrix_sees_an_error(matrix: dict[str, Any]) -> None:
    """A solve that is not exact, and one that did not end, are told apart from exact ones."""
    p = matrix["problems"]("euler", "flow")[0]
    exact = matrix["solve"](
        p, matrix["component"]("solver", "sequential"), matrix["component"]("window", "sliding,size=1"), trajectory=True
    ).trajectory
    found = matrix["Found"]()
    matrix["compare"](found, p, matrix["component"]("solver", "paraflow,tolerance=0.1"), 5, exact)
    assert found.difference > 1e-6
    matrix["compare"](found, p, matrix["component"]("solver", "paraflow,tolerance=0.1"), 5, exact * float("nan"))
    assert found.difference == float("inf")


def test_the_matrix_covers_what_is_installed(matrix: dict[str, Any]) -> None:
    for kind, listed in (("stepper", matrix["STEPPERS"]), ("solver", [*matrix["SOLVERS"], "sequential"])):
        core = {entry.name for entry in registry.entries(kind) if entry.distribution == "paraflowkit"}
        core -= {
            name for name in core if kind == "solver" and registry.get(kind, name).clocked
        }  # no solve is another's
        assert {spec.split(",")[0] for spec in listed} == core


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_the_exactness_matrix(matrix: dict[str, Any], part: int) -> None:
    """A quarter of its pairs on one process each: all that the page has takes minutes."""
    solvers = (matrix["SOLVERS"] + matrix["plugins"]())[part::4]
    steppers = matrix["STEPPERS"][part % 2 :: 2]
    found = matrix["main"](["--processes", "vp", "--solvers", *solvers, "--steppers", *steppers])
    elsewhere = {stepper for (stepper, _), one in found.items() if not one.processes and one.refused is None}
    if elsewhere:
        found |= matrix["main"](["--processes", "ve", "--solvers", *solvers, "--steppers", *sorted(elsewhere)])
    assert len(found) == len(steppers) * len(solvers)
    check(found)


def test_unknown_names_are_told(matrix: dict[str, Any], benchmark: dict[str, Any]) -> None:
    for example in (matrix, benchmark):
        with pytest.raises(SystemExit):
            example["main"](["--solvers", "nosuch"])


def test_rows_are_appended_kept_and_shown(
    benchmark: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    command = ["--cells", "smoke", "--samples", "2", "--errors", "0.05", "--out", str(out), "--solvers", "paraflow"]
    rows = benchmark["main"](command)
    ours, *others = sorted(rows, key=lambda row: row["solver"] != "paraflow")
    assert ours["met"]
    assert ours["mean"] <= 0.05
    assert 1 < ours["iterations"] < 10
    assert {row["solver"] for row in others} == {f"fewer steps: {name}" for name in benchmark["FEWER"]["euler"]}
    euler = next(row for row in others if row["solver"] == "fewer steps: euler")
    assert euler["met"]
    assert euler["taken"] == euler["iterations"] < 10
    written = out.read_text()
    assert [json.loads(line) for line in written.splitlines()] == rows
    benchmark["main"](command)
    assert out.read_text() == written
    capsys.readouterr()
    runpy.run_path(str(EXAMPLES / "iterations_table.py"))["main"]([str(out)])
    shown = capsys.readouterr().out
    assert f"| paraflow | 4 | **{ours['iterations']:.1f}** / {ours['evaluations']:.1f}" in shown
    assert "| fewer sequential steps |" in shown


@pytest.mark.slow
def test_warm_starts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / "warm_starts.py"))["main"](["--samples", "2", "--errors", "0.01"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 18
    found = {(row[0], row[1], row[2]): float(row[3].split(" / ")[0]) for row in rows}
    assert found["secant", "50", "guidance 2.8"] < found["secant", "50", "the solver's own"]
