"""The predict loop and the command line, on the shipped networks and the mixture."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from paraflowkit.cli import app
from paraflowkit.config import RunConfig, load, loads
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.predict import predict
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import WEIGHTS, DigitsFlow, DigitsVP
from paraflowkit.models.digits.classifier import DigitsClassifier, agreement
from paraflowkit.prediction import Prediction
from paraflowkit.report.images import to_grid, to_image
from paraflowkit.solution import relative_rmse
from paraflowkit.solvers.paraflow import ParaFlow

ROOT = Path(__file__).parents[1]
DIGITS = "model: digits-flow\ngrid: {steps: 8}\nrequests: [{classes: [0, 1, 2], guidance: 3}]\n"
MIXTURE = "model: gaussian-mixture\ngrid: {steps: 8}\nrequests: [{classes: [0, 1], count: 2, guidance: 2}]\n"


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    made = Fabric(accelerator="cpu", devices=1)
    made.launch()
    return made


def config(text: str, folder: Path, *overrides: str) -> RunConfig:
    return loads(text, overrides=[f"output.folder={folder}", *overrides])


def test_files_of_a_run(tmp_path: Path, fabric: Fabric) -> None:
    seen: list[tuple[int, int]] = []
    run = config(DIGITS, tmp_path / "run", "run.compare=true", "run.batch=2", "output.upscale=2")
    made = predict(run, fabric, on_sweep=lambda batch, batches, info: seen.append((batch, batches)))
    assert {b for b, _ in seen} == {0, 1}
    folder = made.folder
    assert folder is not None
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("0000.png", "0001.png", "0002.png", "grid.png", "convergence.png"),
        *("config.yaml", "manifest.json", "results.jsonl", "samples.safetensors", "summary.json"),
    }
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert rows == made.rows
    assert [row["class"] for row in rows] == [0, 1, 2]
    assert all(
        row["result"] == "converged" and row["rmse"] < 0.1 and row["sequential_evaluations"] == 8 for row in rows
    )
    assert torch.equal(load_file(folder / "samples.safetensors")["samples"], made.samples)
    with Image.open(folder / "0001.png") as image:
        assert image.size == (32, 32)
        shown = torch.tensor(list(image.get_flattened_data()), dtype=torch.float64).view(32, 32)[::2, ::2]
    wanted = ((made.samples[1, 0].double().clamp(-1, 1) + 1) * 127.5).round()
    assert torch.equal(shown, wanted)
    again = load(folder / "config.yaml")
    assert again == run
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["samples"] == 3
    assert summary["sequential"]["iterations"] == 8
    assert summary["verdict"].startswith(("Faster here", "Slower here", "As fast here"))
    # The same run again keeps the first one.
    assert predict(again, fabric).folder == tmp_path / "run-2"


def test_tolerance_zero_is_the_sequential_sample(tmp_path: Path, fabric: Fabric) -> None:
    run = config(MIXTURE, tmp_path / "m", "solver.tolerance=0", "run.dtype=float64", "run.compare=true")
    made = predict(run, fabric)
    assert made.summary.worst_rmse is not None
    assert made.summary.worst_rmse < 1e-10
    assert made.samples.dtype == torch.float64
    assert not list((tmp_path / "m").glob("0*.png"))  # a mixture is no image


def test_batching_and_saving_change_no_sample(tmp_path: Path, fabric: Fabric) -> None:
    one = predict(config(MIXTURE, tmp_path / "x", "run.batch=1"), fabric, save=False)
    four = predict(config(MIXTURE, tmp_path / "x", "run.batch=4"), fabric, save=False)
    torch.testing.assert_close(one.samples, four.samples)
    assert one.folder is None
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (DIGITS, ["requests.0.classes=[11]"], "Class 11 does not exist: the digits are 0 … 9"),
        (DIGITS.replace("classes: [0, 1, 2]", "prompts: [a cat]"), [], "understand 'classes', not 'prompts'"),
        (DIGITS, ["grid.spacing=leading"], "use 'uniform'"),
        (DIGITS, ["model=digits-vp", "stepper=flow-heun"], "use heun"),
        (DIGITS, ["model=digits-vp", "stepper=lms", "grid.steps=2000"], "more than the 1000"),
        (DIGITS, ["model=digits-vp", "stepper=ddim", "grid.shift=3"], "'shift' is a setting of flow-matching grids"),
        (DIGITS, ["model=digits-vp", "grid.image_tokens=64"], "'image_tokens' is a setting of flow-matching grids"),
        (DIGITS, ["model=digits-vp", "grid.sigmas=[200, 1]", "grid.steps=2"], "leave the process, which has"),
        (DIGITS, ["model=digits-vp", "stepper={name: ddpm, variance: learned}"], "which the network does not predict"),
        (DIGITS, ["model.folder=/nonexistent"], "is no folder of a trained digits network"),
        (MIXTURE, ["model.process=vp", "model.prediction=velocity", "stepper=ddim"], "has no velocity"),
        (
            MIXTURE,
            ["solver=parasolver", "solver.subintervals=100"],
            "solver parasolver: 100 subintervals do not fit",
        ),
        (
            MIXTURE,
            ["window=fit", "window.rows=3"],
            "window fit: a call may have 3 rows",
        ),
        (MIXTURE, ["window=fit", "run.max_rows=2"], "a call may have 2 rows"),
        (MIXTURE, ["window=fit", "window.memory=1e-9"], "make run.batch smaller, or window.memory larger"),
    ],
)
def test_pieces_that_do_not_fit(tmp_path: Path, fabric: Fabric, text: str, overrides: list[str], words: str) -> None:
    with pytest.raises(ParaflowkitError, match=words):
        predict(config(text, tmp_path / "x", *overrides), fabric)
    assert not (tmp_path / "x").exists()


def test_a_window_that_fits_is_measured_once_and_outside_the_figures(tmp_path: Path, fabric: Fabric) -> None:
    run = config(MIXTURE, tmp_path / "x", "window=fit", "window.memory=0.01", "run.batch=1", "solver.tolerance=0")
    made = predict(run, fabric, save=False)
    assert made.summary.evaluations > 8  # the window is not one step
    assert made.summary.calls == sum(stats.iterations for stats in made.summary.stats)


@pytest.mark.parametrize(
    "overrides",
    [
        ["stepper=heun", "grid.convention=euler", "grid.spacing=linspace"],
        ["stepper=dpm-solver", "stepper.order=3", "grid.shape=beta", "grid.convention=dpm", "prediction.clip=1"],
        ["stepper=clipped-ddim", "stepper.threshold=0.9", "stepper.eta=0.5", "solver=paradigms"],
        ["stepper=unipc", "grid.times=[999, 700, 400, 100]", "grid.steps=4", "prediction.threshold=0.95"],
        ["stepper=edm", "stepper.s_churn=2", "grid.convention=euler", "grid.shape=karras", "grid.sigma_max=20"],
        ["model=digits-flow", "stepper=flow-sde", "grid.image_tokens=1024", "prediction.guidance_rescale=0.5"],
        ["model=digits-flow", "stepper=dpm-solver-singlestep", "grid.spacing=linspace", "grid.shift=3"],
    ],
)
def test_samplers_and_grids_of_run_files(tmp_path: Path, fabric: Fabric, overrides: list[str]) -> None:
    """At tolerance 0 each of them gives its own sequential samples, and those look like what was asked for."""
    chosen = [] if "model=digits-flow" in overrides else ["model=digits-vp"]
    wanted = [*chosen, "run.compare=true", *overrides, "solver.tolerance=0"]
    made = predict(config(DIGITS, tmp_path / "x", *wanted), fabric, save=False)
    assert made.summary.rmse is not None
    # A float32 network gives other last digits for other numbers of rows, which multistep methods amplify.
    assert made.summary.rmse < 1e-3
    assert float(made.samples.abs().max()) < 2


class NeedsTable(ParaFlow):
    needs_table = True


def test_a_sampler_without_a_table_is_refused_before_anything_is_written(tmp_path: Path, fabric: Fabric) -> None:
    text = "model: digits-vp\ngrid: {steps: 4}\nrequests: [{classes: [0]}]\nstepper: {name: clipped-ddim, clip: 1}\n"
    run = config(text, tmp_path / "x", f"solver={__name__}:NeedsTable")
    with pytest.raises(ParaflowkitError, match="needs the coefficients of an affine sampler"):
        predict(run, fabric)
    assert not (tmp_path / "x").exists()


def test_the_wrong_network_folder_is_refused(tmp_path: Path, fabric: Fabric) -> None:
    run = config(DIGITS, tmp_path / "x", f"model.folder={WEIGHTS / 'digits-vp'}")
    with pytest.raises(ParaflowkitError, match="use the other digits model"):
        predict(run, fabric)


def test_a_folder_says_what_its_network_predicts(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(WEIGHTS / "digits-vp", folder)
    path = folder / "scheduler" / "scheduler_config.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}))
    model = DigitsVP(DigitsConfig(folder=str(folder)))
    assert model.prediction is Prediction.V
    assert float(model.noise.alpha(torch.tensor([999.0]))) == 0.0
    path.write_text(json.dumps({**plain, "trained_betas": [0.1]}))
    with pytest.raises(ParaflowkitError, match="trained_betas is not supported"):
        DigitsVP(DigitsConfig(folder=str(folder)))


def test_a_strategy_that_cannot_share_a_solve_is_refused(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(fabric), "world_size", property(lambda self: 2))
    with pytest.raises(ParaflowkitError, match=r"SingleDeviceStrategy cannot share a solve .* use MeshStrategy"):
        predict(config(MIXTURE, tmp_path / "x"), fabric)


@pytest.mark.parametrize(
    "fault", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_call_that_exhausts_the_memory_is_halved(
    tmp_path: Path, fabric: Fabric, caplog: pytest.LogCaptureFixture, fault: RuntimeError
) -> None:
    class Small(DigitsVP):
        most = 100

        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
            if len(x) > self.most:
                raise fault
            return super().forward(x, t, cond)

    run = config(DIGITS, tmp_path / "run", "model=digits-vp", "stepper=ddim", "grid.steps=6")
    model = Small(DigitsConfig())
    plain = predict(run, fabric, model=model, save=False)
    assert "memory" not in caplog.text
    model.most = 5
    made = predict(run, fabric, model=model, save=False)
    # On a busy machine the pace may be told as well.
    said = [record.getMessage() for record in caplog.records if record.module == "evaluator"]
    assert said
    words = r"The memory of cpu is too small for \d+ rows in a call: going on with \d+\..*"
    assert all(re.fullmatch(words, sentence) for sentence in said)
    assert len(said) <= 4  # each halves, and is said once
    assert float(relative_rmse(made.samples, plain.samples).max()) < 1e-5
    model.most = 0
    with pytest.raises(ParaflowkitError, match="too small for a single row"):
        predict(run, fabric, model=model, save=False)


def test_times_are_not_rounded_by_a_half_precision() -> None:
    from paraflowkit.fabric.evaluator import Evaluator
    from paraflowkit.spacing import make_grid

    half = Fabric(accelerator="cpu", devices=1, precision="bf16-true")
    half.launch()
    model = DigitsFlow(DigitsConfig())
    seen: list[torch.Tensor] = []
    model.unet.register_forward_pre_hook(lambda _, args: seen.append((args[0].dtype, args[1])))  # type: ignore[arg-type]
    grid = make_grid(model.noise, 1000)
    evaluate = Evaluator(half, model, grid.t, torch.float32)
    # The network counts its times down from 1000, where two neighbours are nearer than bfloat16 can tell.
    out = evaluate(torch.zeros(50, 1, 16, 16), torch.arange(50), None)
    assert out.dtype == torch.float32
    dtype, times = seen[0]
    assert dtype == torch.bfloat16
    assert times.dtype == torch.float32
    assert len(times.unique()) == 50
    assert len(times.bfloat16().unique()) < 50


@pytest.mark.parametrize("process", ["flow", pytest.param("vp", marks=pytest.mark.slow)])
def test_shipped_networks_draw_what_is_asked(process: str, fabric: Fabric, tmp_path: Path) -> None:
    """The whole path: 50 samples at guidance 3, and the shipped classifier sees the wanted digit in 97 %."""
    stepper = "euler" if process == "flow" else "ddim"
    run = config(
        DIGITS,
        tmp_path,
        f"model=digits-{process}",
        f"stepper={stepper}",
        "grid.steps=20",
        "requests.0.classes=[0,1,2,3,4,5,6,7,8,9]",
        "requests.0.count=5",
        "run.batch=50",
        "solver=sequential",
    )
    made = predict(run, fabric, save=False)
    classes = torch.tensor([row["class"] for row in made.rows])
    assert agreement(made.samples, classes) >= 0.97


def test_weights_are_small_safe_and_described() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}
    for name in ("digits-flow", "digits-vp", "digits-classifier"):
        card = (WEIGHTS / name / "README.md").read_text()
        assert "Measured:" in card
        assert "seed" in card or name == "digits-classifier"


def test_the_classifier_knows_images_that_it_has_not_seen() -> None:
    from paraflowkit.models.digits.data import DATA_STD, load_digits

    (images, labels), (held, _) = load_digits()
    assert agreement(images, labels, DigitsClassifier.shipped()) > 0.98
    assert float(images.std()) == pytest.approx(DATA_STD, abs=5e-3)
    assert len(images) + len(held) == 1797


def test_training_runs_on_fabric_and_is_reproducible(tmp_path: Path, fabric: Fabric) -> None:
    from paraflowkit.models.digits.train import TrainSettings, train

    losses = []
    for process in ("flow", "vp", "flow"):
        folder = tmp_path / f"{process}-{len(losses)}"
        settings: Any = TrainSettings(process=process, steps=3, batch=8)
        losses.append(train(fabric, settings, folder, log=lambda line: None))
    assert losses[0] == losses[2]
    cls = {"flow": DigitsFlow, "vp": DigitsVP}
    for name in ("flow-0", "vp-1"):
        cls[name.split("-")[0]](DigitsConfig(folder=str(tmp_path / name)))


def test_images() -> None:
    grid = to_grid(torch.zeros(5, 3, 4, 4), columns=2, upscale=2, gap=1)
    assert grid.size == (2 * 9 + 1, 3 * 9 + 1)
    with pytest.raises(ValueError, match="An image has shape"):
        to_image(torch.zeros(2, 4, 4))


# --- the command line ---------------------------------------------------------------------------------------------


def test_cli_predict(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MIXTURE)
    done = CliRunner().invoke(
        app, ["predict", "-c", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "out"), "--compare", "window.size=4"]
    )
    assert done.exit_code == 0, done.output
    assert "sequential network calls" in done.output
    assert "relative RMSE" in done.output
    assert (tmp_path / "out" / "results.jsonl").read_text().count("\n") == 4


def test_cli_mistakes_exit_2_with_sentences(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MIXTURE + "windwo: 3\n")
    for arguments, words in (
        (["-c", str(tmp_path / "run.yaml")], "Did you mean 'window'?"),
        (["-c", str(tmp_path / "none.yaml")], "there is no such file"),
        (["-c", str(ROOT / "configs" / "mixture.yaml"), "grid.steps=x"], "expects a whole number"),
    ):
        done = CliRunner().invoke(app, ["predict", *arguments])
        assert done.exit_code == 2
        assert words in done.stderr
        assert "Traceback" not in done.output


def test_cli_lists_and_schema() -> None:
    done = CliRunner().invoke(app, ["plugins"])
    assert done.exit_code == 0
    assert "paradigms" in done.output
    assert CliRunner().invoke(app, ["plugins", "--check"]).exit_code == 0
    done = CliRunner().invoke(app, ["schema"])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(done.output, parse_constant=refuse)["title"] == "paraflowkit run"


def test_help_needs_no_torch_and_little_time() -> None:
    code = (
        "import sys, time\n"
        "import paraflowkit\n"
        "from paraflowkit.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'lightning', 'diffusers', 'numpy'} & set(sys.modules)\n"
        "print(time.process_time())\n"
    )
    spent = []
    for _ in range(3):  # the best of three: the bound is on the work, not on the machine's mood
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        spent.append(float(done.stdout.splitlines()[-1]))
    assert min(spent) < 0.6, spent


#: Those of networks that do not ship are run with tiny folders in test_adapters_runs.py.
#: scenes_sd3.yaml is what the first command of the README runs, and its plugin has tests of its own.
SHIPPED = [
    p
    for p in sorted((ROOT / "configs").glob("*.yaml"))
    if not re.search("name: diffusers-|model: scenes-", p.read_text())
]


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_configs_run(path: Path, tmp_path: Path, fabric: Fabric) -> None:
    shipped = load(path, [f"output.folder={tmp_path / 'run'}"])
    assert isinstance(shipped.requests, tuple)
    group = shipped.requests[0]
    few = group.model_copy(update={"classes": group.classes and group.classes[:4], "seeds": group.seeds[:1]})
    made = predict(dataclasses.replace(shipped, requests=(few,)), fabric)  # all that they ask for take minutes
    assert made.summary.failed == 0
    assert made.summary.rmse is not None
    assert made.summary.rmse < 2e-2


@pytest.mark.slow
def test_paraflow_meets_its_published_strength() -> None:
    """N = 50, guidance 3, window 8: at most 13 mean iterations at relative RMSE 1e-2, here over 8 samples."""
    script = ROOT / "docs" / "examples" / "iterations_at_error.py"
    command = ["--cells", "lead", "--solvers", "paraflow", "--errors", "1e-2", "--no-baseline", "--samples", "8"]
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['main'](sys.argv[2:])[0]['iterations'])"
    whole = [sys.executable, "-c", code, str(script), *command]
    done = subprocess.run(whole, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) <= 13
