"""Step tables of configured diffusers schedulers: the sequential sampler is the one that people already use."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_consistency_models import CMStochasticIterativeScheduler
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_sasolver import SASolverScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from matrix import NOISE_END, VP_BASE, Cell, cells, network, others
from problems import sequential, sliding
from torch import Tensor

from paraflowkit.core.draws import draw
from paraflowkit.schedulers import table_from_scheduler
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaDiGMSConfig
from paraflowkit.solvers.paradigms import ParaDiGMS

SHAPE = (5, 1)  # schedulers with thresholding need a dimension after the channels
EPS = torch.finfo(torch.float32).eps

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # diffusers announces the end of two algorithms
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),  # divides 0 by 0
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),  # and hands tensors to NumPy
]


def loop(cell: Cell, scheduler: Any, net: Any, x: Tensor, seeds: list[int], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """diffusers' own loop, as pipelines write it, with noise of ours."""
    step = 0

    def ours(*args: Any, **kwargs: Any) -> Tensor:
        return torch.stack([draw(seed, step + 1, SHAPE) for seed in seeds])

    with monkeypatch.context() as patch:
        if hasattr(cell.module, "randn_tensor"):
            patch.setattr(cell.module, "randn_tensor", ours)
        if hasattr(scheduler, "set_begin_index"):
            # Without it, diffusers takes a first timestep that repeats (beta sigmas at 50 steps) for the second one and
            # runs past its own end.
            scheduler.set_begin_index(0)
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            out = net(seen.double(), t.expand(len(x)), None)
            x = scheduler.step(out, t, x, **cell.step).prev_sample
            step += 1
    return x.double()


def compare(cell: Cell, steps: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, str]:
    """The relative difference of our sequential sample from diffusers' own, and where the table came from."""
    scheduler, seeds = cell.make(steps), [3, 4]
    net = network(cell, scheduler)
    table = table_from_scheduler(scheduler, **cell.step)
    problem = table.problem(net, SHAPE, seeds, dtype=torch.float64)
    theirs = loop(cell, cell.make(steps), net, problem.x0, seeds, monkeypatch)
    return float((sequential(problem).x - theirs).norm() / theirs.norm()), table.source


def probed(cell: Cell, steps: int) -> str | None:
    """Why a table is read off the scheduler instead of being one of ours, which differs from what diffusers does."""
    c = cell.config
    if cell.scheduler == "DDIMScheduler" and c.get("timestep_spacing") == "linspace" and steps > 1:
        return "it steps to the level of t - 1000 // N, which is not that of its next time"
    if c.get("algorithm_type") == "sde-dpmsolver++" and c.get("solver_order") == 3 and steps > 3:
        single = cell.scheduler.startswith("DPMSolverSingle")
        if not single or c["solver_type"] == "heun":
            return "the sign of its third-order term makes it as large as alpha for small steps, where it should vanish"
    if cell.scheduler.startswith("UniPC") and c.get("solver_order") == 4 and steps >= 40:
        return "it solves for the weights in float32"
    if c.get("variance_type") == "fixed_large" and int(cell.make(steps).timesteps[-1]) > 0:
        return "it adds noise to the final sample unless the last time is 0"
    if c.get("stochastic_sampling") and steps > 1:
        return "no stepper of ours renoises the data prediction"
    return None


def float32_floor(cell: Cell, steps: int) -> float:
    """What the scheduler's float32 arithmetic costs where it is more than 1e-5."""
    c = cell.config
    cosine, blind = c.get("beta_schedule") == "squaredcos_cap_v2", c.get("rescale_betas_zero_snr")
    exploding = cell.scheduler in ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler")
    if exploding and (cosine or blind):  # states of sigma = 2e4 or 4e3
        return max(1e-5, 4 * EPS * float(cell.make(steps).sigmas.max()))
    if c.get("lambda_min_clipped") and steps == 1:
        return 1e-4  # one division by alpha = 0.006
    if cell.step.get("eta"):
        return 2e-5
    return 1e-5


def fails(cell: Cell, steps: int) -> str | None:
    """Where diffusers itself gives no finite sample, if the processor rounds so."""
    c = cell.config
    if (
        cell.scheduler == "DDIMScheduler"
        and c.get("rescale_betas_zero_snr")
        and cell.step.get("eta") == 1.0
        and steps > 5
    ):
        return "rounding takes the square root of a negative number"
    if c.get("shift_terminal") and steps == 1:
        return "it divides 0 by 0"
    return None


