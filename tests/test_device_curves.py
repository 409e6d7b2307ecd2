"""The example that measures network calls and sweeps on a device: tiny networks on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
TINY = ["tiny-digits", "tiny-sd2", "tiny-sd3-medium", "tiny-flux"]
CPU = torch.device("cpu")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    import device_curves

    return device_curves


@pytest.fixture
def networks(example: Any) -> Any:
    import device_networks

    return device_networks


@pytest.fixture
def tables(example: Any) -> Any:
    import device_tables

    return device_tables


def command(out: Path, *more: str) -> list[str]:
    return ["--device", "cpu", "--steps", "5", "--sweeps", "2", "--repeat", "1", "--out", str(out), *more]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd2", 865.9e6), ("sd3-medium", 2.028e9), ("sd3-medium-64", 2.028e9), ("flux", 11.90e9), ("flux-64", 11.90e9)],
)
def test_published_sizes(networks: Any, name: str, parameters: float) -> None:
    """Parameters of the published models, counted without memory."""
    a = networks.ARCHITECTURES[name]
    network = networks.make_network(a, torch.device("meta"), torch.bfloat16)
    assert {t.device.type for t in [*network.parameters(), *network.buffers()]} == {"meta"}
    assert {t.dtype for t in network.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=1e-3)
    model = networks.Untrained(network, a, name)
    assert model.shape == (4 if name == "sd2" else 16, a.size, a.size)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_the_command_at_tiny_size(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and sweeps of every family, a file that is gone on with, tables and a plot."""
    out = tmp_path / "data" / "curves.jsonl"
    run = command(out, "--networks", *TINY, "--rows", "1", "2", "4", "--windows", "3")
    rows = example.main([*run, "--tables"])
    assert rows == [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["network"] for r in rows] == [name for name in TINY for _ in range(4)]
    assert [r["rows"] for r in rows if r["what"] == "call"] == [1, 2, 4] * 4
    assert all(r["seconds"] > 0 and r["first_seconds"] > 0 and r["repeat"] == 1 for r in rows)
    solves = [r for r in rows if r["what"] == "solve"]
    # Whole windows in every sweep; a guided state is two rows, and Flux is not guided.
    assert [r["rows"] for r in solves] == [6, 6, 6, 3]
    for r in solves:
        assert r["network_seconds"] + r["rest_seconds"] == pytest.approx(r["seconds"])
        assert 0 < r["rest_share"] < 1

    before = out.read_text()
    with monkeypatch.context() as m:
        m.setattr(example, "Loaded", None)  # nothing is built where nothing is missing
        assert example.main(run) == rows
    assert out.read_text() == before
    text = out.with_suffix(".md").read_text()
    ratio = rows[2]["seconds"] / rows[0]["seconds"]
    line = next(line for line in text.splitlines() if line.startswith("| tiny-digits, float32 | 0.018 M | 1×16×16"))
    assert line.split(" | ")[5] == f"{ratio:.1f}"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(example.main([*run, "--windows", "2", "3", "--networks", "tiny-flux"])) == len(rows) + 1


def test_the_shipped_network_in_bfloat16(networks: Any) -> None:
    """Weights are converted and times are not: two times that are one in bfloat16 give different outputs."""
    made = networks.Loaded("digits", CPU, torch.bfloat16, 1000)
    p = made.problem
    assert {t.dtype for t in made.model.parameters()} == {torch.bfloat16}
    node = torch.tensor([500, 501])
    times = p.nodes.t[node]
    assert times.bfloat16()[0] == times.bfloat16()[1]
    seen: list[torch.Tensor] = []
    made.networks["eager"].register_forward_pre_hook(lambda _module, given: seen.append(given[1]))
    out = p.evaluate(p.x0.repeat(2, 1, 1, 1), node, p.cond.repeat(2))
    assert out.dtype == p.x0.dtype == torch.float32
    torch.testing.assert_close(seen[0].double(), 1000 * (1 - times), rtol=1e-6, atol=0)


