"""On a GPU: the same samples in as many iterations as on a CPU, and what only a GPU has."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from problems import exact_solvers, make_solver, make_stepper, mixture, problem, sequential, sliding

from paraflowkit.bench.command import run as run_bench
from paraflowkit.bench.config import load as load_bench
from paraflowkit.config import loads
from paraflowkit.fabric.predict import Prediction, predict
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import WEIGHTS, DigitsFlow
from paraflowkit.models.digits.pipeline import DigitsPipeline
from paraflowkit.pipelines import enable
from paraflowkit.solution import relative_rmse
from paraflowkit.solve import solve

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SAMPLERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "euler": ("flow", "euler", {}),
    "flow-sde": ("flow", "flow-sde", {}),
    "heun": ("ve", "heun", {}),
    "edm": ("ve", "edm", {}),
    "ddpm": ("vp", "ddpm", {}),
    "dpm-3": ("vp", "dpm-solver", {"order": 3}),
    "unipc": ("vp", "unipc", {"order": 3}),
    "lms": ("ve", "lms", {}),
    "clipped": ("vp", "clipped-ddim", {"clip": 2.0}),
}
#: Error of a float32 network, without and with cuDNN's TF32, which torch uses for convolutions unless told not to.
ROUNDING = {False: 1e-5, True: 1e-3}
DIGITS = "model: digits-flow\ngrid: {steps: 20}\nrequests: [{classes: [0, 1, 2, 3], guidance: 3}]\n"


@pytest.mark.parametrize("name", [*exact_solvers(), "auto"])
@pytest.mark.parametrize("where", SAMPLERS)
def test_tolerance_zero_is_sequential(name: str, where: str) -> None:
    if (name, where) == ("parataa", "clipped"):
        pytest.skip("needs an affine sampler")
    process, stepper, settings = SAMPLERS[where]
    solver = make_solver("auto", tolerance=0.0) if name == "auto" else exact_solvers()[name]
    model = mixture(process)
    there = problem(copy.deepcopy(model).to("cuda"), make_stepper(stepper, **settings), 12, 3, 3.0, device="cuda")
    found = solve(there, solver, sliding(5), trajectory=True)
    assert found.ok
    assert found.stats.sweeps <= there.steps
    assert found.stats.peak_bytes > 0
    assert found.x.device.type == "cuda"
    own = sequential(there)
    torch.testing.assert_close(found.trajectory, own.trajectory, rtol=1e-8, atol=1e-8)
    here = sequential(problem(model, make_stepper(stepper, **settings), 12, 3, 3.0))
    torch.testing.assert_close(own.x.cpu(), here.x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", exact_solvers())
@pytest.mark.parametrize("where", ["euler", "ddpm", "heun"])
def test_iterations_are_those_of_a_cpu(name: str, where: str) -> None:
    process, stepper, settings = SAMPLERS[where]
    model, rule, solver = mixture(process), make_stepper(stepper, **settings), make_solver(name, tolerance=1e-3)
    here = solve(problem(model, rule, 24, 4, 2.0), solver, sliding(8)).stats
    there = solve(problem(model.to("cuda"), rule, 24, 4, 2.0, device="cuda"), solver, sliding(8)).stats
    assert (there.sweeps, there.rows) == (here.sweeps, here.rows)
    assert there.sample_iterations.tolist() == here.sample_iterations.tolist()
    assert 0 < there.model_seconds < there.seconds


def ran(folder: Path, accelerator: str, *overrides: str, save: bool = False) -> Prediction:
    wanted = [f"output.folder={folder}", f"fabric.accelerator={accelerator}", *overrides]
    return predict(loads(DIGITS, overrides=wanted), save=save)


@pytest.fixture
def tf32(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param)
    return request.param


@pytest.mark.parametrize("tf32", [False, True], indirect=True)
def test_a_run_draws_what_a_cpu_draws(tmp_path: Path, tf32: bool) -> None:
    settings = ("solver=paraflow", "solver.tolerance=0", "run.compare=true")
    here = ran(tmp_path, "cpu", *settings)
    there = ran(tmp_path, "cuda", *settings, save=True)
    assert float(relative_rmse(there.samples, here.samples).max()) < 5 * ROUNDING[tf32]
    assert there.samples.device.type == "cpu"
    assert there.summary.worst_rmse is not None
    assert there.summary.worst_rmse < ROUNDING[tf32]
    assert (tmp_path / "convergence.png").is_file()


@pytest.mark.filterwarnings("ignore:.*precision:UserWarning")
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_half_precisions(tmp_path: Path, precision: str) -> None:
    made = ran(tmp_path, "cuda", f"fabric.precision={precision}", "solver=lattice", "run.compare=true")
    assert all(row["result"] == "converged" for row in made.rows)
    assert made.summary.worst_rmse is not None
    assert made.summary.worst_rmse < 0.1


def test_memory_that_does_not_suffice_makes_smaller_calls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Wide(DigitsFlow):
        """Holds 64 MiB for each row while it is called."""

        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
            held = torch.empty(len(x), 1 << 26, dtype=torch.uint8, device=x.device)
            out = super().forward(x, t, cond)
            del held
            return out

    config = loads(DIGITS, overrides=["fabric.accelerator=cuda", "solver=paraflow", "window.size=8"])
    plain = predict(config, save=False)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(30 * (1 << 26) / total)
    try:
        made = predict(config, model=Wide(DigitsConfig()), save=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = [record.getMessage() for record in caplog.records if record.module == "evaluator"]
    assert said
    assert "too small for" in said[0]
    assert float(relative_rmse(made.samples, plain.samples).max()) < 1e-3


def test_a_window_that_fits_the_memory(tmp_path: Path) -> None:
    made = ran(tmp_path, "cuda", "solver=lattice", "window=fit")
    assert all(row["result"] == "converged" for row in made.rows)
    assert made.summary.iterations < 20


@pytest.mark.slow  # the compiler
@pytest.mark.filterwarnings("ignore")
def test_compiled_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config as compiler

    monkeypatch.setattr(compiler, "compile_threads", 1)  # no processes that outlive the test
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_PTXAS_PATH"):  # the compiler sets them
        monkeypatch.setenv(name, str(tmp_path / "compiled"))
    monkeypatch.delenv("TRITON_PTXAS_PATH")
    settings = ("solver=paraflow", "solver.tolerance=1e-3", "window.size=4", "grid.steps=8")
    made = ran(tmp_path, "cuda", "fabric.compile=true", *settings)
    plain = ran(tmp_path, "cuda", *settings)
    assert made.summary.compile_seconds > 0
    assert float(relative_rmse(made.samples, plain.samples).max()) < 1e-3


@pytest.mark.parametrize("tolerance", [0.0, 1e-2])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("tf32", [False, True], indirect=True)
def test_pipelines(tolerance: float, where: str, tf32: bool) -> None:
    """With a generator on either device, whose state ends where a plain call leaves it."""
    pipe = DigitsPipeline.from_pretrained(WEIGHTS / "digits-flow").to("cuda")
    pipe.set_progress_bar_config(disable=True)

    def draw() -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(1)
        generator = torch.Generator(where).manual_seed(4)
        images = pipe([3, 5], 30, guidance_scale=3.0, generator=generator, output_type="latent")
        return images[0], [generator.get_state(), torch.get_rng_state(), torch.cuda.get_rng_state()]

    plain, ends = draw()
    with enable(pipe, window=8, tolerance=tolerance):
        parallel, after = draw()
        stats = pipe.paraflow_stats
    assert stats.refused is None
    assert all(torch.equal(one, two) for one, two in zip(ends, after, strict=True))
    assert float((parallel - plain).square().mean().sqrt()) <= (tolerance or ROUNDING[tf32])
    assert stats.sequential <= (30 if tolerance == 0 else 20)


def moved(node: Any) -> Any:
    """A call's arguments, on the GPU."""
    if isinstance(node, torch.Tensor):
        return node.to("cuda")
    if isinstance(node, dict):
        return {key: moved(value) for key, value in node.items()}
    return type(node)(map(moved, node)) if type(node) in (list, tuple) else node


