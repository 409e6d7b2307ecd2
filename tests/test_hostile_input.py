"""Run files and request files that nobody should write: each gets one sentence, never a traceback."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paraflowkit.config import dump, loads
from paraflowkit.errors import ConfigError
from paraflowkit.requests import read_requests

GOOD = """\
model: digits-flow
requests:
  - classes: [3]
"""


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "run.yaml", overrides)
    return caught.value.messages


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2026-13-45", "output.folder: '2026-13-45' is not valid here"),
        ("!!int x", "output.folder: 'x' is not valid here"),
        ("!!bool x", "output.folder: 'x' is not valid here"),
        ("!!timestamp x", "output.folder: 'x' is not valid here"),
        ("a\x07", "run.yaml:5:12: the character U+0007 is not allowed."),
        ("&a [*a]", "an alias refers to itself"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("!!python/object:os.x {a: 3}", "is not allowed: write plain text"),
        ("!!python/object/apply:os.system [ls]", "is not allowed: write plain text"),
    ],
)
def test_hostile_values_get_a_sentence(value: str, message: str) -> None:
    assert any(message in m for m in problems(GOOD + f"output:\n  folder: {value}\n"))


def test_a_truth_value_is_no_number_in_a_list() -> None:
    found = problems(GOOD.replace("[3]", "[3, yes]"))
    assert found == ["run.yaml:3:18: requests.0.classes.1: expects a whole number, got true."]


@pytest.mark.parametrize(
    "override", ["output.folder=2026-13-45", "output.folder=[" + "[" * 3000, "requests.².seeds=[1]"]
)
def test_hostile_overrides_get_a_sentence(override: str) -> None:
    assert problems(GOOD, override)[0].startswith(f"override {override!r}: ")


@settings(max_examples=150, deadline=None)
@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_round_trip_of_any_prompt(prompt: str) -> None:
    config = loads("model: digits-flow\nrequests: [{prompts: [x]}]\n")
    assert isinstance(config.requests, tuple)
    config = replace(config, requests=(config.requests[0].model_copy(update={"prompts": [prompt]}),))
    assert loads(dump(config)) == config


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("r.csv", "class,class\n1,2\n", ":1: class: the column stands twice"),
        ("r.csv", "prompt\n" + "x" * 200_000 + "\n", "this is not valid CSV"),
        ("r.jsonl", '{"class": true}\n', ":1: class: expects a value, got true."),
        ("r.jsonl", "[" * 100_000, ":1: this is too large or nested too deeply."),
        ("r.jsonl", '{"seed": ' + "1" * 5000 + "}", ":1: this is too large or nested too deeply."),
    ],
)
def test_hostile_request_files_get_a_sentence(tmp_path: Path, name: str, data: str, message: str) -> None:
    (tmp_path / name).write_text(data)
    config = loads(f"model: digits-flow\nrequests: {name}\n", base=tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_requests(config)


def test_request_files_of_spreadsheets_and_of_json_dumps(tmp_path: Path) -> None:
    """A byte-order mark is skipped; U+2028 inside a JSON text is no end of line."""
    (tmp_path / "r.csv").write_bytes("\ufeffclass,seed\r\n3,1\r\n".encode())
    (tmp_path / "r.jsonl").write_text('{"prompt": "a\u2028b"}\n', encoding="utf-8")
    read = [read_requests(loads(f"model: digits-flow\nrequests: {n}\n", base=tmp_path)) for n in ("r.csv", "r.jsonl")]
    assert (read[0][0].class_id, read[0][0].seed, read[1][0].prompt) == (3, 1, "a\u2028b")
