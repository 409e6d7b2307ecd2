"""Spacings against the sigmas and timesteps of diffusers' schedulers, which hold them in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from paraflowkit.grid import TimeGrid
from paraflowkit.noise import EDM, VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.spacing import make_grid, resolution_shift

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers hands tensors to NumPy

NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
SPACINGS_OF_VP = ["leading", "trailing", "linspace"]
SHAPES = [None, "karras", "exponential", "beta"]


def check(grid: TimeGrid, scheduler: Any, rtol: float = 2e-5) -> None:
    torch.testing.assert_close(grid.ratio[:-1], scheduler.sigmas[:-1].double(), rtol=rtol, atol=1e-6)
    torch.testing.assert_close(grid.ratio[-1:], scheduler.sigmas[-1:].double(), rtol=rtol, atol=1e-6)


def check_times(grid: TimeGrid, scheduler: Any, atol: float) -> None:
    torch.testing.assert_close(grid.t[:-1], scheduler.timesteps.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("schedule", NAMES)
def test_euler(schedule: str, spacing: str, shape: str | None) -> None:
    chosen = {} if shape is None else {f"use_{shape}_sigmas": True}
    theirs = EulerDiscreteScheduler(beta_schedule=NAMES[schedule], timestep_spacing=spacing, steps_offset=1, **chosen)  # type: ignore[arg-type]
    noise = VP(schedule=schedule)
    for steps in (1, 2, 7, 25, 50):
        theirs.set_timesteps(steps)
        offset = 1 if spacing == "leading" else 0
        ours = make_grid(noise, steps, spacing, steps_offset=offset, convention="euler", shape=shape)
        # float32 products of a thousand alphas: the cosine schedule's last ones keep three digits.
        check(ours, theirs, 1e-3 if schedule == "cosine" else 2e-4)
        check_times(ours, theirs, 0.5 if schedule == "cosine" else 2e-2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_dpm(spacing: str, shape: str | None) -> None:
    chosen = {} if shape is None else {f"use_{shape}_sigmas": True}
    theirs = DPMSolverMultistepScheduler(timestep_spacing=spacing, **chosen)  # type: ignore[arg-type]
    for steps in (1, 2, 7, 25, 50):
        theirs.set_timesteps(steps)
        ours = make_grid(VP(), steps, "uniform" if shape else spacing, convention="dpm", shape=shape)
        check(ours, theirs, 2e-4)
        # Times of shapes are rounded or cut off, which float32 decides where they almost are whole or halves.
        sharp = VP().time_of(ours.ratio[:-1])
        place = sharp - 0.5 if shape == "karras" else sharp
        near = (place - place.round()).abs() < 5e-3 if shape else torch.zeros(steps, dtype=torch.bool)
        if steps > 1:
            assert ours.t[0] == theirs.timesteps[0]
        apart = (ours.t[:-1] - theirs.timesteps.double()).abs()
        assert bool(((apart == 0) | ((apart == 1) & near)).all())


@pytest.mark.parametrize("total", [1000, 100])
def test_times_of_every_number_of_steps(total: int) -> None:
    """Halves are rounded by the last bit of a sum, so each number of steps counts."""
    ddim = {s: DDIMScheduler(num_train_timesteps=total, timestep_spacing=s) for s in SPACINGS_OF_VP}
    dpm = {s: DPMSolverMultistepScheduler(num_train_timesteps=total, timestep_spacing=s) for s in SPACINGS_OF_VP}
    noise = VP(steps=total)
    for steps in range(1, total + 1, 1 if total == 100 else 7):
        for spacing in SPACINGS_OF_VP:
            ddim[spacing].set_timesteps(steps)
            # diffusers' sums sometimes run to one time too many, -1, which our grids end with anyway.
            assert make_grid(noise, steps, spacing).t[:-1].tolist() == ddim[spacing].timesteps[:steps].tolist(), steps
            if steps < total // 2:  # diffusers repeats training steps here, which is refused
                dpm[spacing].set_timesteps(steps)
                ours = make_grid(noise, steps, spacing, convention="dpm")
                assert ours.t[:-1].tolist() == dpm[spacing].timesteps[:steps].tolist(), steps


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_final_level(final: str) -> None:
    theirs = EulerDiscreteScheduler(final_sigmas_type=final)  # type: ignore[arg-type]
    theirs.set_timesteps(10)
    check(make_grid(VP(), 10, "linspace", convention="euler", final=final), theirs, 2e-4)


def test_zero_terminal_snr() -> None:
    theirs = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    theirs.set_timesteps(20)
    grid = make_grid(VP(zero_terminal_snr=True), 20, "trailing")
    assert float(grid.alpha[0]) == 0.0
    bars = theirs.alphas_cumprod[theirs.timesteps].double()
    torch.testing.assert_close(grid.alpha[:-1].square(), bars, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_zero_terminal_snr_where_levels_are_ratios(spacing: str, shape: str | None) -> None:
    """The infinite level has a finite stand-in there, the one of diffusers."""
    chosen = {} if shape is None else {f"use_{shape}_sigmas": True}
    noise = VP(zero_terminal_snr=True)
    for convention, kind in (("euler", EulerDiscreteScheduler), ("dpm", DPMSolverMultistepScheduler)):
        theirs: Any = kind(rescale_betas_zero_snr=True, timestep_spacing=spacing, **chosen)  # type: ignore[operator]
        theirs.set_timesteps(20)
        unused = convention == "dpm" and shape is not None
        ours = make_grid(noise, 20, "uniform" if unused else spacing, convention=convention, shape=shape)
        check(ours, theirs, 5e-3)  # float32 keeps three digits of what is left of alpha
        assert float(ours.ratio[0]) == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("settings", [{"sigma_schedule": "karras"}, {"sigma_schedule": "exponential"}, {"rho": 5.0}])
def test_edm(settings: dict[str, Any]) -> None:
    theirs = EDMEulerScheduler(**settings)
    theirs.set_timesteps(18)
    ours = make_grid(EDM(), 18, shape=settings.get("sigma_schedule", "karras"), rho=settings.get("rho", 7.0))
    check(ours, theirs)
    _, _, _, told = EDM().preconditioning(ours.t[:-1])
    torch.testing.assert_close(told, theirs.timesteps.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow(shift: float, shape: str | None) -> None:
    chosen = {} if shape is None else {f"use_{shape}_sigmas": True}
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift, **chosen)  # type: ignore[arg-type]
    for steps in (1, 2, 25):
        theirs.set_timesteps(steps)
        ours = make_grid(FlowMatching(), steps, "linspace", shift, shape=shape)
        torch.testing.assert_close(ours.sigma, theirs.sigmas.double(), rtol=2e-5, atol=1e-6)
        theirs.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
        ours = make_grid(FlowMatching(), steps, "uniform", shift, shape=shape)
        torch.testing.assert_close(ours.sigma, theirs.sigmas.double(), rtol=2e-5, atol=1e-6)
    if shape is None:
        theirs.set_timesteps(sigmas=[1.0, 0.5, 0.2])  # given levels are shifted too
        ours = make_grid(FlowMatching(), 3, shift=shift, sigmas=[1.0, 0.5, 0.2])
        torch.testing.assert_close(ours.sigma, theirs.sigmas.double(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_shift_by_resolution_and_terminal(tokens: int) -> None:
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)  # the line that pipelines of diffusers draw
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.05)  # type: ignore[arg-type]
    theirs.set_timesteps(sigmas=torch.linspace(1, 1 / 28, 28).tolist(), mu=mu)
    ours = make_grid(FlowMatching(), 28, shift=resolution_shift(tokens), shift_terminal=0.05)
    torch.testing.assert_close(ours.sigma, theirs.sigmas.double(), rtol=2e-5, atol=1e-6)


def test_lists() -> None:
    # The list of Align Your Steps for Stable Diffusion 1.5, ten steps.
    known = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    noise = VP(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs.set_timesteps(sigmas=[*known, 0.0])
    exact = make_grid(noise, 10, sigmas=known)
    check(exact, theirs)
    check_times(exact, theirs, 2e-2)
    torch.testing.assert_close(make_grid(noise, 10, sigmas=[*known, 0.0]).t, exact.t)
    more = make_grid(noise, 20, sigmas=known).ratio[:-1]
    place = np.linspace(0, 9, 20)
    torch.testing.assert_close(more, torch.from_numpy(np.exp(np.interp(place, np.arange(10), np.log(known)))))
    times = [999.0, 850.0, 736.0, 645.0, 545.0, 455.0, 343.0, 233.0, 124.0, 24.0]
    assert make_grid(noise, 10, times=times).t.tolist() == [*times, -1.0]
    assert make_grid(FlowMatching(), 2, sigmas=[1.0, 0.4]).t.tolist() == pytest.approx([0.0, 0.6, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 60),
    noise=st.sampled_from([FlowMatching(), VP(), VP(schedule="cosine"), VP(schedule="sigmoid"), VE(), EDM()]),
    shape=st.sampled_from(SHAPES),
    convention=st.sampled_from(["ddim", "euler", "dpm"]),
)
def test_levels_fall_and_times_tell_them(steps: int, noise: NoiseSchedule, shape: str | None, convention: str) -> None:
    convention = convention if isinstance(noise, VP) else "ddim"
    grid = make_grid(noise, steps, shape=shape, convention=convention)
    assert grid.steps == steps
    assert bool((grid.ratio[1:] < grid.ratio[:-1]).all())
    if convention != "dpm" or shape is None:
        at = noise.levels(grid.t[:-1])
        torch.testing.assert_close(at.sigma, grid.sigma[:-1], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(noise.time_of(grid.ratio[:-1]), grid.t[:-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "at least one, got 0"),
        ({"steps": 2.5}, "whole number of steps"),
        ({"steps": 2000}, "more than the 1000"),
        ({"spacing": "karras"}, "Unknown spacing 'karras'.*'karras' is a shape"),
        ({"shape": "karass"}, "Unknown shape 'karass'"),
        ({"convention": "heun"}, "Unknown convention"),
        ({"final": "one"}, "Unknown final"),
        ({"sigmas": [500.0, 1.0]}, "leave the process"),
        ({"sigmas": [1.0, 2.0]}, "fall strictly"),
        ({"sigmas": []}, "empty list"),
        ({"times": [1000.0, 3.0]}, "must lie in 0 … 999"),
        ({"shape": "karras", "sigmas": [1.0]}, "give one of them"),
        ({"shape": "karras", "rho": 0.0}, "'rho' must be positive"),
        ({"shape": "karras", "sigma_min": 9.0, "sigma_max": 1.0}, "sigma_min <= sigma_max"),
        ({"shift": 2.0}, "'shift' is a setting of flow-matching grids"),
        ({"shift_terminal": 0.1}, "'shift_terminal' is a setting of flow-matching grids"),
        ({"steps_offset": 1}, "VP grids with 'leading' spacing"),
        ({"sigma_max": 10.0}, "'sigma_max' is a setting of shapes"),
        ({"sigma_min": 1.0, "sigmas": [2.0, 1.0]}, "'sigma_min' is a setting of shapes"),
        ({"rho": 5.0, "shape": "beta"}, "'rho' is a setting of the shape 'karras'"),
        ({"spacing": "leading", "sigmas": [2.0, 1.0]}, "grids without a list"),
        ({"shape": "karras", "rho": 1e-6}, "not finite: use one nearer to 7"),
        ({"sigmas": [float("nan"), 1.0]}, "'sigmas' must be positive and finite"),
        ({"sigmas": [-1.0]}, "'sigmas' must be positive and finite"),
        ({"sigmas": [float("inf"), 1.0]}, "'sigmas' must be positive and finite"),
        ({"times": [float("nan"), 1.0]}, "'times' must be finite"),
        ({"sigmas": [1.0]}, "give at least two"),
        ({"sigmas": [1.0, 5.0, 0.5]}, "fall strictly"),
        ({"sigmas": [1.0, 0.5], "convention": "euler"}, "not listed"),
        ({"shape": "karras", "convention": "dpm", "spacing": "leading"}, "without a shape of convention 'dpm'"),
        ({"steps": float("nan")}, "whole number of steps"),
    ],
)
def test_ill_settings_get_a_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_grid(VP(), **{"steps": 5, **settings})


def test_settings_of_other_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="use 'uniform' or a shape"):
        make_grid(VE(), 5, "leading")
    for setting in ({"final": "sigma_min"}, {"convention": "dpm"}, {"steps_offset": 1}):
        for noise in (VE(), FlowMatching()):
            with pytest.raises(ValueError, match="setting of VP grids"):
                make_grid(noise, 5, **setting)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not listed by time"):
        make_grid(FlowMatching(), 2, shift=3.0, times=[0.0, 0.5])
    with pytest.raises(ValueError, match="the end left out"):
        make_grid(VE(), 6, times=[10.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="leave the process"):
        make_grid(VE(), 3, times=[10.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="beyond what the shift by resolution"):
        resolution_shift(10**10)
    with pytest.raises(ValueError, match="at least two steps"):
        make_grid(FlowMatching(), 1, shift_terminal=0.1)
    with pytest.raises(ValueError, match="at least one token"):
        resolution_shift(0)


def test_coarse_grids() -> None:
    grid = make_grid(FlowMatching(), 10)
    assert grid.coarse(5).t.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert grid.coarse(10).t.tolist() == grid.t.tolist()
    assert grid.coarse(3).steps == 3
    assert grid.coarse(1).t.tolist() == [0.0, 1.0]
    for steps in (0, 11, 2.5):
        with pytest.raises(ValueError, match=r"has 1 … 10 steps"):
            grid.coarse(steps)  # type: ignore[arg-type]


def test_every_node_is_told_its_own_time() -> None:
    """Also listed ones that are interpolated, and an end that is not clean."""
    flow = make_grid(FlowMatching(), 5, times=[0.0, 0.3, 0.9])
    torch.testing.assert_close(flow.sigma, 1 - flow.t)
    assert make_grid(VP(), 5, final="sigma_min").t[-1] == 0.0
    assert make_grid(VP(final_alpha_one=False), 5).t[-1] == 0.0
    assert make_grid(VP(), 5).t[-1] == -1.0


class Trigonometric(NoiseSchedule):
    """A process of a third party, from time 1 to 0."""

    start, end = 1.0, 0.0  # type: ignore[assignment]

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return torch.where(t == 1, 0.0, (t * torch.pi / 2).cos())

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        return (t * torch.pi / 2).sin()

    def time_of(self, ratio: torch.Tensor) -> torch.Tensor:
        return ratio.atan() / (torch.pi / 2)


def test_processes_of_others() -> None:
    noise = Trigonometric()
    grid = make_grid(noise, 4)
    assert grid.t.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    torch.testing.assert_close(grid.alpha, noise.alpha(grid.t))
    listed = make_grid(noise, 2, sigmas=[5.0, 0.5])
    torch.testing.assert_close(listed.ratio[:-1], torch.tensor([5.0, 0.5], dtype=torch.float64))


def test_nodes_between() -> None:
    grid = make_grid(VE(), 3)
    t = torch.tensor([70.0, 30.0, 10.0], dtype=torch.float64)
    found = grid.interleave(t, VE().levels(t))
    assert found.t.tolist() == [grid.t[0], 70.0, grid.t[1], 30.0, grid.t[2], 10.0, 0.0]
    assert torch.equal(found.sigma, found.t)
    assert found.levels.dsigma is not None