def drawn(pipe: Any, each: zoo.Entry) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return zoo.output(pipe(**moved(each.call(each.prompts[0])), generator=torch.Generator("cuda").manual_seed(3)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_zoo_at_tolerance_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pipeline of each family of diffusers, as tests/test_pipelines.py has it on the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    seen: set[str] = set()
    refused: set[str] = set()
    for name, each in zoo.load().items():
        if each.family in seen:
            continue
        seen.add(each.family)
        pipe = each.build().to("cuda")

        plain = drawn(pipe, each)
        with enable(pipe, window=3, tolerance=0.0):
            parallel = drawn(pipe, each)
            if pipe.paraflow_stats.refused is not None:
                refused.add(name)
        assert float((parallel - plain).abs().max()) <= 1e-4 * max(float(plain.abs().max()), 1e-9), name
    assert len(seen) > 30
    assert refused <= {
        "TextToVideoZeroPipeline",
        "CosmosTextToWorldPipeline",
        "HiDreamImagePipeline",
        "GlmImagePipeline",
    }


BENCH = """
title: On a GPU
run:
  model: digits-flow
  grid: {steps: 8}
  requests: [{classes: [1, 2], guidance: 3}]
methods: {one: {solver: sequential}, two: {solver: paraflow, window: {name: sliding, size: 4}}}
errors: [0.05]
metrics: {features: digits, references: digits}
"""


def test_a_bench_counts_what_it_counts_on_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(BENCH)
    found: list[dict[str, Any]] = []
    for accelerator in ("cpu", "cuda"):
        made = run_bench(load_bench(path, [f"run.fabric.accelerator={accelerator}"]), tmp_path / accelerator, log=quiet)
        rows = [json.loads(line) for line in (made.path / "rows.jsonl").read_text().splitlines()]
        found.append({row["key"]: row for row in rows if "iterations" in row})
    here, there = found
    assert list(here) == list(there)
    assert {row["kind"] for row in here.values()} == {"given", "error"}
    for key, row in here.items():
        assert there[key]["iterations"] == row["iterations"]
        assert there[key]["fid"] == pytest.approx(row["fid"], rel=1e-3)


def quiet(line: str) -> None:
    """The bench's progress, to nobody."""
