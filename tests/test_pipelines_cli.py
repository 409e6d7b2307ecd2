"""The list of tested pipelines."""

from __future__ import annotations

from typer.testing import CliRunner

from paraflowkit.cli import app


def test_tested_pipelines_are_listed() -> None:
    shown = CliRunner().invoke(app, ["pipelines", "DiTPipeline"])
    assert shown.exit_code == 0
    assert "DiTPipeline" in shown.output
    assert "Tested with diffusers" in shown.output


def test_an_unknown_pipeline_gets_a_sentence() -> None:
    shown = CliRunner().invoke(app, ["pipelines", "Nope"])
    assert shown.exit_code == 2
    assert "No tested pipeline's name holds 'Nope'" in shown.output
