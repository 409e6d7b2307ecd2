"""What runs record of their solves, pages and pictures made of it, and the commands report and compare."""

from __future__ import annotations

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from matplotlib.patches import Rectangle
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from paraflowkit.cli import app
from paraflowkit.config import RunConfig, loads
from paraflowkit.core.model import VelocityModel
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric import record
from paraflowkit.fabric.callbacks import Callback, Run
from paraflowkit.fabric.folder import RunFolder
from paraflowkit.fabric.mesh import MeshStrategy
from paraflowkit.fabric.predict import Prediction as Predicted
from paraflowkit.fabric.predict import predict
from paraflowkit.noise import FlowMatching
from paraflowkit.prediction import Prediction
from paraflowkit.report.compare import compare
from paraflowkit.report.compare_page import compare_files
from paraflowkit.report.film import film_png, strip_png
from paraflowkit.report.heatmap import heatmap_figure, heatmap_png
from paraflowkit.report.html import Page, Picture
from paraflowkit.report.images import png_bytes, to_image
from paraflowkit.report.labels import label
from paraflowkit.report.sweeps import FILE, Sweeps
from paraflowkit.solution import Solution
from tests.ranks import fabric_of, run_ranks

RUN: dict[str, Any] = {
    "model": "digits-flow",  # whose place Toy takes
    "grid": {"steps": 6},
    "solver": {"name": "paraflow", "tolerance": 1e-2},
    "window": {"name": "sliding", "size": 4},
    "requests": [{"classes": [0, 1, 2, 3, 4, 5], "seeds": [3], "guidance": 2.0}],
    "output": {"upscale": 2, "plot": False, "report": True},
    "run": {"batch": 5},
}
WRITTEN = {FILE, "heatmap.png", "film.png", "film-animated.png", "report.html"}


def config(folder: Path, **sections: Any) -> RunConfig:
    given = {**RUN, "output": {**RUN["output"], "folder": str(folder)}}
    for name, value in sections.items():
        given[name] = {**given[name], **value} if isinstance(value, dict) else value
    return loads(json.dumps(given), "run.yaml")


class Toy(VelocityModel):
    """A network of images that costs nothing."""

    noise = FlowMatching()
    prediction = Prediction.DATA
    shape = (1, 16, 16)
    data_std = 0.7

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        assert cond is not None
        return torch.tanh(2 * x.roll(1, -1) - x.roll(2, -2) + cond.view(-1, 1, 1, 1).to(x))

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Tensor:
        return torch.tensor([(0 if c is None else c) / 5 for c in classes], dtype=torch.float64)

    def null_condition(self, cond: Tensor) -> Tensor:
        return torch.zeros_like(cond)


def make(run: RunConfig, fabric: Fabric, **more: Any) -> Predicted:
    return predict(run, fabric, model=Toy(), **more)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


class Solved(Callback):
    """Keeps the first batch's solution."""

    def on_solve_end(self, run: Run, batch: int, solution: Solution) -> None:
        if batch == 0:
            self.solution = solution


@pytest.fixture(scope="module")
def made(fabric: Fabric, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Solution]:
    """A finished run and its first batch's solution."""
    folder, solved = tmp_path_factory.mktemp("made") / "run", Solved()
    make(config(folder), fabric, callbacks=[solved])
    return folder, solved.solution


@pytest.fixture
def copy(made: tuple[Path, Solution], tmp_path: Path) -> Path:
    """A copy of that run which may be spoiled."""
    return Path(shutil.copytree(made[0], tmp_path / "copy"))


def kept(folder: Path) -> Sweeps:
    found = Sweeps.read(folder)
    assert found is not None
    return found


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_what_the_solve_did(made: tuple[Path, Solution]) -> None:
    folder, solution = made
    sweeps, stats = kept(folder), solution.stats
    assert sweeps.samples == 4
    assert sweeps.steps == 6
    assert sweeps.facts["tolerance"] == 1e-2
    assert sweeps.labels[1] == "class 1, seed 3, guidance 2"
    for i in range(4):
        front = 0
        for sweep in range(sweeps.count(i)):
            lo, hi, stride = (int(a[sweep, i]) for a in (sweeps.fronts, sweeps.ends, sweeps.strides))
            assert lo == front
            assert hi == min(lo + 4, 6)  # the sliding window's own rule
            assert stride == int(stats.strides[sweep][i])
            column = sweeps.residuals[i, :, sweep]
            assert np.isnan(column[:lo]).all()
            assert np.isnan(column[hi:]).all()
            truth = stats.residuals[sweep][i, : hi - lo].sqrt().numpy()
            np.testing.assert_allclose(column[lo:hi], truth, rtol=1e-6)
            assert (column[lo : lo + stride - 1] <= 1e-2).all()  # all but the last accepted have met the tolerance
            front = lo + stride
            assert sweeps.accepted(sweep + 1, i) == front
        assert front == 6
    assert sweeps.frame_sweeps.tolist() == list(range(1, len(sweeps.fronts) + 1))
    for i in range(4):
        sample = np.asarray(to_image(solution.x[i]))
        np.testing.assert_array_equal(sweeps.frames[-1, i, ..., 0], sample)
        assert (sweeps.frames[0, i, ..., 0] != sample).any()


