"""The shipped folders: loaded by their libraries, held to their sizes, and the claims that the README makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paraflowkit
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from paraflowkit.config import loads
from paraflowkit.core.draws import draw
from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.pieces import make_fabric
from paraflowkit.fabric.predict import predict

from paraflowkit_scenes import FOLDER
from paraflowkit_scenes.check import check, judge
from paraflowkit_scenes.clip import WEIGHTS as CLIP
from paraflowkit_scenes.clip import Clip
from paraflowkit_scenes.detector import WEIGHTS as EYES
from paraflowkit_scenes.detector import Detector, Found, Seen
from paraflowkit_scenes.sample import example
from paraflowkit_scenes.scene import read
from paraflowkit_scenes.training.clip import retrieval
from paraflowkit_scenes.training.detector import accuracy

CAPTIONS = ["a big red circle on the left on white", "a blue square above a yellow star on gray"]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained()


def load() -> Any:
    pipe = DiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any, captions: list[str], **settings: Any) -> torch.Tensor:
    """Images (n, 3, 64, 64) in −1 … 1, the noise of each by its own seed."""
    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(captions))]
    given = {"num_inference_steps": 20, "guidance_scale": 3.0, "max_sequence_length": 16, **settings}
    return pipe(captions, generator=seeds, output_type="pt", **given).images * 2 - 1


def test_the_folder_is_a_stable_diffusion_3_pipeline_that_needs_no_words() -> None:
    pipe = load()
    assert type(pipe) is StableDiffusion3Pipeline
    modules = [module for module in pipe.components.values() if isinstance(module, torch.nn.Module)]
    assert len(modules) == 5
    assert {module.dtype for module in modules} == {torch.float32}


@pytest.mark.parametrize(("folders", "most"), [([FOLDER], 25e6), ([EYES, CLIP], 8e6)])
def test_the_weights_are_small_safetensors(folders: list[Path], most: float) -> None:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert sum(path.stat().st_size for path in files) < most


def test_it_paints_what_the_captions_say(detector: Detector) -> None:
    verdicts = check(detector, CAPTIONS, paint(load(), CAPTIONS, num_inference_steps=30))
    assert [verdict.right for verdict in verdicts] == [True, True]


def test_the_number_of_null_tokens_hardly_matters(detector: Detector) -> None:
    pipe = load()
    few = paint(pipe, CAPTIONS)
    many = paint(pipe, CAPTIONS, max_sequence_length=256)  # the pipeline's default
    assert float((few - many).square().mean().sqrt() / few.std()) < 0.2
    assert all(verdict.right for verdict in check(detector, CAPTIONS, many))


def test_enable_makes_the_plain_pipelines_image_in_fewer_calls() -> None:
    pipe = load()
    plain = paint(pipe, CAPTIONS, num_inference_steps=50)
    paraflowkit.enable(pipe, solver="paraflow", window=8, tolerance=5e-3)
    close = paint(pipe, CAPTIONS, num_inference_steps=50)
    assert pipe.paraflow_stats.rounds < 25
    assert float((close - plain).square().mean().sqrt() / plain.std()) < 2e-2
    paraflowkit.enable(pipe, solver="paraflow", window=8, tolerance=0.0)
    assert float((paint(pipe, CAPTIONS) - paint_plain(pipe)).abs().max()) < 1e-3


def paint_plain(pipe: Any) -> torch.Tensor:
    paraflowkit.disable(pipe)
    return paint(pipe, CAPTIONS)


def _run(**changes: Any) -> Any:
    run: dict[str, Any] = {
        "model": "scenes-sd3",
        "grid": {"steps": 20},
        "stepper": "euler",
        "solver": {"name": "paraflow", "tolerance": 0.0},
        "requests": [{"prompts": CAPTIONS[:1], "seeds": [0], "guidance": 3.0}],
        "output": {"images": False},
        "fabric": {"accelerator": "cpu"},
        **changes,
    }
    return loads(json.dumps(run), "the test")


@pytest.fixture(scope="module")
def predicted() -> Callable[..., Any]:
    fabric = make_fabric(_run())
    return lambda **changes: predict(_run(**changes), fabric, save=False)


def test_the_model_makes_the_pipelines_image(predicted: Callable[..., Any]) -> None:
    made = predicted()
    pipe = load()
    noise = predicted(solver={"name": "sequential"})
    assert float((made.samples - noise.samples).abs().max()) < 1e-4
    latents = paint_latents(pipe)
    assert float((made.samples - latents).square().mean().sqrt() / latents.std()) < 1e-4


def paint_latents(pipe: Any) -> torch.Tensor:
    """The pipeline's own latents from the noise that the model started with."""
    start = draw(0, 0, (4, 16, 16))
    given = {"num_inference_steps": 20, "guidance_scale": 3.0, "max_sequence_length": 16}
    return pipe(CAPTIONS[:1], latents=start[None], output_type="latent", **given).images


