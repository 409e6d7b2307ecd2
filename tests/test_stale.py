"""Figures in README and the documentation are those of the data that commands have written."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "data"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "examples" / f"{name}.py"))


def test_benches() -> None:
    """Every table that a bench has made, and no bench file has changed since."""
    script = example("bench_tables")
    assert list(script["stale"]()) == []
    assert ROOT / "README.md" in list(script["pages"]())


def test_does_it_help() -> None:
    assert (DATA / "does_it_help.md").read_text() == example("does_it_help")["text"]()


def test_device_curves(monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    rows = [json.loads(line) for line in (DATA / "device_curves.jsonl").read_text().splitlines()]
    assert (DATA / "device_curves.md").read_text() == example("device_tables")["markdown"](rows, "device_curves.png")


def test_iterations_at_an_equal_error(capsys: pytest.CaptureFixture[str]) -> None:
    example("iterations_table")["main"]([str(DATA / "iterations_at_error.jsonl")])
    assert capsys.readouterr().out == (DATA / "iterations_at_error.md").read_text()


def test_the_table_of_the_quasi_newton_page(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    example("method_table")["main"](DATA / "held_out.jsonl")
    assert capsys.readouterr().out == (DATA / "quasi_newton.md").read_text()


def test_the_table_of_the_benchmarks_page() -> None:
    rows = [json.loads(line) for line in (DATA / "iterations_at_error.jsonl").read_text().splitlines()]
    own = {
        (f"{row['iterations']:.1f}".removesuffix(".0"), f"{row['evaluations']:.1f}".removesuffix(".0"))
        for row in rows
        if (row["model"], row["steps"], row["guidance"], row["error"]) == ("digits-flow", 50, 3.0, 0.01)
    }
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    table = page[page.index("| solver | iterations |") : page.index("`python docs/examples/iterations_at_error.py")]
    lines = re.findall(r"^\| `?(\w.*?)`? *\|\s*([\d.]+) *\| *([\d.]+) *\|$", table, re.MULTILINE)
    assert len(lines) >= 9
    for name, iterations, evaluations in lines:
        if "50 steps" not in name:  # the sequential sampler itself
            assert (iterations.removesuffix(".0"), evaluations.removesuffix(".0")) in own, name


def test_scenes(tmp_path: Path) -> None:
    pytest.importorskip("paraflowkit_scenes")
    shutil.copy(DATA / "scenes.jsonl", tmp_path / "rows.jsonl")
    made = importlib.import_module("paraflowkit_scenes.evaluation.tables").tables(tmp_path)
    assert made == (DATA / "scenes.md").read_text()