def test_long_solves_keep_fewer_images(tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FRAMES", 4)
    few = [{"classes": [0, 1]}]
    wanted = config(tmp_path / "run", grid={"steps": 13}, solver={"name": "sequential", "tolerance": 0}, requests=few)
    make(wanted, fabric)
    sweeps = kept(tmp_path / "run")
    assert sweeps.frame_sweeps.tolist() == [1, 5, 9, 13]
    assert sweeps.residuals.shape == (2, 13, 13)


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path, fabric: Fabric) -> None:
    make(config(tmp_path / "run", output={"report": False, "folder": str(tmp_path / "run")}), fabric)
    assert not WRITTEN & {path.name for path in (tmp_path / "run").iterdir()}


def _stops(at: int) -> Any:
    def stop(batch: int, batches: int, info: Any) -> None:
        if batch == at:
            raise KeyboardInterrupt

    return stop


def test_a_resumed_run_keeps_what_was_recorded(
    tmp_path: Path, fabric: Fabric, made: tuple[Path, Solution], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def stop(*_: object) -> None:
        assert (folder / FILE).exists()  # before the batch counts as finished
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            make(config(folder), fabric)
    with pytest.raises(KeyboardInterrupt):
        make(config(folder), fabric, on_sweep=_stops(1), resume=True)
    before = (folder / FILE).read_bytes()
    assert not (folder / "report.html").exists()
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.stderr.endswith("the run there is not finished (5 of 6 samples): go on with it by --resume.\n")
    make(config(folder), fabric, resume=True)
    assert (folder / FILE).read_bytes() == before == (made[0] / FILE).read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in made[0].iterdir()} >= WRITTEN


def _rank(rank: int, folder: Path, run: Path, time: int) -> None:
    make(config(run), fabric_of(rank, MeshStrategy(time=time)))


@pytest.mark.parametrize("time", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_several_processes_record_once(tmp_path: Path, made: tuple[Path, Solution], time: int) -> None:
    run_ranks(_rank, 2, tmp_path / "ranks", tmp_path / "run", time)
    ours, theirs = kept(tmp_path / "run"), kept(made[0])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in made[0].iterdir()}
    np.testing.assert_array_equal(ours.strides, theirs.strides)
    np.testing.assert_allclose(ours.residuals, theirs.residuals, rtol=1e-3, atol=1e-6)


def test_samples_that_are_no_images_have_a_heat_map_and_no_film(tmp_path: Path, fabric: Fabric) -> None:
    wanted = config(tmp_path / "run", model="gaussian-mixture", requests=[{"classes": [0, 1]}])
    predict(wanted, fabric)
    sweeps = kept(tmp_path / "run")
    assert sweeps.samples == 2
    assert strip_png(sweeps) is None
    assert film_png(sweeps) is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "The first sample. A column is a sweep" in page
    assert "window's front" not in page


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_heat_map_draws_windows_and_strides(made: tuple[Path, Solution]) -> None:
    sweeps = kept(made[0])
    axes = heatmap_figure(sweeps, 1).axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    count = sweeps.count(1)
    assert [int(box.get_y()) for box in boxes] == sweeps.fronts[:count, 1].tolist()
    assert [int(box.get_height()) for box in boxes] == sweeps.strides[:count, 1].tolist()
    (mesh,) = axes.collections
    shown = np.ma.filled(mesh.get_array(), np.nan).reshape(6, count)
    np.testing.assert_array_equal(np.isnan(shown), np.isnan(sweeps.residuals[1, :, :count]))
    assert axes.get_xlabel().startswith("sweep")
    assert "0 is noise" in axes.get_ylabel()


