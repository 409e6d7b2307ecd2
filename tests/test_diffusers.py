"""The sequential sampler is the one that diffusers users already have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from problems import STEPPERS, mixture, problem, sequential

from paraflowkit.core.problem import make_problem
from paraflowkit.models.configs import DigitsConfig
from paraflowkit.models.digits.adapter import DigitsFlow, DigitsVP
from paraflowkit.noise import VP
from paraflowkit.spacing import make_grid

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 5, 50])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim(schedule: str, steps: int, spacing: str, one: bool) -> None:
    noise = VP(schedule=schedule, final_alpha_one=one)
    model = mixture("vp", noise, prediction="noise")
    ours = sequential(problem(model, STEPPERS["ddim-0"], steps, 3, spacing=spacing))
    theirs = DDIMScheduler(
        beta_schedule=SCHEDULES[schedule], clip_sample=False, set_alpha_to_one=one, timestep_spacing=spacing
    )
    theirs.set_timesteps(steps)

    def run() -> torch.Tensor:
        x = problem(model, STEPPERS["ddim-0"], steps, 3).x0
        for t in theirs.timesteps:
            x = theirs.step(model(x, t.double().expand(len(x)), None), int(t), x).prev_sample
        return x

    if schedule != "cosine" and steps > 1:
        x = run()
        assert (ours.x - x).norm() / x.norm() < 1e-5
    # The first step divides by alpha (0.006; 5e-5 for cosine), which magnifies the rounding of diffusers' float32
    # tables: with the same table in float64 the two agree to the last digits, whatever the schedule.
    exact = noise.alpha_bar(torch.arange(1000, dtype=torch.float64))
    torch.testing.assert_close(theirs.alphas_cumprod.double(), exact, rtol=1e-4, atol=1e-9)
    theirs.alphas_cumprod = exact
    theirs.final_alpha_cumprod = torch.ones(()).double() if one else exact[0]
    x = run()
    assert (ours.x - x).norm() / x.norm() < 1e-9


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_ddim_with_the_same_noise(eta: float) -> None:
    from paraflowkit.core.draws import draw
    from paraflowkit.steppers.configs import DDIMConfig
    from paraflowkit.steppers.ddim import DDIM

    model = mixture("vp", prediction="noise")
    p = problem(model, DDIM(DDIMConfig(eta=eta)), 25, 3, spacing="leading")
    theirs = DDIMScheduler(clip_sample=False)
    theirs.set_timesteps(25)
    x = p.x0
    for n, t in enumerate(theirs.timesteps):
        z = torch.stack([draw(seed, n + 1, model.shape) for seed in p.seeds])
        out = model(x, t.double().expand(len(x)), None)
        x = theirs.step(out, int(t), x, eta=eta, variance_noise=z).prev_sample
    assert (sequential(p).x - x).norm() / x.norm() < 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 5, 50])
def test_flow_euler(steps: int, shift: float) -> None:
    model = mixture("flow", prediction="velocity")
    grid = make_grid(model.noise, steps, shift=shift)
    p = make_problem(model, STEPPERS["euler"], grid, [1, 2, 3], dtype=torch.float64)
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    # The scheduler's own default starts at sigma_min-spaced times; pipelines pass these sigmas, and so do we.
    theirs.set_timesteps(sigmas=torch.linspace(1.0, 1 / steps, steps).tolist())
    x = p.x0
    for t in theirs.timesteps:
        time = 1 - t.double().expand(len(x)) / 1000
        x = theirs.step(-model(x, time, None), t, x).prev_sample
    assert (sequential(p).x - x).norm() / x.norm() < 1e-5


def test_times_of_spacings() -> None:
    for spacing in ("leading", "trailing", "linspace"):
        for steps in (1, 2, 7, 25, 50, 1000):
            theirs = DDIMScheduler(timestep_spacing=spacing)
            theirs.set_timesteps(steps)
            ours = make_grid(VP(), steps, spacing).t[:-1]
            assert ours.long().tolist() == theirs.timesteps.tolist(), (spacing, steps)


@pytest.mark.parametrize("process", ["flow", "vp"])
def test_shipped_folders_work_in_a_plain_diffusers_loop(process: str) -> None:
    """The folders are diffusers' own: network and scheduler loaded by diffusers give our sequential samples."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    from paraflowkit.models.digits.adapter import WEIGHTS

    folder = WEIGHTS / f"digits-{process}"
    unet: Any = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
    scheduler_cls: Any = FlowMatchEulerDiscreteScheduler if process == "flow" else DDIMScheduler
    scheduler = scheduler_cls.from_pretrained(folder / "scheduler", local_files_only=True)
    model = (DigitsFlow if process == "flow" else DigitsVP)(DigitsConfig())
    steps, label = 10, torch.tensor([4])
    if process == "flow":
        scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / steps, steps).tolist())
    else:
        scheduler.set_timesteps(steps)
    p = make_problem(
        model,
        STEPPERS["euler" if process == "flow" else "ddim-0"],
        make_grid(model.noise, steps),
        [7],
        classes=[4],
    )
    x = p.x0
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t.expand(1).float(), class_labels=label).sample, t, x).prev_sample
    assert (sequential(p).x - x).norm() / x.norm() < 1e-5