def runs(cell: Cell, steps: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether diffusers' own loop ends in a finite sample."""
    scheduler = cell.make(steps)
    net = network(cell, scheduler)
    x = torch.stack([draw(seed, 0, SHAPE) for seed in (3, 4)])
    return bool(loop(cell, scheduler, net, x, [3, 4], monkeypatch).isfinite().all())


def check_matrix(cell: Cell, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in counts:
        if fails(cell, steps) is not None and not runs(cell, steps, monkeypatch):
            with pytest.raises(ValueError, match="finite"):
                compare(cell, steps, monkeypatch)
            continue
        error, source = compare(cell, steps, monkeypatch)
        assert error < float32_floor(cell, steps), (steps, source)
        if fails(cell, steps) is None:
            assert source == ("config" if probed(cell, steps) is None else "probe"), steps


def thinned(found: list[Cell], every: int = 1) -> list[Any]:
    """A quarter of them for every day; of the rest, one in ``every`` with the slow tests."""
    slow = [c for i, c in enumerate(found) if i % 4]
    return [*found[::4], *(pytest.param(c, marks=pytest.mark.slow) for c in slow[::every])]


@pytest.mark.parametrize("cell", thinned(cells()), ids=str)
def test_matrix(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    check_matrix(cell, (1, 2, 5), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells()[1::6], ids=str)
def test_matrix_of_many_steps(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    check_matrix(cell, (25,), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells()[::12], ids=str)
def test_matrix_of_still_more_steps(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    check_matrix(cell, (50,), monkeypatch)


THOUSAND = [
    Cell("DDIMScheduler", {**VP_BASE, "clip_sample": False}, {"eta": 0.0}),
    Cell("DDPMScheduler", {**VP_BASE, "clip_sample": False}),
    Cell("EulerDiscreteScheduler", VP_BASE),
    Cell("EulerAncestralDiscreteScheduler", VP_BASE),
    Cell("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize("cell", THOUSAND, ids=str)
def test_a_thousand_steps(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    error, source = compare(cell, 1000, monkeypatch)
    assert error < 2e-5
    assert source == "config"


def double(scheduler: Any) -> Any:
    """The scheduler with its own tables in float64."""
    for name in ("alphas", "betas", "alphas_cumprod", "final_alpha_cumprod", "one"):
        if isinstance(getattr(scheduler, name, None), Tensor):
            setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


# At zero terminal SNR they divide by an alpha that only float32 keeps from being 0.
DOUBLE = [
    c
    for c in cells()
    if c.scheduler in ("DDIMScheduler", "DDPMScheduler") and not c.config.get("rescale_betas_zero_snr")
]


@pytest.mark.slow
@pytest.mark.parametrize("cell", DOUBLE[::3], ids=str)
def test_what_is_left_is_float32(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a scheduler's arithmetic follows its tables, float64 tables leave no difference to speak of."""
    make = Cell.make
    monkeypatch.setattr(Cell, "make", lambda self, steps: double(make(self, steps)))
    for steps in (5, 50, 1000) if cell in THOUSAND else (5, 50):
        if probed(cell, steps) is None:
            assert compare(cell, steps, monkeypatch)[0] < 1e-9, steps


@pytest.mark.parametrize("cell", others(), ids=str)
def test_other_schedulers_are_read_off(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (5, 25):
        error, source = compare(cell, steps, monkeypatch)
        assert error < 1e-5, steps
        assert source == "probe"


def check_parallel(cell: Cell, steps: int, widths: tuple[int, ...], batches: tuple[int, ...]) -> None:
    scheduler = cell.make(steps)
    table, net = table_from_scheduler(scheduler, **cell.step), network(cell, scheduler)
    for batch in batches:
        problem = table.problem(net, SHAPE, list(range(batch)), dtype=torch.float64)
        reference = sequential(problem).trajectory
        for width in widths:
            found = solve(problem, ParaDiGMS(ParaDiGMSConfig(tolerance=0.0)), sliding(width), trajectory=True)
            assert found.ok
            assert found.stats.sweeps <= problem.steps
            assert found.trajectory is not None
            assert reference is not None
            assert (found.trajectory - reference).abs().max() <= 1e-10 * reference.abs().max()


EVERY = [c for c in cells() + others() if fails(c, 8) is None]


@pytest.mark.parametrize("cell", thinned(EVERY, 3), ids=str)
def test_parallel_is_sequential(cell: Cell) -> None:
    check_parallel(cell, 6, (4,), (3,))


@pytest.mark.slow
@pytest.mark.parametrize("cell", EVERY[::4], ids=str)
def test_parallel_is_sequential_for_windows_and_batches(cell: Cell) -> None:
    check_parallel(cell, 8, (1, 100), (1, 3))


def test_the_scheduler_is_not_changed() -> None:
    scheduler = DDPMScheduler(**VP_BASE)
    scheduler.set_timesteps(5)
    before = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(scheduler).items()}
    config = dict(scheduler.config)
    state = torch.random.get_rng_state()
    table_from_scheduler(scheduler)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert dict(scheduler.config) == config
    for key, value in vars(scheduler).items():
        assert torch.equal(value, before[key]) if isinstance(value, Tensor) else value == before[key], key


def stepped(cls: Any, steps: int, **config: Any) -> Any:
    made = cls(**config)
    made.set_timesteps(steps)
    return made


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (lambda: DDIMScheduler(clip_sample=False), {}, "call its set_timesteps first"),
    (lambda: PNDMScheduler(), {}, "PNDMScheduler has no steps yet"),
    (lambda: UniPCMultistepScheduler(), {}, "call its set_timesteps first"),
    (lambda: stepped(DDIMScheduler, 3), {}, r"not affine: set clip_sample and thresholding to False, .* clipped-ddim"),
    (
        lambda: stepped(DDPMScheduler, 3, variance_type="learned_range"),
        {},
        "use the stepper ddpm with variance 'learned_range'",
    ),
    (lambda: stepped(SASolverScheduler, 5), {}, "noise of earlier steps again"),
    (lambda: stepped(UniPCMultistepScheduler, 5, solver_type="bh1"), {}, "itself gives values .* not finite in step 4"),
    (lambda: stepped(CMStochasticIterativeScheduler, 2, sigma_data=0.3), {}, "not affine as it is configured"),
    (lambda: stepped(EulerDiscreteScheduler, 2, prediction_type="nonsense"), {}, "unknown prediction_type 'nonsense'"),
    (
        lambda: stepped(DDIMScheduler, 2, trained_betas=[0.01] * 10, clip_sample=False),
        {},
        "noise levels cannot be read, its configuration seems not to fit itself",
    ),
    (lambda: stepped(EulerDiscreteScheduler, 2), {"nonsense": 1}, "fails in step 0 .*nonsense"),
    (lambda: None, {}, "takes a configured scheduler object of diffusers, got <class 'NoneType'>"),
    (lambda: DDIMScheduler, {}, "takes a configured scheduler object"),
]


@pytest.mark.parametrize(("make", "options", "words"), REFUSED)
def test_what_is_no_step_table_gets_a_sentence(make: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as found:
        table_from_scheduler(make(), **options)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        # Settings that our steppers do not have, and a limit that the scheduler does not apply.
        (lambda: stepped(UniPCMultistepScheduler, 8, solver_order=5), {}),
        (lambda: stepped(LMSDiscreteScheduler, 8), {"order": 6}),
        (lambda: stepped(DDIMScheduler, 8, clip_sample=False), {"eta": -0.5}),
        (lambda: stepped(CogVideoXDDIMScheduler, 8), {}),
    ],
)
def test_settings_of_their_own_are_read_off(make: Any, options: dict[str, Any]) -> None:
    found = table_from_scheduler(make(), **options)
    assert found.source == "probe"
    assert not found.treatment.limits


def test_steps_of_ones_own_choice() -> None:
    scheduler = DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(timesteps=[900, 500, 100])
    found = table_from_scheduler(scheduler)
    assert found.timesteps.tolist() == [900, 500, 100]
    assert found.source == "config"


def test_a_small_clip_cannot_hide_behind_a_large_state() -> None:
    class Bent(EulerDiscreteScheduler):
        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **rest: Any) -> Any:  # type: ignore[override]
            return (super().step(model_output, timestep, sample, **rest)[0] + 0.1 * torch.tanh(3 * model_output),)

    kind = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    with pytest.raises(ValueError, match="not affine as it is configured"):
        table_from_scheduler(stepped(Bent, 1, **kind))


def test_made_up_levels_are_not_divided_by() -> None:
    cell = Cell("KDPM2DiscreteScheduler", VP_BASE)
    scheduler = cell.make(5)
    table = table_from_scheduler(scheduler)
    assert table.nominal
    problem = table.problem(network(cell, scheduler), SHAPE, [0])
    with pytest.raises(ValueError, match="the norm 'sigma' means nothing: use norm 'absolute'"):
        solve(problem, ParaDiGMS(ParaDiGMSConfig(tolerance=0.1, norm="sigma")), sliding(3))
    assert solve(problem, ParaDiGMS(ParaDiGMSConfig(tolerance=0.1, norm="absolute")), sliding(3)).ok
    for known in (LCMScheduler, TCDScheduler):
        assert not table_from_scheduler(stepped(known, 4, clip_sample=False)).nominal


def test_wrong_use_of_a_table_gets_a_sentence() -> None:
    table = table_from_scheduler(stepped(EDMEulerScheduler, 3))
    with pytest.raises(ValueError, match="give at least one seed"):
        table.problem(lambda x, t, c: x, SHAPE, [])
    with pytest.raises(ValueError, match="as many conditions, got 3"):
        table.problem(lambda x, t, c: x, SHAPE, [0, 1], cond=torch.zeros(3))
    with pytest.raises(ValueError, match="this scheduler's network is preconditioned"):
        table.problem(lambda x, t, c: x, SHAPE, [0], guidance_rescale=0.5)
    with pytest.raises(ValueError, match=r"outputs of shape \(1, 10, 1\) for states of shape \(1, 5, 1\)"):
        sequential(table.problem(lambda x, t, c: torch.cat([x, x], 1), SHAPE, [0]))


def test_a_scheduler_that_is_not_affine_is_refused() -> None:
    class Squashing(DDIMScheduler):
        def step(self, model_output: Tensor, timestep: int, sample: Tensor, **rest: Any) -> Any:  # type: ignore[override]
            return (torch.tanh(sample - 0.1 * model_output),)

    scheduler = Squashing(clip_sample=False)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="not affine as it is configured"):
        table_from_scheduler(scheduler)


def test_a_scheduler_with_a_step_of_its_own_is_read_off() -> None:
    class Halving(DDIMScheduler):
        def step(self, model_output: Tensor, timestep: int, sample: Tensor, **rest: Any) -> Any:  # type: ignore[override]
            return (0.5 * sample - 0.25 * model_output,)

    scheduler = Halving(clip_sample=False)
    scheduler.set_timesteps(4)
    found = table_from_scheduler(scheduler)
    assert found.source == "probe"
    # m is the noise prediction here, as the configuration says.
    assert found.table.a.tolist() == [[0.5]] * 4
    assert found.table.b.tolist() == [[-0.25]] * 4


def test_a_stepped_scheduler_is_refused() -> None:
    scheduler = UniPCMultistepScheduler()
    scheduler.set_timesteps(3)
    x = torch.zeros(1, 1, 2, 2)
    scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="has stepped already"):
        table_from_scheduler(scheduler)


def test_guidance_and_conditions_reach_the_network() -> None:
    scheduler = UniPCMultistepScheduler(**VP_BASE, **NOISE_END)
    scheduler.set_timesteps(4)
    table = table_from_scheduler(scheduler)

    def net(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        assert cond is not None
        assert t.dtype == scheduler.timesteps.dtype
        return cond[:, :, None, None].expand_as(x).to(x.dtype)

    cond, free = torch.full((2, 1), 3.0), torch.full((2, 1), 1.0)
    problem = table.problem(net, (1, 2, 2), [0, 1], cond=cond, uncond=free, guidance=[2.0, 1.0], dtype=torch.float64)
    out = problem.output(problem.x0, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    plain = dataclasses.replace(
        problem, evaluate=lambda x, node, c: torch.full_like(x, 5.0), guidance=None, uncond=None
    )
    expected = plain.output(problem.x0, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    torch.testing.assert_close(out[0], expected[0])
    with pytest.raises(ValueError, match="as many guidance scales"):
        table.problem(net, (1, 2, 2), [0, 1], guidance=[1.0])


def test_the_example_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[1] / "docs" / "examples" / "scheduler_table.py"
    runpy.run_path(str(script))
    printed = capsys.readouterr().out
    assert printed.startswith("config: 10 calls instead of 25, rmse ")
    assert float(printed.split()[-1]) < 1e-2