def test_any_prompt_can_be_a_title(made: tuple[Path, Solution]) -> None:
    sweeps = kept(made[0])
    sweeps.facts["labels"] = ["“$\\frac{1 costs $5 and 猫\n" + "very " * 99 + "”, seed 0"] * 4
    assert heatmap_png(sweeps).startswith(b"\x89PNG")
    assert (strip_png(sweeps) or b"").startswith(b"\x89PNG")


def test_a_state_that_does_not_change_has_a_colour(made: tuple[Path, Solution]) -> None:
    sweeps = kept(made[0])
    sweeps.residuals[0][~np.isnan(sweeps.residuals[0])] = 0
    sweeps.facts["tolerance"] = 0.0
    assert heatmap_png(sweeps).startswith(b"\x89PNG")


def test_the_film_has_a_frame_a_sweep_and_ends_with_the_samples(made: tuple[Path, Solution]) -> None:
    sweeps = kept(made[0])
    film = Image.open(io.BytesIO(film_png(sweeps) or b""))
    assert film.n_frames == len(sweeps.frames)
    film.seek(film.n_frames - 1)
    assert film.info["duration"] > 1000
    last = np.asarray(film.convert("RGB"))
    tile = np.asarray(Image.fromarray(sweeps.frames[-1, 0, ..., 0]).resize((192, 192), Image.Resampling.NEAREST))
    assert (last[36 : 36 + 192, 8 : 8 + 192, 0] == tile).all()
    strip = Image.open(io.BytesIO(strip_png(sweeps, most=3) or b""))
    assert strip.width == 8 + 3 * 104