def test_an_unknown_folder_is_refused_with_a_sentence(predicted: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ParaflowkitError, match="nowhere"):
        predicted(model={"name": "scenes-sd3", "folder": str(tmp_path / "nowhere")})


def test_the_detector_sees_held_out_scenes(detector: Detector) -> None:
    seen = accuracy(detector, count=300)
    assert seen["things"] > 0.97
    assert seen["right"] > 0.95


def test_the_contrastive_model_finds_the_caption() -> None:
    clip = Clip()
    assert retrieval(clip, 200) > 0.8
    made = [example(5, index, "held-out") for index in range(64)]
    images = torch.stack([torch.from_numpy(image) for image, _ in made])
    captions = [picture.scene.caption for _, picture in made]
    own = clip.score(captions, images)
    assert float((own > clip.score(captions[1:] + captions[:1], images)).float().mean()) > 0.95


def test_clip_loads_with_its_own_library() -> None:
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(CLIP, local_files_only=True)
    assert next(model.parameters()).dtype == torch.float32
    assert CLIPTokenizer.from_pretrained(CLIP, local_files_only=True).model_max_length == 20


def _found(kind: str, color: str, x: float = 32, y: float = 32, texture: str = "plain", size: str = "medium") -> Found:
    return Found(kind, color, texture, size, x, y, 1.0)


ABOVE = [_found("circle", "red", 30, 20), _found("star", "blue", 34, 44)]


@pytest.mark.parametrize(
    ("caption", "things", "wrong"),
    [
        ("a red circle", [_found("circle", "red")], ""),
        ("a red circle", [_found("circle", "blue")], "things details arrangement"),
        ("a red circle", [_found("circle", "red"), _found("star", "red", 50)], "count"),
        ("a small red circle", [_found("circle", "red")], "details"),
        ("a striped red circle", [_found("circle", "red", texture="striped")], ""),
        ("a red circle on the left", [_found("circle", "red", 20)], ""),
        ("a red circle on the left", [_found("circle", "red", 40)], "arrangement"),
        ("a red circle at the top", [_found("circle", "red", 32, 12)], ""),
        ("a red circle at the bottom", [_found("circle", "red", 32, 12)], "arrangement"),
        ("a red circle in the center", [_found("circle", "red", 32, 44)], "arrangement"),
        ("a red circle above a blue star", ABOVE, ""),
        ("a red circle below a blue star", ABOVE, "arrangement"),
        ("a blue star below a red circle", ABOVE, ""),
        ("a blue star right of a red circle", ABOVE, "arrangement"),
        ("a blue star right of a red circle", [_found("circle", "red", 16), _found("star", "blue", 44, 36)], ""),
        ("a red circle on white", [_found("circle", "red")], "background"),
        ("a red circle and a red circle", [_found("circle", "red")], "count things details arrangement"),
    ],
)  # fmt: skip
def test_the_check_says_what_is_wrong(caption: str, things: list[Found], wrong: str) -> None:
    verdict = judge(read(caption), Seen(tuple(things), "navy"))
    fields = ("count", "things", "details", "arrangement", "background")
    assert [name for name in fields if not getattr(verdict, name)] == wrong.split()
    assert verdict.right == (not wrong)


def test_wrong_images_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="resize them"):
        detector.see(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="2 captions for 1 images"):
        check(detector, CAPTIONS, torch.zeros(1, 3, 64, 64))
