"""The adapters of diffusers' format, held against the loops of diffusers' own pipelines."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_folders import SEEDS, STEPS, load, off, problem_of, sequential, solved
from diffusers import DiffusionPipeline
from torch import Tensor

from paraflowkit.core.draws import draw
from paraflowkit.core.problem import Problem
from paraflowkit.core.treatment import Treatment
from paraflowkit.models.diffusers.families import pack, unpack

# A scheduler of diffusers hands NumPy a tensor in a way that NumPy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
PROMPTS = ["a cat", "two blue boats"]
#: The longer of them run with -m slow.
FAST = {"sd", "sd3", "flux", "pixart"}


@dataclass(frozen=True)
class Case:
    """A folder, our stepper, and diffusers' call for the same; ``start`` makes its latents of our x0."""

    name: str
    stepper: str
    guidance: float = 4.0
    call: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    negative: str | None = None
    start: Callable[[Problem, Any], Tensor] = lambda problem, pipe: problem.x0
    within: float = 1e-5

    def __str__(self) -> str:
        return f"{self.name}-{self.stepper.split()[0]}-{self.guidance:g}{'-negative' if self.negative else ''}"


def _from_exploding(problem: Problem, pipe: Any) -> Tensor:
    """x / alpha, as the Euler family keeps its states, in units of its own start."""
    pipe.scheduler.set_timesteps(problem.steps)
    return problem.x0 / float(problem.nodes.alpha[0]) / float(pipe.scheduler.init_noise_sigma)


def _packed(problem: Problem, pipe: Any) -> Tensor:
    return pack(problem.x0)