# --- pages -----------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Checks that tags are closed, and collects cells and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[tuple[str, str]]] = []
        self.kind: str | None = None
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        assert tag != "script"
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.kind = given.get("class") or ""
            self.rows[-1].append((self.kind, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.kind = None if tag in ("td", "th") else self.kind

    def handle_data(self, data: str) -> None:
        if self.kind is not None:
            kind, text = self.rows[-1][-1]
            self.rows[-1][-1] = (kind, text + data)


def test_pages_are_escaped_aligned_and_whole() -> None:
    picture = png_bytes(Image.new("L", (2, 2)))
    page = Page("<b>&").heading("a < b").paragraph("`x<y` and <script>alert(1)</script>").verdict("“so”")
    page.table(
        ["name", "n", "as text", "mixed", "gaps", ""],
        [
            ["<i>", 12, "1.2e-03", "3", None, Picture(picture, '"quoted" <alt>', 40, True)],
            ["b", 0.123456, "× 2.5", "x", 4.0, None],
        ],
        caption="<caption>",
        marked=[1],
    )
    made = page.picture(picture, "below <it>").folded("more", "</pre>").to_html()
    read = Reader(made)
    assert "<script>alert" not in made
    assert "<code>x&lt;y</code>" in made
    assert [kind for kind, _ in read.rows[0]] == ["", "n", "n", "", "n", ""]
    assert [text for _, text in read.rows[1]] == ["<i>", "12", "1.2e-03", "3", "–", ""]
    assert [text for _, text in read.rows[2]] == ["b", "0.1235", "× 2.5", "x", "4", "–"]
    assert made.count('<tr class="marked">') == 1
    assert len(read.links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in read.links)
    assert "http" not in made
    with pytest.raises(ValueError, match="1 cells, and there are 2 columns"):
        page.table(["a", "b"], [["c"]])
    with pytest.raises(ValueError, match="PNG, GIF or JPEG"):
        page.picture(b"<svg>")


def test_report_is_rebuilt_from_the_folder(copy: Path, made: tuple[Path, Solution]) -> None:
    for name in WRITTEN - {FILE}:
        (copy / name).unlink()
    done = CliRunner().invoke(app, ["report", str(copy)])
    assert done.exit_code == 0, done.output
    assert f"Written: {copy / 'report.html'}" in done.output.replace("\n", "")
    for name in WRITTEN - {FILE, "report.html"}:
        assert (copy / name).read_bytes() == (made[0] / name).read_bytes()
    page = (copy / "report.html").read_text()
    assert page.replace("Run copy", "Run run") == (made[0] / "report.html").read_text()
    read = Reader(page)
    rows = [json.loads(line) for line in (copy / "results.jsonl").read_text().splitlines()]
    shown = [[text for _, text in row] for row in read.rows if len(row) == 6][1:]
    assert [row[1:] for row in shown] == [
        [str(cell) for cell in (r["index"], label(r), "converged", r["iterations"], r["evaluations"])] for r in rows
    ]
    # The grid, the film, its strip, the heat map, and a picture a sample; the run had no convergence plot.
    assert len(read.links) == 4 + 6


def test_report_of_a_run_that_was_compared(tmp_path: Path, fabric: Fabric) -> None:
    folder = tmp_path / "run"
    out, few = {"report": False, "plot": True, "folder": str(folder)}, [{"classes": [0, 1, 2]}]
    rows = make(config(folder, output=out, run={"compare": True}, requests=few), fabric).rows
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0
    page = (folder / "report.html").read_text()
    assert "parallel / sequential" in page
    assert "output.report=true" in page  # which would have shown more
    worst = max(rows, key=lambda row: row["rmse"])
    assert f"Farthest from its sequential sample is sample {worst['index']}, class {worst['class']}" in page
    assert f"{worst['rmse']:.1e} at worst" in page


def test_what_is_no_finished_run_gets_a_sentence(tmp_path: Path, copy: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (copy / FILE).write_bytes(b"half")
    for path, said in (
        (tmp_path / "none", "there is no such folder."),
        (
            tmp_path / "empty",
            "holds no run: give a folder that 'paraflowkit predict' or 'bench' has written.",
        ),
        (tmp_path / "file", "is a file: give the folder of a run."),
        (copy, "remove it to get a report without it"),
    ):
        done = CliRunner().invoke(app, ["report", str(path)])
        assert done.exit_code == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    (copy / FILE).unlink()
    for name in ("summary.json", "config.yaml", "results.jsonl"):
        before = (copy / name).read_text()
        (copy / name).write_text("[half\n")
        done = CliRunner().invoke(app, ["report", str(copy)])
        assert done.exit_code == 2
        assert f"{name}: " in done.stderr
        assert "make the run again" in done.stderr
        (copy / name).write_text(before)
    assert CliRunner().invoke(app, ["report", str(copy)]).exit_code == 0


# --- compare ---------------------------------------------------------------------------------------------------------


def _spoil(folder: Path, change: dict[int, float]) -> None:
    """Add to every number of samples, and draw their images again."""
    samples = load_file(folder / "samples.safetensors")["samples"]
    for index, value in change.items():
        samples[index] += value
        (folder / f"{index:04d}.png").write_bytes(png_bytes(to_image(samples[index], 2)))
    save_file({"samples": samples}, folder / "samples.safetensors")


def test_equal_runs_are_identical(made: tuple[Path, Solution], copy: Path) -> None:
    found = compare(made[0], copy)
    assert found.verdict == (
        "Identical: all 6 samples that both runs made are the same, bit for bit. The runs had the same settings."
    )
    assert not found.settings


def test_the_worst_sample_is_found_and_measured(made: tuple[Path, Solution], copy: Path, tmp_path: Path) -> None:
    _spoil(copy, {2: 0.25, 5: -0.01})
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(
        text.replace("tolerance: 0.01", "tolerance: 0.02").replace("batch: 5", "batch: 6")
    )
    done = CliRunner().invoke(app, ["compare", str(made[0]), str(copy), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = compare(made[0], copy)
    std = json.loads((made[0] / "summary.json").read_text())["data_std"]
    worst, second = found.worst[:2]
    assert (worst.a["index"], second.a["index"]) == (2, 5)
    assert worst.rmse == pytest.approx(0.25 / std, rel=1e-5)
    assert worst.largest == pytest.approx(0.25, rel=1e-5)
    a, b = (np.asarray(Image.open(folder / "0002.png").convert("L"))[::2, ::2] / 255 for folder in (made[0], copy))
    assert worst.psnr == pytest.approx(-10 * np.log10(np.square(a - b).mean()))
    assert not worst.alike
    assert second.alike
    assert second.psnr is not None
    assert second.psnr > 40
    assert sum(pair.same for pair in found.pairs) == 4
    assert found.verdict.startswith(
        "Different: 1 of 6 samples has less than 40 dB or SSIM 0.99; the worst is sample 2, "
    )
    assert "Settings that differ: solver.tolerance (0.01 → 0.02), run.batch (5 → 6)." in found.verdict
    assert " ".join(found.verdict.split()) in " ".join(done.output.split())
    page = Reader((tmp_path / "out" / "compare.html").read_text())
    assert [row[3][1] for row in page.rows if len(row) == 8][1:3] == [worst.name, second.name]
    sheet = Image.open(tmp_path / "out" / "compare.png").convert("RGB")
    assert sheet.size == (10 + 3 * 170, 30 + 6 * 190)
    assert sheet.getpixel((10 + 2 * 170 + 80, 30 + 20 + 80)) != (0, 0, 0)  # the worst one's difference
    assert sheet.getpixel((10 + 2 * 170 + 80, 30 + 2 * 190 + 20 + 80)) == (0, 0, 0)  # and of equal ones


def test_small_differences_are_the_same_to_the_eye(made: tuple[Path, Solution], copy: Path) -> None:
    _spoil(copy, {0: 1e-7})
    found = compare(made[0], copy)
    assert found.verdict.startswith(
        "The same to the eye: all 6 samples that both runs made agree; the worst is sample 0"
    )
    assert "as 8-bit images equal" in found.verdict
    assert "what differs is rounding, or the model's weights" in found.verdict


def test_requests_are_matched_and_not_positions(tmp_path: Path, fabric: Fabric, made: tuple[Path, Solution]) -> None:
    folder = tmp_path / "other"
    some, out = [{"classes": [5, 5, 9, 2], "seeds": [3], "guidance": 2.0}], {"report": False, "folder": str(folder)}
    wanted = config(folder, requests=some, stepper="ddim", output=out)
    make(wanted, fabric)
    found = compare(made[0], folder)
    assert [(pair.a["index"], pair.b["index"]) for pair in found.pairs] == [(2, 3), (5, 0)]
    assert found.pairs[1].name == "sample 5 (B: 0), class 5, seed 3, guidance 2"
    assert "stepper.name (euler → ddim)" in found.verdict
    assert "Another sampler makes other samples." in found.verdict
    done = CliRunner().invoke(app, ["compare", str(made[0]), str(folder)])
    assert "2 requests were made by both, 4 only A and 2 only B." in " ".join(done.output.split())
    assert sorted(path.name for path in (tmp_path / "run-vs-other").iterdir()) == ["compare.html", "compare.png"]


def test_runs_that_cannot_be_compared_get_a_sentence(tmp_path: Path, made: tuple[Path, Solution], copy: Path) -> None:
    rows = (copy / "results.jsonl").read_text()
    (copy / "results.jsonl").write_text(rows.replace('"seed": 3', '"seed": 4'))
    with pytest.raises(ParaflowkitError, match=r"share no request: .* begins with class 0, seed 3.*class 0, seed 4"):
        compare(made[0], copy)
    (copy / "results.jsonl").write_text(rows)
    for path in copy.glob("0*.png"):
        path.write_bytes(png_bytes(Image.new("L", (40, 40))))
    with pytest.raises(ParaflowkitError, match=r"other sizes: 16 × 16 pixels in .*, 20 × 20 in "):
        compare(made[0], copy)
    (copy / "summary.json").unlink()
    done = CliRunner().invoke(app, ["compare", str(made[0]), str(copy), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert re.fullmatch(r".*the run there is not finished \(6 of 6 samples\): .*\n", done.stderr)
    assert not (tmp_path / "out").exists()


def test_samples_without_images_are_compared_by_their_numbers(tmp_path: Path, fabric: Fabric) -> None:
    for name, tolerance in (("a", 0.0), ("b", 1e-3)):
        folder = tmp_path / name
        more = {"model": "gaussian-mixture", "requests": [{"classes": [0, 1, 2]}], "grid": {"steps": 20}}
        out = {"report": False, "folder": str(folder)}
        predict(config(folder, output=out, solver={"tolerance": tolerance}, **more), fabric)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.worst[0].psnr is None
    assert 0 < (found.worst[0].rmse or 0) < 1e-2
    assert found.verdict.startswith("Nearly the same: all 3 samples that both runs made agree")
    assert list(compare_files(found)) == ["compare.html"]
    samples = load_file(tmp_path / "b" / "samples.safetensors")["samples"]
    samples[1] = torch.nan
    save_file({"samples": samples}, tmp_path / "b" / "samples.safetensors")
    assert "Different: 1 of 3 samples has a relative RMSE above 0.01; the worst is sample 1" in (
        compare(tmp_path / "a", tmp_path / "b").verdict
    )
