"""The evaluation command, on tiny networks with random weights: what it measures, keeps, draws and prints."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from paraflowkit.errors import ParaflowkitError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers and lightning warn of their own parts while they are imported
    for module in (
        "diffusers.models.transformers.transformer_sd3",
        "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
        "lightning.fabric",
    ):
        importlib.import_module(module)

from paraflowkit_scenes.check import check
from paraflowkit_scenes.detector import Detector
from paraflowkit_scenes.evaluation import sampling
from paraflowkit_scenes.evaluation.__main__ import main
from paraflowkit_scenes.evaluation.cells import SOLVERS, Cell, digest, guidance_cells, read_rows, solver_cells, spread
from paraflowkit_scenes.evaluation.measures import FIELDS, REFERENCE, Measures, accuracy, drawn, levels
from paraflowkit_scenes.evaluation.pictures import GREEN, PAPER, RED, Shown, comparison, font, grid, wrap
from paraflowkit_scenes.evaluation.run import Progress
from paraflowkit_scenes.evaluation.sampling import Samples
from paraflowkit_scenes.sample import prompts
from paraflowkit_scenes.training import flow
from paraflowkit_scenes.training.assemble import make_pipeline
from paraflowkit_scenes.training.clip import make_clip, save
from paraflowkit_scenes.training.text import make_tokenizer
from paraflowkit_scenes.training.vae import make_vae

torch.set_num_threads(1)
SCENES = prompts()
SMALL = {"num_layers": 1, "num_attention_heads": 1, "caption_projection_dim": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of untrained networks, the transformer smaller than the shipped one."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setitem(flow.ARCHITECTURE, name, value)
        torch.manual_seed(0)
        painter = flow.Painter(make_tokenizer())
    pipe = make_pipeline(make_vae(), painter.transformer, painter.text_encoder, painter.text_encoder_2, 3.0)
    pipe.save_pretrained(folder / "scenes-sd3")
    Detector().save_pretrained(folder / "scenes-detector")
    save(make_clip(make_tokenizer()), folder / "scenes-clip")
    return folder


@pytest.fixture(scope="module")
def done(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole, small evaluation."""
    out = tmp_path_factory.mktemp("evaluation")
    assert main(options(out, weights)) == 0
    return out


