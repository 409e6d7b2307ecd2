"""Networks without their pipeline, preconditioned ones, and what conditions stand for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from adapter_folders import SEEDS, STEPS, load, off, problem_of, save, sequential
from diffusers import DiffusionPipeline
from torch import Tensor

from paraflowkit import registry
from paraflowkit.core.problem import make_problem
from paraflowkit.errors import ParaflowkitError
from paraflowkit.grid import TimeGrid
from paraflowkit.models.configs import DigitsConfig, NetworkConfig
from paraflowkit.models.diffusers.prompts import PromptStore, Wish, read_prompts
from paraflowkit.models.diffusers.schedule import read_schedule
from paraflowkit.models.diffusers.unet import DiffusersUNet
from paraflowkit.models.digits.adapter import WEIGHTS, DigitsFlow, DigitsVP
from paraflowkit.noise import EDM
from paraflowkit.prediction import Prediction
from paraflowkit.schedulers.known import read_frame
from paraflowkit.spacing import make_grid
from paraflowkit.testing import check_model

# A scheduler of diffusers hands NumPy a tensor in a way that NumPy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize(("folder", "shipped"), [("digits-flow", DigitsFlow), ("digits-vp", DigitsVP)])
def test_the_shipped_networks(folder: str, shipped: Any) -> None:
    """As any other folder they are what their own adapter makes of them."""
    ours = DiffusersUNet(NetworkConfig(folder=str(WEIGHTS / folder), null_class=10))
    theirs = shipped(DigitsConfig())
    assert (ours.noise, ours.prediction, ours.shape) == (theirs.noise, theirs.prediction, theirs.shape)
    grid = make_grid(ours.noise, 4)
    made = registry.get("stepper", "ddim")(registry.config_class("stepper", "ddim")())
    found, wanted = (
        sequential(make_problem(m, made, grid, SEEDS, classes=[3, None], guidance=[2.0, 1.0])) for m in (ours, theirs)
    )
    assert torch.equal(found, wanted)


CHECKED = [
    ("sd", "diffusers-pipeline", {}),
    ("xl-edm", "diffusers-pipeline", {}),
    ("sd3", "diffusers-pipeline", {}),
    ("flux", "diffusers-pipeline", {"height": 32, "width": 16}),
    ("pixart", "diffusers-pipeline", {}),
    ("dit", "diffusers-transformer", {}),
    ("ddpm", "diffusers-unet", {}),
    ("classes", "diffusers-unet", {"null_class": 10}),
    ("edm", "edm", {}),
]


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [pytest.param(*row, marks=() if row[0] in ("sd", "dit", "edm") else pytest.mark.slow) for row in CHECKED],
)
def test_conformance(root: Path, name: str, kind: str, settings: dict[str, Any]) -> None:
    check_model(load(root, name, kind, **settings))


def test_preconditioned_network(root: Path) -> None:
    """The loop of diffusers with EDMEulerScheduler, from the same start; both signs of its predictions."""
    for prediction in ("epsilon", "v_prediction"):
        model = load(root, "edm", "edm", scheduler={"prediction_type": prediction})
        assert isinstance(model.noise, EDM)
        assert model.prediction is Prediction.DATA
        problem = problem_of(model, "euler", STEPS)
        ours = sequential(problem)
        scheduler = diffusers.EDMEulerScheduler(sigma_max=20.0, sigma_data=0.5, prediction_type=prediction)
        scheduler.set_timesteps(STEPS)
        x = problem.x0.clone()
        for t in scheduler.timesteps:
            out = model.network(scheduler.scale_model_input(x, t), t, return_dict=False)[0]
            x = scheduler.step(out, t, x).prev_sample
        assert off(ours, x) < 1e-5


def test_edm_settings_win_and_replace_a_scheduler(root: Path, tmp_path: Path) -> None:
    model = load(root, "edm", "edm", sigma_max=10.0, sigma_data=1.0)
    assert model.noise == EDM(10.0, 0.002, 1.0)
    assert model.data_std == 1.0
    alone = shutil.copytree(save("edm", root) / "unet", tmp_path / "alone")
    bare = registry.get("model", "edm")(registry.config_class("model", "edm")(folder=str(alone), sigma_min=0.01))
    assert bare.noise == EDM(80.0, 0.01, 0.5)


PIPES = {"xl": "unet", "flux": "transformer", "sd": "unet", "sd3": "transformer", "pixart": "transformer"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(n, f"diffusers-{k}", marks=() if n in ("xl", "flux") else pytest.mark.slow)
        for n, k in PIPES.items()
    ],
)
def test_networks_with_encoded_prompts(root: Path, tmp_path: Path, name: str, kind: str) -> None:
    """A network with a file of encoded prompts makes what its pipeline makes."""
    pixels = {"height": 32, "width": 16} if name == "flux" else {}
    pipeline = load(root, name, **pixels, negative_prompt="bad")
    pipeline.save_prompts(tmp_path / "prompts.safetensors", ["a cat", "two red"], ["ugly"])
    states = {key: value // 2 for key, value in pixels.items()}
    network = load(root, name, kind, embeddings=str(tmp_path / "prompts.safetensors"), **states)
    assert network.shape == pipeline.shape
    more: dict[str, Any] = {"prompts": ["a cat", "two red"], "guidance": 3.0, "negative_prompts": ["ugly", "bad"]}
    found, wanted = (sequential(problem_of(m, "ddim", 2, **more)) for m in (network, pipeline))
    assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match=r"does not hold the prompt 'a dog'; it holds 'a cat', 'two red'\."):
        network.condition([None], ["a dog"])
    with pytest.raises(ValueError, match=r"does not hold the negative prompt 'night'"):
        network.negative_condition(torch.tensor([0]), ["night"])


def test_the_length_of_prompts_for_t5(root: Path) -> None:
    """Its tokens follow those of CLIP: more of them make a longer condition."""
    wish = Wish("a cat")
    lengths = [
        load(root, "sd3", max_sequence_length=n).encode(wish)["encoder_hidden_states"].shape[0] for n in (5, 9, None)
    ]
    assert lengths[1] - lengths[0] == 4
    assert lengths[2] - lengths[0] == 251  # the default of the pipeline's call is 256


def test_files_of_encoded_prompts(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    load(root, "sd").save_prompts(path, ["a cat"])
    assert list(read_prompts(path)) == [Wish("a cat"), Wish(None, negative=True)]
    with pytest.raises(ParaflowkitError, match="wants encoder_hidden_states, pooled_projections"):
        load(root, "sd3", "diffusers-transformer", embeddings=str(path))
    with pytest.raises(ParaflowkitError, match=r"model\.embeddings: .* understands no prompts"):
        load(root, "ddpm", "diffusers-unet", embeddings=str(path))
    (tmp_path / "x.safetensors").write_bytes(b"no")
    for wrong in (tmp_path / "x.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(ParaflowkitError, match="is no file of encoded prompts"):
            load(root, "sd", "diffusers-unet", embeddings=str(wrong))


def test_prompts_are_encoded_once_and_alone(root: Path) -> None:
    """Before the solve, each by itself; again after the model is converted, and when they were forgotten."""
    model = load(root, "sd")
    asked: list[Wish] = []
    encode = model.prompts.encode

    def counted(wish: Wish) -> dict[str, Tensor]:
        asked.append(wish)
        return encode(wish)

    model.prompts.encode = counted
    problem = problem_of(model, "ddim", 2, prompts=["a cat", "a cat"], guidance=2.0)
    assert asked == [Wish("a cat"), Wish(None, negative=True)]
    assert problem.cond is not None
    assert problem.cond.dtype == torch.int64
    sequential(problem)
    assert len(asked) == 2
    model.double()
    x = problem.x0[:1].double()
    assert model(x, torch.tensor([5.0]), problem.cond[:1]).dtype == torch.float64
    assert len(asked) == 3
    model.condition([None] * 3, ["a", "b", "c"])
    assert len(asked) == 3


def test_the_store_forgets_the_oldest() -> None:
    store = PromptStore(lambda wish: {"e": torch.full((2,), float(len(wish.text or "")))}, kept=2)
    numbers = [store.add(Wish(text)) for text in ("a", "bb", "ccc", "bb")]
    assert numbers == [0, 1, 2, 1]
    store.prepare([0, 1])
    store.prepare([2])
    assert list(store.encoded) == [1, 2]
    rows = store.rows(torch.tensor([2, 0, 1, 2]), torch.float64)["e"]  # more than are kept: all that are in use stay
    assert rows.dtype == torch.float64
    assert rows[:, 0].tolist() == [3, 1, 2, 3]
    uneven = PromptStore(lambda wish: {"e": torch.zeros(len(wish.text or ""))})
    with pytest.raises(ValueError, match="one length"):
        uneven.rows(torch.tensor([uneven.add(Wish("a")), uneven.add(Wish("bb"))]), torch.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_weights(root: Path, dtype: str) -> None:
    """States stay float32, outputs are near those of float32 weights, and near times are told apart."""
    full, low = load(root, "sd3"), load(root, "sd3", dtype=dtype)
    assert next(low.network.parameters()).dtype == getattr(torch, dtype)
    outputs: list[Tensor] = []
    for model in (full, low):
        problem = problem_of(model, "euler", 1000, prompts=["a cat", "red"])
        node = torch.tensor([500, 501])
        with torch.no_grad():
            outputs.append(problem.output(problem.x0, node, torch.tensor([0, 1])))
            same = problem.output(problem.x0[[0, 0]], node, torch.tensor([0, 0]))
        assert not torch.equal(same[0], same[1])
    assert outputs[1].dtype == torch.float32
    assert 0 < off(outputs[1], outputs[0]) < 0.1


GRIDS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}),
    ("DDPMScheduler", {"timestep_spacing": "linspace", "beta_schedule": "squaredcos_cap_v2"}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}),
    ("UniPCMultistepScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    ("EDMEulerScheduler", {"sigma_max": 50.0}),
    ("EDMDPMSolverMultistepScheduler", {"sigma_schedule": "exponential"}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_karras_sigmas": True}),
    ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.02}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 2.0}),
]


@pytest.mark.parametrize("steps", [10, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "config"), GRIDS)
def test_grids_of_schedulers(name: str, config: dict[str, Any], steps: int) -> None:
    """Noise levels are those of the scheduler itself."""
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(steps)
    schedule = read_schedule({"_class_name": name, **config}, "here")
    grid = make_grid(schedule.noise, steps, **schedule.grid(steps, 256, listed=False))
    theirs: TimeGrid = read_frame(scheduler).nodes
    wanted = (theirs.sigma / theirs.alpha).unique_consecutive()  # Heun's inner nodes repeat levels
    found = grid.sigma / grid.alpha
    if wanted.isinf()[0]:
        assert found.isinf()[0]
        wanted, found = wanted[1:], found[1:]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_grids_by_resolution(root: Path) -> None:
    """The shift of Flux follows the size of the image, as the pipeline's own does."""
    shifts = [load(root, "flux", height=size, width=size).grid_settings(4)["shift"] for size in (32, 512)]
    pipe = DiffusionPipeline.from_pretrained(save("flux", root))
    assert pipe.vae_scale_factor == 2
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    wanted = [calculate_shift((size // 4) ** 2, 256, 4096, 0.5, 1.15) for size in (32, 512)]
    assert torch.tensor(shifts).log().tolist() == pytest.approx(wanted)
    linear = read_schedule(
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "time_shift_type": "linear"},
        "",
    )
    assert linear.grid(2, 256, listed=True) == {"spacing": "uniform", "shift": 0.5}


def test_grids_that_settings_cannot_express() -> None:
    for name, config in (
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
        ("EDMEulerScheduler", {"final_sigmas_type": "sigma_min"}),
    ):
        schedule = read_schedule({"_class_name": name, **config}, "here")
        with pytest.raises(ValueError, match="write a 'grid' section"):
            schedule.grid(4, 256, listed=False)


def test_schedulers_that_are_not_known() -> None:
    for config, words in (
        ({"_class_name": "Nonsense"}, "none of diffusers'"),
        ({}, "the scheduler None is none of diffusers'"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]}, "describes no known process"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "describes no known process"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "flow sigmas with prediction_type"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "is not known"),
    ):
        with pytest.raises(ParaflowkitError, match=words):
            read_schedule(json.loads(json.dumps(config)), "here")
