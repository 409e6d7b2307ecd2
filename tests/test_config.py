"""Run files: every mistake gets one sentence with its place, all at once, before torch is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paraflowkit.config import COMPONENTS, SECTIONS, dump, load, loads
from paraflowkit.errors import ConfigError
from paraflowkit.requests import read_requests
from paraflowkit.schema import schema

ROOT = Path(__file__).parents[1]
GOOD = """\
model: digits-flow
requests:
  - classes: [3]
"""
FULL = """\
model:
  name: digits-flow
  folder: null
stepper:
  name: ddim
  eta: 0.5
solver:
  name: paraflow
  tolerance: 1e-3
  norm: sigma
  stride: printed
window:
  name: sliding
  size: 16
grid:
  steps: 25
  spacing: uniform
  shift: 3.0
requests:
- classes: [1, 2]
  seeds: [0, 7]
  count: 2
  guidance: 3.0
output:
  folder: out
  columns: 4
  upscale: 2
  images: true
  plot: false
fabric:
  accelerator: cpu
  devices: 1
  strategy: auto
  precision: 32-true
run:
  batch: 4
  max_rows: 64
  dtype: float64
  nonfinite: sequential
  max_sweeps: 30
  compare: true
"""


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "run.yaml", overrides)
    return caught.value.messages


def test_defaults() -> None:
    config = loads(GOOD)
    assert (config.stepper.name, config.solver.name, config.window.name) == ("euler", "auto", "sliding")
    assert loads(f"{GOOD}\nwindow: {{size: 4}}\n").solver.name == "lattice"
    assert config.grid.steps == 50
    assert config.solver.settings.model_dump()["error"] == 1e-2


def test_a_window_that_the_solver_would_not_heed_is_refused() -> None:
    (told,) = problems(f"{GOOD}\nsolver: auto\nwindow: {{size: 16}}\n")
    assert re.match(r"run\.yaml:\d+:\d+: window: solver auto chooses its window itself: leave .* such as lattice", told)
    written = dump(loads(GOOD))  # which names the usual window
    assert loads(written) == loads(GOOD)


def test_a_wanted_error_takes_the_place_of_the_files_tolerance() -> None:
    held = f"{GOOD}\nsolver: {{name: lattice, tolerance: 1e-3}}\n"
    assert loads(held, "run.yaml", ["solver.error=1e-2"]).solver.settings.model_dump()["error"] == 1e-2
    given = loads(held.replace("tolerance", "error"), "run.yaml", ["solver.tolerance=0"]).solver.settings.model_dump()
    assert (given["error"], given["tolerance"]) == (None, 0)


def test_full_file_and_round_trip() -> None:
    config = loads(FULL)
    assert config.solver.settings.model_dump()["tolerance"] == 1e-3  # PyYAML reads 1e-3 as text
    assert loads(dump(config)) == config
    wanted = [(r.class_id, r.seed, r.guidance) for r in read_requests(config)]
    assert wanted == [(c, s, 3.0) for s in (0, 1, 7, 8) for c in (1, 2)]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 2000),
    tolerance=st.floats(0, 10, allow_nan=False),
    size=st.integers(1, 99),
    seeds=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4),
    folder=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Co", "Cf", "Zl", "Zp"]),
        min_size=1,
        max_size=20,
    ),
)
def test_round_trip_of_any_values(steps: int, tolerance: float, size: int, seeds: list[int], folder: str) -> None:
    overrides = [
        f"grid.steps={steps}",
        f"solver.tolerance={tolerance}",
        f"window.size={size}",
        f"requests.0.seeds={seeds}",
        f"output.folder={json.dumps(folder, ensure_ascii=False)}",
    ]
    config = loads(GOOD, overrides=overrides)
    assert config.output.folder == folder
    assert loads(dump(config)) == config


def _every_key() -> list[tuple[int, str]]:
    found = []
    for number, line in enumerate(FULL.splitlines(), 1):
        key = line.strip().removeprefix("- ").split(":")[0]
        found.append((number, key))
    return found


@pytest.mark.parametrize(("number", "key"), _every_key())
def test_each_key_misspelt_is_named_with_its_place(number: int, key: str) -> None:
    lines = FULL.splitlines()
    wrong = key + "x"
    lines[number - 1] = lines[number - 1].replace(key, wrong, 1)
    column = lines[number - 1].index(wrong) + 1
    messages = problems("\n".join(lines))
    if key == "name":  # without a name a component falls back to its default, and the key itself is unknown
        assert any(f"run.yaml:{number}:{column}" in m or "needs the name of a model" in m for m in messages)
        return
    assert any(m.startswith(f"run.yaml:{number}:{column}: ") and f"Did you mean {key!r}?" in m for m in messages)


def test_everything_wrong_is_told_at_once() -> None:
    messages = problems(FULL.replace("size: 16", "siez: 16").replace("steps: 25", "steps: eight"), "run.batch=0")
    assert messages == [
        "override 'run.batch=0': run.batch: must be at least 1, got 0.",
        "run.yaml:14:3: window.siez: unknown setting. Did you mean 'size'?",
        "run.yaml:16:10: grid.steps: expects a whole number, got 'eight'.",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 25", "steps: true", "grid.steps: expects a whole number, got true."),
        ("steps: 25", "steps: 2.5", "grid.steps: expects a whole number, got 2.5."),
        ("steps: 25", "steps: 0", "grid.steps: must be at least 1, got 0."),
        ("shift: 3.0", "shift: .nan", "grid.shift: expects a finite number, got nan."),
        ("shift: 3.0", "shift: 0", "grid.shift: must be more than 0, got 0."),
        ("spacing: uniform", "spacing: unifrm", "Did you mean 'uniform'?"),
        ("spacing: uniform", "spacing: karras", "got 'karras'. 'karras' is a value of 'shape'."),
        ("spacing: uniform", "spacing: [1]", "grid.spacing: expects 'uniform', 'leading', 'trailing' or 'linspace'"),
        ("shift: 3.0", "shift: 3.0\n  image_tokens: 64", "grid: 'shift' and 'image_tokens' both shift the times"),
        ("shift: 3.0", "sigmas: [.nan]", "grid.sigmas.0: expects a finite number, got nan."),
        ("shift: 3.0", "sigmas: [1, -1]", "grid.sigmas.1: must be at least 0, got -1."),
        ("compare: true", "compare: maybe", "run.compare: expects true or false, got 'maybe'."),
        ("folder: out", "folder: 5", "output.folder: expects text, got 5."),
        ("seeds: [0, 7]", "seeds: 3", "requests.0.seeds: expects a list, got 3."),
        ("seeds: [0, 7]", "seeds: []", "requests.0.seeds: must not be empty."),
        ("seeds: [0, 7]", "seeds: [0, x]", "requests.0.seeds.1: expects a whole number, got 'x'."),
        ("classes: [1, 2]", "classes: []", "requests.0.classes: must not be empty."),
        ("count: 2", "prompts: [a]", "has both 'classes' and 'prompts'"),
        ("name: paraflow", "name: paraflwo", "unknown solver 'paraflwo'. Did you mean 'paraflow'? Installed:"),
        ("name: paraflow", "name: 5", "needs the name of a solver"),
        ("eta: 0.5", "eta: 2", "stepper.eta: must be at most 1, got 2."),
        ("eta: 0.5", "size: 2", "'size' is a setting of 'window'."),
        ("eta: 0.5", "zzz: 2", "Known: eta, name."),
        ("steps: 25", "steps: 25\n  steps: 26", "the key stands twice (first in line 16): remove one."),
        ("steps: 25", "steps: !!python/object:os.system 1", "is not allowed: write plain text"),
        ("steps: 25", "steps: [25", "this is not valid YAML:"),
        ("  steps: 25", "  [1]: 25", "a key must be plain text."),
    ],
)
def test_mistakes(old: str, new: str, message: str) -> None:
    found = problems(FULL.replace(old, new, 1))
    assert any(message in m for m in found), found
    assert all(m.startswith("run.yaml:") for m in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.yaml: the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- 1\n", "must be a mapping of sections"),
        ("requests: [{}]\n", "the section 'model' is missing. Installed:"),
        ("model: digits-flow\n", "the section 'requests' is missing or empty."),
        ("model: digits-flow\nrequests: []\n", "expects a list of groups"),
        ("model: digits-flow\nrequests: a.txt\n", "must be a .jsonl or .csv file"),
        ("model: digits-flow\nrequests: a.csv\n", "there is no file 'a.csv'"),
        ("model: digits-flow\nrequests: [3]\n", "requests.0: expects a mapping of settings, got 3."),
        (GOOD + "run: 5\n", "run: expects a mapping of settings, got 5."),
        (GOOD + "windwo: 5\n", "windwo: unknown section. Did you mean 'window'?"),
        (GOOD + "prediction: {threshold_max: 2}\n", "prediction: 'threshold_max' belongs to 'threshold': give both."),
        (GOOD + "prediction: {clip: 1, threshold: 0.9}\n", "both limit the data prediction: give one of them."),
        (GOOD + "steps: 5\n", "'steps' is a setting of 'grid'."),
    ],
)
def test_ill_files(text: str, message: str) -> None:
    assert message in problems(text)[0]


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "no.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="not a text file"):
        load(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "solver=paraflw",
            "override 'solver=paraflw': solver: unknown solver 'paraflw'. Did you mean 'paraflow'?",
        ),
        ("windw.size=3", "override 'windw.size=3': windw: unknown section. Did you mean 'window'?"),
        ("requests=x.txt", "override 'requests=x.txt': requests: 'x.txt' must be a .jsonl or .csv file."),
        ("window=8", "override 'window=8': window: needs the name of a window, got 8: adaptive, "),
        ("window=8", "; a setting of it is written window.SETTING=VALUE."),
        ("solver.tol=1", "override 'solver.tol=1': solver.tol: unknown setting. Did you mean 'tolerance'?"),
        ("solver", "write it as section.key=value"),
        ("=3", "write it as section.key=value"),
        ("grid.steps=[", "the value is not valid YAML"),
        ("grid.steps=x", "expects a whole number, got 'x'"),
        ("requests.4.seeds=[1]", "requests.4 has no settings"),
        ("nonsense.key=1", "unknown section"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    assert message in problems(GOOD, override)[0]


def test_overrides() -> None:
    config = loads(GOOD, overrides=["solver.tolerance=-0", "window.size=16", "stepper=ddim", "stepper.eta=1"])
    assert config.stepper.settings.model_dump() == {"eta": 1.0}
    assert config.window.settings.model_dump() == {"size": 16}
    assert loads(GOOD, overrides=["requests.0.classes.0=7"]).requests[0].classes == [7]  # type: ignore[index]


def test_request_files(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"class": 3, "seed": 1, "guidance": 2}\n\n{"class": 4}\n')
    (tmp_path / "r.csv").write_text("class,seed,guidance\n3,1,2\n4,,\n")
    for name in ("r.jsonl", "r.csv"):
        config = loads(GOOD.split("requests")[0] + f"requests: {name}\n", base=tmp_path)
        assert [(r.class_id, r.seed, r.guidance) for r in read_requests(config)] == [(3, 1, 2.0), (4, 0, 1.0)]
        assert loads(dump(config)) == config


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        (
            "r.jsonl",
            '{"clas": 3}\n{"class": "x"}\n{\n3\n',
            [":1: clas: unknown", ":2: class:", ":3:2: ", ":4: expects"],
        ),
        ("r.csv", "class,sed\n3,1\n", [":2: sed: unknown setting. Did you mean 'seed'?"]),
        ("r.csv", "class\n3,1\n", [":2: the line has more cells"]),
        ("r.csv", "class\n", ["holds no requests"]),
    ],
)
def test_ill_request_files(tmp_path: Path, name: str, text: str, messages: list[str]) -> None:
    (tmp_path / name).write_text(text)
    config = loads(GOOD.split("requests")[0] + f"requests: {name}\n", base=tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_requests(config)
    for message in messages:
        assert any(message in m for m in caught.value.messages), caught.value.messages


def test_schema_covers_every_section_and_plugin() -> None:
    found = schema()
    assert set(found["properties"]) == {*COMPONENTS, *SECTIONS, "requests"}
    solver = found["$defs"]["solver.paraflow"]
    assert solver["properties"]["name"] == {"const": "paraflow"}
    assert solver["additionalProperties"] is False
    assert {"$ref": "#/$defs/solver.paraflow"} in found["properties"]["solver"]["anyOf"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert read_requests(load(path))


def test_a_typo_stops_the_run_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(FULL.replace("tolerance", "tolerence"))
    code = (
        "import sys, paraflowkit\n"
        "from paraflowkit.config import load\n"
        "try:\n    load('run.yaml')\n"
        "except Exception as error:\n    print(error)\n"
        "from paraflowkit.schema import schema; schema()\n"
        "print(sorted({'torch', 'lightning', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == ("run.yaml:9:3: solver.tolerence: unknown setting. Did you mean 'tolerance'?\n[]\n"), (
        done.stderr
    )