def options(out: Path, weights: Path, *more: str) -> list[str]:
    small = {
        "prompts": [4],
        "guidances": [1, 3],
        "guidance-steps": [2],
        "steps": [3, 4],
        "references": [20],
        "batch": [3],
    }
    words = [word for name, values in small.items() for word in (f"--{name}", *map(str, values))]
    return ["--out", str(out), "--weights", str(weights), *words, "--solvers", "parasolver", "paraflow", *more]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that are painted."""
    made: list[Cell] = []
    paint = sampling.Painter.paint

    def counting(self: sampling.Painter, cell: Cell, told: sampling.Told = lambda share: None) -> Samples:
        made.append(cell)
        return paint(self, cell, told)

    monkeypatch.setattr(sampling.Painter, "paint", counting)
    return made


def by_part(folder: Path) -> dict[str, list[dict[str, object]]]:
    made: dict[str, list[dict[str, object]]] = {}
    for row in read_rows(folder / "rows.jsonl"):
        made.setdefault(row["part"], []).append(row)
    return made


def test_every_cell_has_one_row(done: Path, weights: Path) -> None:
    rows = by_part(done)
    assert {part: len(own) for part, own in rows.items()} == {"bounds": 2, "guidance": 2, "solvers": 6, "exact": 2}
    for row in rows["guidance"] + rows["solvers"] + rows["bounds"]:
        assert row["images"] == 4
        assert row["weights"] == digest(weights)
        assert set(row["accuracy"]["all"]) == {"prompts", *FIELDS}  # type: ignore[index]
        assert sum(row["accuracy"].get(n, {}).get("prompts", 0) for n in "123") == 4  # type: ignore[attr-defined]
    for row in rows["solvers"]:
        assert 1 < row["iterations"] <= row["steps"] <= row["evaluations"]  # type: ignore[operator]
        assert (row["solver"] == "sequential") == ("rmse" not in row)
    assert (done / "grid.png").stat().st_size > 1000
    assert (done / "solvers.png").stat().st_size > 1000


def test_tolerance_zero_is_the_sequential_sample(done: Path) -> None:
    for row in by_part(done)["exact"]:
        assert row["settings"]["tolerance"] == 0  # type: ignore[index]
        assert row["worst_rmse"] < 1e-5  # type: ignore[operator]
        assert row["largest_level"] <= 1  # type: ignore[operator]


def test_samples_have_the_noise_of_their_prompt(done: Path) -> None:
    """What a row says is what its file of samples says; other prompts beside it change no sample."""
    row = next(r for r in by_part(done)["solvers"] if r["solver"] == "paraflow" and r["steps"] == 4)
    plain = next(r for r in by_part(done)["solvers"] if r["solver"] == "sequential" and r["steps"] == 4)
    ours, theirs = (Samples.load(done / str(r["samples"])) for r in (row, plain))
    assert ours.indices.tolist() == theirs.indices.tolist() == [0, 125, 250, 375]
    errors = (ours.x.double() - theirs.x.double()).flatten(1).square().mean(1).sqrt()
    assert float(errors.max()) == pytest.approx(row["worst_rmse"], rel=1e-6)
    few = theirs.of([375, 0])
    assert torch.equal(few.x, theirs.x[[3, 0]])


def test_rows_are_resumed_not_repeated(
    done: Path, weights: Path, counted: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "rows.jsonl").read_text()
    assert main(options(done, weights)) == 0
    assert counted == []
    assert (done / "rows.jsonl").read_text() == before
    assert "10 of 10 rows" in capsys.readouterr().err


def test_a_row_that_is_lost_is_measured_again(
    done: Path, weights: Path, counted: list[Cell], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one whose samples are gone, since errors of other rows are measured against them."""
    out = tmp_path / "copy"
    (out / "samples").mkdir(parents=True)
    for path in (done / "samples").iterdir():
        (out / "samples" / path.name).write_bytes(path.read_bytes())
    lines = (done / "rows.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    lost = next(i for i, r in enumerate(rows) if r["part"] == "guidance" and r["guidance"] == 3)
    gone = next(i for i, r in enumerate(rows) if r["solver"] == "sequential" and r["steps"] == 3)
    (out / rows[gone]["samples"]).unlink()
    (out / "rows.jsonl").write_text("".join(line for i, line in enumerate(lines) if i != lost))
    assert main(options(out, weights, "--part", "guidance")) == 0
    assert [(cell.part, cell.guidance) for cell in counted] == [("guidance", 3.0)]
    again = next(r for r in read_rows(out / "rows.jsonl") if r["part"] == "guidance" and r["guidance"] == 3)
    same = set(again) - {"seconds"}
    assert {k: again[k] for k in same} == {k: rows[lost][k] for k in same}
    counted.clear()
    assert main(options(out, weights, "--part", "solvers")) == 0
    assert [(cell.solver, cell.steps) for cell in counted] == [("sequential", 3)]
    assert main(["--tables", str(out)]) == 0
    shown = capsys.readouterr().out
    assert main(["--tables", str(done)]) == 0
    assert capsys.readouterr().out == shown  # no row stands twice


def test_tables_are_deterministic(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tables", str(done)]) == 0
    first = capsys.readouterr().out
    lines = (done / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(reversed(lines)))
    assert main(["--tables", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first
    assert first.count("### ") == 4  # guidance, two N, tolerance 0
    row = next(r for r in by_part(done)["solvers"] if r["solver"] == "paraflow" and r["steps"] == 3)
    cells = [f"{row['iterations']:.1f}", f"{row['evaluations']:.1f}", f"{row['rmse']:.1e}", f"{row['worst_rmse']:.1e}"]
    assert "| paraflow | 0.005 absolute | 8 | " + " | ".join(cells) in first
    for line in first.splitlines():
        if line.startswith("| sampler"):
            head = line.count("|")
        elif line.startswith("| paraflow |") and "absolute" in line:
            assert line.count("|") == head


def test_tables_need_no_torch(done: Path) -> None:
    code = (
        "import sys; from paraflowkit_scenes.evaluation.__main__ import main; "
        f"assert main(['--tables', {str(done)!r}]) == 0; assert 'torch' not in sys.modules"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--out", "OUT", "--weights", "OUT"], "holds no scenes-sd3/model_index.json: give the folder"),
        (["--tables", "OUT"], "rows.jsonl: cannot be read"),
        (["--tables", "BROKEN"], "rows.jsonl:2: this is no row of an evaluation; delete the line."),
        (["--tables", "EMPTY"], "there are no rows yet"),
    ],
)
def test_wrong_folders_get_one_sentence(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("BROKEN", '\n{"part": "solvers"}\n'), ("EMPTY", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(text)
    made = [str(tmp_path / word) if word.isupper() else word for word in given]
    assert main(made) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "OUT").exists()


def test_nothing_to_draw_and_broken_weights_get_one_sentence(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(tmp_path / "out", weights, "--part", "grid")) == 2
    assert "run --part guidance or solvers" in capsys.readouterr().err
    (tmp_path / "scenes-detector").mkdir()
    (tmp_path / "scenes-detector" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ParaflowkitError, match="scenes-detector cannot be loaded"):
        Measures(tmp_path, SCENES, 4)


@pytest.mark.parametrize("wrong", [["--prompts", "1"], ["--guidance", "nan"], ["--steps", "0"], ["--part", "grids"]])
def test_wrong_numbers_are_refused(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), *wrong])
    assert f"argument {wrong[0]}" in capsys.readouterr().err


def test_fid_is_the_distance_of_two_gaussians(weights: Path) -> None:
    """0 of a set to itself; else by the formula, with scipy's square root of a matrix."""
    scenes = SCENES[::5]
    measures = Measures(weights, scenes, 200)
    assert measures.distance(drawn(scenes, 200, REFERENCE)) < 1e-4
    images = drawn(scenes, 150, 7) * 0.6
    made = measures.distance(images)

    def moments(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            features = measures.detector(images)["features"].double().numpy()
        return features.mean(0), np.cov(features, rowvar=False)

    (mean, cov), (other, cov2) = moments(drawn(scenes, 200, REFERENCE)), moments(images)
    # sqrtm of a product of singular matrices is ill-conditioned; the symmetric form has the same trace.
    half = scipy.linalg.sqrtm(cov).real
    root = np.sqrt(np.clip(np.linalg.eigvalsh(half @ cov2 @ half), 0, None)).sum()
    wanted = ((mean - other) ** 2).sum() + np.trace(cov) + np.trace(cov2) - 2 * root
    assert made > 1e-3
    assert made == pytest.approx(wanted, rel=1e-4)
    assert measures.distance(images) == made  # what was measured before leaves nothing behind


def test_a_drawn_picture_depends_on_its_seed_and_number_alone() -> None:
    scenes = SCENES[:3]
    seven = drawn(scenes, 7, REFERENCE)
    assert torch.equal(seven[:4], drawn(scenes, 4, REFERENCE))
    assert not torch.equal(seven[0], seven[3])  # another picture of the same scene
    assert not torch.equal(seven[0], drawn(scenes, 1, REFERENCE + 1)[0])
    assert torch.equal(levels(seven), seven)
    assert seven.shape == (7, 3, 64, 64)


def test_accuracy_counts_by_number_of_things() -> None:
    scenes = [SCENES[i] for i in (0, 1, 250, 450)]
    torch.manual_seed(0)
    verdicts = check(Detector().eval(), scenes, torch.zeros(4, 3, 64, 64))
    right = type(verdicts[0])(True, True, True, True, True)
    wrong = type(verdicts[0])(True, False, False, False, True)
    made = accuracy(scenes, [right, wrong, right, wrong])
    assert {n: made[n]["right"] for n in made} == {"1": 0.5, "2": 1.0, "3": 0.0, "all": 0.5}
    assert {n: made[n]["prompts"] for n in made} == {"1": 2, "2": 1, "3": 1, "all": 4}
    assert made["all"]["count"] == 1.0
    assert made["1"]["things"] == 0.5


def test_the_cells_of_the_issue() -> None:
    """Every solver at its published settings for each N, spread over the three kinds of captions."""
    cells = solver_cells(list(SOLVERS), [25, 50, 75, 100], 3.0, 64)
    assert (
        len(cells) == 4 * len(SOLVERS) + len(SOLVERS) - 6
    )  # sequential, what accepts all, three errors and a first sweep more
    assert {cell.steps for cell in cells if cell.part == "exact"} == {50}
    by_name = {cell.solver: cell for cell in cells if cell.part == "solvers"}
    errors = {name: cell.settings["error"] for name, cell in by_name.items() if cell.settings.get("error")}
    assert errors == {
        "secant": 0.01,
        "secant, looser": 0.03,
        "secant, tighter": 0.003,
        "secant, tightest": 0.0002,
        "secant, no step first": 0.01,
        "lattice": 0.01,
    }
    tolerances = {name: cell.settings["tolerance"] for name, cell in by_name.items() if name not in errors}
    assert tolerances == {
        "sequential": 0.0,
        "paradigms": 0.01,
        "parataa": 0.001,
        "parasolver": 0.05,
        "parasolver-turbo": 0.03,
        "parasolver-turbo, accept all": 0.03,
        "paraflow": 0.005,
    }
    indices = by_name["paraflow"].indices(500)
    counts = [len(SCENES[i].things) for i in indices]
    assert [counts.count(n) for n in (1, 2, 3)] == [26, 26, 12]
    few = next(cell for cell in cells if cell.part == "exact")
    assert set(few.indices(500)) < set(indices)
    assert guidance_cells([1.0], 50, 500)[0].indices(500) == list(range(500))
    assert spread(9, 3) == [0, 1, 2]


def test_progress_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines: list[str] = []
    progress = Progress(100.0, lines.append)
    now[0] = 10.0
    progress.tell("too soon", 5.0)
    now[0] = 60.0
    progress.tell("a cell", 20.0)
    now[0] = 120.0
    progress.finish("a cell", 40.0)
    now[0] = 7200.0
    progress.tell("another", 30.0)
    assert lines == ["[ 20 %, 4 min left] a cell", "[ 40 %, 3 min left] a cell", "[ 70 %, 51 min left] another"]


def test_sheets_have_their_images_ticks_and_captions() -> None:
    caption = "a big striped orange circle above a small checkered blue square on white"
    face = font(13)
    assert " ".join(wrap(caption, 150, face)) == caption
    assert all(face.getlength(line) <= 150 for line in wrap(caption, 150, face))
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1).expand(3, 64, 64)
    shown = [Shown(red, caption, i % 2 == 0, 10 + i, None if i < 2 else 0.01) for i in range(10)]
    sheet = grid(shown, "Ten captions", columns=4, side=128)
    assert sheet.width == 4 * (128 + 18) + 18
    pixels = np.asarray(sheet)
    inside = (pixels == (255, 0, 0)).all(-1).sum()
    assert 0.95 * 10 * 128**2 < inside <= 10 * 128**2
    for color in (GREEN, RED, PAPER):
        assert (pixels == color).all(-1).any()
    beside = np.asarray(comparison({"sequential": shown[:2], "paraflow": shown[2:4]}, "Two samplers", side=100))
    assert 0.95 * 4 * 100**2 < (beside == (255, 0, 0)).all(-1).sum() <= 4 * 100**2