FLUX = {"height": 32, "width": 16}
CASES = [
    Case("sd", "ddim"),
    Case("sd", "ddim", 1.0),
    Case("sd", "ddim", 7.5, negative="ugly night"),
    Case("sd-v", "ddim"),
    Case("sd-dpm", "dpm-solver order=2"),
    Case("xl", "euler", negative="bad", start=_from_exploding),
    Case("xl", "euler", start=_from_exploding),
    Case("xl", "euler", settings={"height": 24, "width": 16}, start=_from_exploding),
    Case("xl-edm", "dpm-solver order=2", start=_from_exploding),
    Case("sd3", "euler", 7.0),
    Case("sd3", "euler", 7.0, negative="ugly", settings={"height": 16, "width": 24}),
    Case("sd3-dynamic", "euler", 7.0),
    Case("flux", "euler", 1.0, {"guidance_scale": 3.5}, FLUX, start=_packed),
    Case(
        "flux",
        "euler",
        4.0,
        {"guidance_scale": 2.0, "true_cfg_scale": 4.0},
        FLUX | {"embedded_guidance": 2.0},
        "bad",
        start=_packed,
    ),
    Case("flux-schnell", "euler", 1.0, {}, FLUX, start=_packed),
    Case("pixart", "dpm-solver order=2", 4.5, {"use_resolution_binning": False}),
    Case("pixart-sigma", "dpm-solver order=2", 4.5, {"use_resolution_binning": False}, negative="two red"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


def _marked(case: Case) -> Any:
    plain = case.name in FAST and case.guidance != 1.0 and (case.negative is None or case.name == "flux")
    return pytest.param(case, id=str(case), marks=() if plain else pytest.mark.slow)


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
def test_prompted_pipelines(root: Path, case: Case) -> None:
    """The same latents and images as the pipeline's own call, from the same start."""
    model = load(root, case.name, **case.settings)
    problem = problem_of(
        model, case.stepper, STEPS, prompts=PROMPTS, negative_prompts=[case.negative] * 2, guidance=case.guidance
    )
    pipe = DiffusionPipeline.from_pretrained(model.where)
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"guidance_scale": case.guidance, **case.call, "num_inference_steps": STEPS}
    if case.negative is not None:
        call["negative_prompt"] = [case.negative] * 2
    call |= {"height": model.pixels[0], "width": model.pixels[1], "prompt": PROMPTS}
    start = case.start(problem, pipe)
    latents = pipe(**call, latents=start.clone(), output_type="latent")[0]
    if case.name.startswith("flux"):
        latents = unpack(latents, *model.shape[1:])
    ours = sequential(problem)
    assert off(ours, latents) < case.within
    images = pipe(**call, latents=start.clone(), output_type="pt")[0]
    decoded = model.decode(ours)
    assert decoded.shape == (2, 3, *model.pixels)
    assert off((decoded / 2 + 0.5).clamp(0, 1), images) < case.within


class Draws:
    """In place of diffusers' ``randn_tensor``: the start first, then the noise of our steps, in order."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.calls = 0

    def __call__(self, shape: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        if self.calls == 1:
            return self.problem.x0.clone()
        return torch.stack([draw(seed, self.calls - 1, tuple(shape[1:])) for seed in SEEDS]).float()


@pytest.mark.parametrize(
    ("name", "stepper", "treatment", "call", "wanted"),
    [
        ("dit", "ddim", Treatment(), {"class_labels": [207, 360], "guidance_scale": 4.0}, {"classes": [207, 360]}),
        ("dit", "ddim", Treatment(), {"class_labels": [207, 360], "guidance_scale": 1.0}, {"classes": [207, 360]}),
        ("ddpm", "ddpm", Treatment(), {"batch_size": 2}, {}),
        ("ddim-clipped", "ddim", Treatment(clip=1.0), {"batch_size": 2, "use_clipped_model_output": True}, {}),
        ("ddim-clipped", "clipped-ddim clip=1", Treatment(), {"batch_size": 2}, {}),
    ],
)
def test_pipelines_without_prompts(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stepper: str,
    treatment: Treatment,
    call: dict[str, Any],
    wanted: dict[str, Any],
) -> None:
    """DiT, DDPM and DDIM pipelines, whose noise is ours."""
    model = load(root, name)
    more = {"guidance": call["guidance_scale"]} if "guidance_scale" in call else {}
    problem = problem_of(model, stepper, STEPS, treatment=treatment, **wanted, **more)
    pipe = DiffusionPipeline.from_pretrained(model.where)
    pipe.set_progress_bar_config(disable=True)
    draws = Draws(problem)
    for module in (type(pipe).__module__, type(pipe.scheduler).__module__):
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draws)
    images = pipe(**call, num_inference_steps=STEPS, output_type="pt")[0]
    if not isinstance(images, Tensor):  # DDPM and DDIM pipelines know no tensors before diffusers 0.36
        images = torch.from_numpy(images)
    assert draws.calls == (STEPS if stepper == "ddpm" else 1)
    assert off((model.decode(sequential(problem)) / 2 + 0.5).clamp(0, 1), images) < 1e-5


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("sd", "parasolver-turbo"),
        ("flux", "paraflow"),
        ("dit", "paraflow"),
        pytest.param("sd3", "paraflow", marks=pytest.mark.slow),
        pytest.param("sd3", "parasolver-turbo", marks=pytest.mark.slow),
    ],
)
def test_parallel_solvers_at_tolerance_zero(root: Path, name: str, solver: str) -> None:
    model = load(root, name, **(FLUX if name == "flux" else {}))
    wants = {"classes": [1, 2]} if name == "dit" else {"prompts": PROMPTS}
    stepper = "ddim" if name in ("sd", "dit") else "euler"
    problem = problem_of(model, stepper, STEPS, guidance=[3.0, 1.0], **wants)
    solution = solved(problem, solver, 3)
    assert solution.ok
    assert off(solution.x, sequential(problem)) < 1e-5


def test_refused_images_are_black(root: Path) -> None:
    """A folder's safety checker is asked, as by its pipeline."""
    model = load(root, "sd")
    asked: list[Tensor] = []

    def refuse_second(image: Tensor, device: Any, dtype: Any) -> tuple[Tensor, list[bool]]:
        asked.append(image)
        return image, [len(asked) == 2]

    plain = model.decode(torch.zeros(2, *model.shape))
    model.pipe.safety_checker = object()
    model.pipe.run_safety_checker = refuse_second
    found = model.decode(torch.zeros(2, *model.shape))
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], torch.full_like(found[1], -1.0))


def test_unpacking_is_the_inverse_of_packing() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    assert torch.equal(unpack(pack(x), 4, 6), x)