@pytest.mark.slow
def test_compiled_networks(networks: Any) -> None:
    """One compilation for each number of rows, the same outputs, and none for the rows of a solve that were called."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    made = networks.Loaded("tiny-digits", CPU, torch.float32, 5)
    p = made.problem
    with networks.many_shapes(), torch.no_grad():
        made.compile(counter)
        for rows, compilations in ((1, 1), (2, 2), (2, 2), (4, 3)):
            given = (p.x0.repeat(rows, 1, 1, 1), torch.full((rows,), 2), p.cond.repeat(rows))
            made.use("eager")
            wanted = p.evaluate(*given)
            made.use("compiled")
            torch.testing.assert_close(p.evaluate(*given), wanted)
            assert counter.frame_count == compilations
        sample = torch.zeros(2, dtype=torch.int64)
        p.output(p.x0.repeat(2, 1, 1, 1), torch.tensor([0, 1]), sample)  # guided: four rows
        assert counter.frame_count == 3


@pytest.mark.slow
def test_compiled_rows(example: Any, tmp_path: Path) -> None:
    """What was measured without compiling is kept, and its compiled like is added."""
    out = tmp_path / "curves.jsonl"
    run = command(out, "--networks", "tiny-digits", "--rows", "1", "--windows")
    (eager,) = example.main(run)
    first, compiled = example.main([*run, "--compile", "--backend", "eager"])
    assert first == eager
    assert (compiled["mode"], compiled["backend"], compiled["rows"]) == ("compiled", "eager", 1)


def test_memory_that_is_too_small(example: Any, tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call that does not fit is recorded, larger ones are not tried, and smaller ones are measured."""
    tried: list[int] = []
    inner = example.Loaded

    def small(*arguments: Any) -> Any:
        made = inner(*arguments)

        def check(_module: Any, given: Any) -> None:
            tried.append(len(given[0]))
            if len(given[0]) > 2:
                raise torch.OutOfMemoryError("out of memory")

        made.networks["eager"].register_forward_pre_hook(check)
        return made

    monkeypatch.setattr(example, "Loaded", small)
    out = tmp_path / "curves.jsonl"
    run = command(out, "--networks", "tiny-digits", "--rows", "1", "2", "4", "8", "--windows", "1", "2", "3")
    rows = example.main(run)
    assert max(tried) == 4
    calls = {r["rows"]: r.get("exhausted", False) for r in rows if r["what"] == "call"}
    assert calls == {4: True, 1: False, 2: False}
    assert {r["window"]: r.get("exhausted", False) for r in rows if r["what"] == "solve"} == {2: True, 1: False}
    monkeypatch.setattr(example, "Loaded", None)
    assert example.main(run) == rows
    call, *solves = [x for x in tables.markdown(rows, "").splitlines() if x.startswith("| tiny-digits")]
    assert call.count("too large") == 1
    assert "| 2 |  | too large |" in solves[1]


def test_a_network_that_does_not_fit_at_all(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(example, "Loaded", full)
    out = tmp_path / "curves.jsonl"
    rows = example.main(command(out, "--networks", "flux", "--rows", "1", "2", "--windows", "2"))
    assert [(r["what"], r["exhausted"]) for r in rows] == [("call", True), ("solve", True)]
    example.main(["--networks", "--out", str(out), "--tables"])
    assert "| flux, float32 |  |  | too large |" in out.with_suffix(".md").read_text()


def test_what_fails_is_said_and_the_rest_is_measured(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: Any, **_more: Any) -> Any:
        raise ValueError("no such thing\nand more")

    monkeypatch.setattr(example, "solve", refuse)
    out = tmp_path / "curves.jsonl"
    with pytest.raises(SystemExit):
        example.main(command(out, "--networks", "tiny-digits", "--rows", "1", "--windows", "2"))
    assert "tiny-digits, eager, window 2: ValueError: no such thing\n" in capsys.readouterr().err
    assert [json.loads(line)["what"] for line in out.read_text().splitlines()] == ["call"]


def test_what_calls_mean_for_a_solve(tables: Any) -> None:
    """Against numbers worked out by hand."""
    curve = {b: {"seconds": s} for b, s in {1: 1.0, 2: 1.5, 8: 3.0, 16: 5.0}.items()}
    solve = {"steps": 50, "window": 8, "stepper": "euler", "guidance": 7.5, "rows": 16.0}
    known = {
        ("paraflow", "euler", 50, 3.0, 8): (12.0, 96.0),  # 16 rows a call
        ("paraflow", "euler", 50, 1.0, 8): (10.0, 80.0),
        ("lattice", "euler", 50, 3.0, 8): (7.5, 45.0),  # 12 rows a call, halfway between 3 and 5 seconds
    }
    assert tables.gains(solve, curve, known) == pytest.approx([15.0, 75 / 60, 75 / 30])
    alone = {**solve, "guidance": 1.0, "rows": 8.0}
    assert tables.gains(alone, curve, known) == [pytest.approx(50 / 3), pytest.approx(5 / 3), None]
    assert tables.gains({**solve, "window": 9}, curve, known) == [pytest.approx(15.0), None, None]
    assert tables.gains({**solve, "rows": 32.0}, curve, known) == [None, None, None]
    found = tables.digits_iterations()
    assert all(("paraflow", "euler", 50, g, w) in found for g in (1.0, 3.0) for w in (8, 16))
    assert all(1 < found[name, "euler", 50, 3.0, 8][0] < 50 for name in ("paraflow", "lattice"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cpu", "--tables"], "--tables needs --out FILE"),
        (["--device", "cpu", "--networks", "--tables", "--out", "nowhere.jsonl"], "one that is there"),
        (["--device", "cpu", "--rows", "0"], "must be at least 1"),
        (["--device", "cpu", "--steps", "20"], "use --steps 21 or more"),
        (["--device", "cpu", "--compile", "--backend", "nothing"], "has no backend 'nothing'"),
    ],
)
def test_bad_arguments(example: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert words in capsys.readouterr().err
