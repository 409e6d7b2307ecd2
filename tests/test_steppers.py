"""The steppers beyond their tables: reference loops, what is not affine, the promise, coarse grids, refusals."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from problems import exact_solvers, make_stepper, mixture, problem, sequential, sliding
from pydantic import ValidationError
from torch import Tensor

from paraflowkit import registry
from paraflowkit.core.draws import draw
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import make_problem
from paraflowkit.core.solver import Sweep
from paraflowkit.core.treatment import Treatment, dynamic_threshold, rescale_guidance
from paraflowkit.grid import TimeGrid
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import EDM, VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaDiGMSConfig, ParaFlowConfig
from paraflowkit.solvers.paradigms import ParaDiGMS
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.spacing import make_grid
from paraflowkit.table import StepTable

STEPPERS: list[tuple[str, dict[str, Any]]] = [
    ("euler", {}),
    ("euler-ancestral", {}),
    ("ddim", {}),
    ("ddim", {"eta": 0.7}),
    ("clipped-ddim", {"clip": 1.0}),
    ("clipped-ddim", {"threshold": 0.9, "threshold_max": 2.0, "eta": 0.5}),
    ("ddpm", {}),
    ("ddpm", {"variance": "fixed_large"}),
    *[("dpm-solver", {"order": k}) for k in (1, 2, 3)],
    ("dpm-solver", {"algorithm": "sde-dpmsolver++"}),
    *[("dpm-solver-singlestep", {"order": k}) for k in (2, 3)],
    ("dpm-solver-singlestep", {"algorithm": "sde-dpmsolver++"}),
    *[("unipc", {"order": k}) for k in (1, 2, 3)],
    ("lms", {}),
    ("heun", {}),
    ("flow-heun", {}),
    ("edm", {}),
    ("edm", {"s_churn": 4.0}),
    ("flow-sde", {}),
    ("flow-sde", {"diffusion": "ratio"}),
]
PROCESSES: dict[str, NoiseSchedule] = {
    "flow": FlowMatching(),
    "vp": VP(),
    "ve": VE(),
    "edm": EDM(),
    "zero-snr": VP(schedule="scaled_linear", zero_terminal_snr=True),
}
#: What does not exist: pairs of a stepper and a process, and what the user is told.
NONE = {
    ("flow-heun", "vp"): "use heun",
    ("flow-heun", "zero-snr"): "use heun",
    ("flow-sde", "vp"): "use ddpm or dpm-solver",
    ("flow-sde", "zero-snr"): "use ddpm or dpm-solver",
    ("clipped-ddim", "flow"): "use ddim",
    ("clipped-ddim", "zero-snr"): "use ddim",
    ("heun", "flow"): "use flow-heun or dpm-solver, or list grid.sigmas",
    ("heun", "zero-snr"): "use dpm-solver, or list grid.sigmas",
    ("edm", "flow"): "use flow-heun or dpm-solver, or list grid.sigmas",
    ("edm", "zero-snr"): "use dpm-solver, or list grid.sigmas",
    ("lms", "flow"): "use flow-heun or dpm-solver, or list grid.sigmas",
    ("lms", "zero-snr"): "use dpm-solver, or list grid.sigmas",
}
SPACING: dict[str, dict[str, Any]] = {
    "flow": {"shift": 3.0},
    "vp": {"spacing": "leading", "steps_offset": 1},
    "ve": {"shape": "karras"},
    "edm": {"shape": "exponential"},
    "zero-snr": {"spacing": "trailing"},
}


def model_of(process: str) -> GaussianMixture:
    kind = {"edm": "ve", "zero-snr": "vp"}.get(process, process)
    return mixture(kind, PROCESSES[process], prediction="data")


def check_promise(
    name: str, settings: dict[str, Any], process: str, widths: tuple[int, ...], batch: int, solvers: tuple[str, ...]
) -> None:
    model, stepper = model_of(process), make_stepper(name, **settings)
    grid = make_grid(model.noise, 7, **SPACING[process])
    seeds, classes = list(range(batch)), [i % 4 for i in range(batch)]
    make: Any = {"classes": classes, "guidance": 2.0, "dtype": torch.float64}
    if (name, process) in NONE:
        with pytest.raises(ValueError, match=NONE[name, process]):
            make_problem(model, stepper, grid, seeds, **make)
        return
    p = make_problem(model, stepper, grid, seeds, **make)
    reference = sequential(p).trajectory
    assert reference is not None
    assert bool(reference.isfinite().all())
    for solver in solvers:
        for width in widths:
            found = solve(p, exact_solvers()[solver], sliding(width), trajectory=True)
            assert found.ok
            assert found.stats.sweeps <= p.steps
            assert found.trajectory is not None
            assert (found.trajectory - reference).abs().max() <= 1e-10 * reference.abs().max()


@pytest.mark.parametrize(
    "process", ["flow", *(pytest.param(p, marks=pytest.mark.slow) for p in PROCESSES if p != "flow")]
)
@pytest.mark.parametrize(("name", "settings"), STEPPERS)
def test_parallel_is_sequential(name: str, settings: dict[str, Any], process: str) -> None:
    check_promise(name, settings, process, (4,), 3, ("paradigms",))


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("name", "settings"), STEPPERS)
def test_parallel_is_sequential_for_windows_and_batches(name: str, settings: dict[str, Any], process: str) -> None:
    # All solvers with all steppers are in the exactness matrix; here they meet every setting of the steppers.
    check_promise(name, settings, process, (1, 100), 1, ("paradigms", "parasolver"))
    check_promise(name, settings, process, (100,), 3, ("paraflow",))


def test_every_installed_stepper_is_tested_here() -> None:
    core = {entry.name for entry in registry.entries("stepper") if entry.distribution == "paraflowkit"}
    assert {name for name, _ in STEPPERS} == core


@pytest.mark.parametrize("churn", [{}, {"s_churn": 6.0, "s_tmin": 0.1, "s_tmax": 20.0, "s_noise": 1.01}])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_edm_is_algorithm_2_of_its_paper(churn: dict[str, float], steps: int) -> None:
    noise = VE(sigma_max=80.0)
    model = mixture("ve", noise, prediction="data")
    grid = make_grid(noise, steps, shape="karras")
    p = make_problem(model, make_stepper("edm", **churn), grid, [5, 6], dtype=torch.float64)
    levels = grid.sigma.tolist()
    gammas = [
        min(churn["s_churn"] / steps, 2**0.5 - 1) if churn and churn["s_tmin"] <= level <= churn["s_tmax"] else 0.0
        for level in levels[:-1]
    ]

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - model(x, torch.full((2,), sigma, dtype=torch.float64), None)) / sigma

    x = torch.stack([draw(seed, 0, model.shape) for seed in (5, 6)]) * levels[0] * (1 + gammas[0])
    for i, (level, after) in enumerate(itertools.pairwise(levels)):
        raised = level * (1 + gammas[i])
        if i:  # the table adds this noise in its row 2 i - 1, whose draw is number 2 i
            z = torch.stack([draw(seed, 2 * i, model.shape) for seed in (5, 6)])
            x = x + (raised**2 - level**2) ** 0.5 * churn.get("s_noise", 1.0) * z
        d = slope(x, raised)
        new = x + (after - raised) * d
        if after > 0:
            new = x + (after - raised) * (d + slope(new, after)) / 2
        x = new
    torch.testing.assert_close(sequential(p).x, x, rtol=1e-11, atol=1e-11)


class WithVariance(VelocityModel):
    """A mixture whose output has a second half: a variance, or its place between the two fixed ones."""

    learned_variance = True

    def __init__(self, inner: GaussianMixture, place: bool) -> None:
        super().__init__()
        self.inner, self.place = inner, place
        self.noise, self.prediction, self.shape = inner.noise, inner.prediction, inner.shape

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        value = torch.tanh(x.flip(1)) if self.place else 0.01 + 0.02 * x.sigmoid()
        return torch.cat([self.inner(x, t, cond), value], 1)

    def condition(self, classes: list[int | None], prompts: list[str | None]) -> Tensor | None:
        return self.inner.condition(classes, prompts)

    def null_condition(self, cond: Tensor) -> Tensor:
        return self.inner.null_condition(cond)


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_learned_variance_is_that_of_diffusers(kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = WithVariance(mixture("vp", prediction="noise"), kind == "learned_range")
    stepper = make_stepper("ddpm", variance=kind)
    p = make_problem(model, stepper, make_grid(model.noise, steps, "leading"), [1, 2], dtype=torch.float64)
    scheduler = DDPMScheduler(variance_type=kind, clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    x, count = p.x0, itertools.count()
    noises = [torch.stack([draw(seed, n + 1, model.shape) for seed in (1, 2)]) for n in range(steps)]
    monkeypatch.setattr(
        importlib.import_module("diffusers.schedulers.scheduling_ddpm"),
        "randn_tensor",
        lambda *a, **k: noises[next(count)],
    )
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.double().expand(2), None), int(t), x).prev_sample
    ours = sequential(p)
    assert (ours.x - x).norm() / x.norm() < 1e-5
    found = solve(p, ParaDiGMS(ParaDiGMSConfig(tolerance=0.0)), sliding(4))
    torch.testing.assert_close(found.x, ours.x, rtol=1e-10, atol=1e-10)


def test_a_learned_variance_may_be_ignored_and_guided() -> None:
    inner = mixture("vp", prediction="noise")
    model = WithVariance(inner, True)
    grid = make_grid(model.noise, 6)
    make: Any = {"classes": [0, 1], "guidance": 2.0, "dtype": torch.float64}
    plain = sequential(make_problem(inner, make_stepper("ddim"), grid, [1, 2], **make))
    wide = sequential(make_problem(model, make_stepper("ddim"), grid, [1, 2], **make))
    torch.testing.assert_close(wide.x, plain.x)
    p = make_problem(model, make_stepper("ddpm", variance="learned_range"), grid, [1, 2], **make)
    node, rows = torch.zeros(2, dtype=torch.int64), torch.arange(2)
    alone = dataclasses.replace(p, guidance=None, uncond=None)
    # The variance is that of the conditional branch.
    torch.testing.assert_close(p.output(p.x0, node, rows)[:, 5:], alone.output(p.x0, node, rows)[:, 5:])
    with pytest.raises(ValueError, match="which the network does not predict: use a fixed one"):
        make_problem(inner, make_stepper("ddpm", variance="learned"), grid, [1], dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"clip": 1.0}, {}),
        (
            {"threshold": 0.9, "threshold_max": 2.0},
            {
                "clip_sample": False,
                "thresholding": True,
                "dynamic_thresholding_ratio": 0.9,
                "sample_max_value": 2.0,
            },
        ),
    ],
)
def test_clipped_ddim_is_the_default_of_diffusers(ours: Any, theirs: Any, eta: float) -> None:
    model = mixture("vp", prediction="noise")
    p = problem(model, make_stepper("clipped-ddim", eta=eta, **ours), 20, 3, spacing="leading")
    scheduler = DDIMScheduler(**theirs)
    scheduler.set_timesteps(20)
    x = p.x0
    for n, t in enumerate(scheduler.timesteps):
        z = torch.stack([draw(seed, n + 1, model.shape) for seed in p.seeds])[..., None]
        out = model(x, t.double().expand(3), None)[..., None]
        x = scheduler.step(out, int(t), x[..., None], eta=eta, variance_noise=z if eta else None).prev_sample[..., 0]
    assert (sequential(p).x - x).norm() / x.norm() < 1e-5


class NeedsTable(ParaFlow):
    needs_table = True

    def sweep(self, state: None, sweep: Sweep) -> tuple[Tensor, None]:
        raise AssertionError("never reached")


def test_a_stepper_that_is_not_affine_is_refused_by_solvers_that_need_the_table() -> None:
    p = problem(mixture("vp", prediction="noise"), make_stepper("clipped-ddim", clip=1.0), 5)
    with pytest.raises(ValueError, match=r"NeedsTable needs .* ClippedDDIMRule is not: use a solver that does not"):
        solve(p, NeedsTable(ParaFlowConfig()), sliding(3))
    with pytest.raises(ValueError, match="clipped-ddim is not affine and has no step table: use ddim"):
        make_stepper("clipped-ddim", clip=1.0).table(p.nodes)
    with pytest.raises(ValidationError, match="set either 'clip' or 'threshold'"):
        make_stepper("clipped-ddim")


@pytest.mark.parametrize(("name", "settings"), STEPPERS)
def test_coarse_tables(name: str, settings: dict[str, Any]) -> None:
    """Any stepper steps over the subintervals of a grid, from one of its nodes to another."""
    process = "flow" if name.startswith("flow") else "vp"
    model, stepper = model_of(process), make_stepper(name, **settings)
    grid = make_grid(model.noise, 20)
    fine = stepper.nodes(grid, model.noise)
    for parts in (1, 3, 7, 20):
        coarse = grid.coarse(parts)
        assert set(coarse.t.tolist()) <= set(grid.t.tolist())
        assert (coarse.t[0], coarse.t[-1]) == (grid.t[0], grid.t[-1])
        nodes = stepper.nodes(coarse, model.noise)
        rule = stepper.rule(nodes)
        assert rule.steps == nodes.steps
        if isinstance(rule, StepTable):
            assert torch.equal(rule.a, stepper.table(nodes).a)
        p = make_problem(model, stepper, coarse, [1, 2], dtype=torch.float64)
        assert bool(sequential(p).x.isfinite().all())
        if parts == grid.steps:
            assert torch.equal(nodes.t, fine.t)
    for parts in (0, 21):
        with pytest.raises(ValueError, match=r"has 1 … 20 steps"):
            grid.coarse(parts)


def test_a_subinterval_of_a_grid_is_a_grid() -> None:
    """ParaSolver marches each subinterval on its own: chained over the pieces, one-step methods give the whole."""
    model, stepper = model_of("vp"), make_stepper("ddim")
    grid = make_grid(model.noise, 12)
    whole = sequential(make_problem(model, stepper, grid, [1, 2], dtype=torch.float64)).x
    x = None
    for first in (0, 4, 8):
        part = grid.take(torch.arange(first, first + 5))
        x = sequential(make_problem(model, stepper, part, [1, 2], x0=x, dtype=torch.float64)).x
    torch.testing.assert_close(x, whole, rtol=1e-12, atol=1e-12)


def test_predictions_that_say_nothing_are_refused() -> None:
    for noise in (VE(), FlowMatching()):
        model = mixture("flow", noise, prediction="v")
        with pytest.raises(ValueError, match="v-prediction belongs to variance-preserving processes"):
            make_problem(model, make_stepper("ddim"), make_grid(noise, 4), [1])
    blind = PROCESSES["zero-snr"]
    model = mixture("vp", blind, prediction="noise")
    with pytest.raises(ValueError, match="a predicted noise says nothing about the data"):
        make_problem(model, make_stepper("ddim"), make_grid(blind, 4), [1])
    with pytest.raises(ValueError, match="sde-dpmsolver exists up to order 2"):
        make_stepper("dpm-solver", algorithm="sde-dpmsolver", order=3)
    steps = make_grid(VP(), 5)
    with pytest.raises(ValueError, match=r"use sde-dpmsolver\+\+"):
        make_stepper("dpm-solver", algorithm="sde-dpmsolver").table(steps)
    with pytest.raises(ValueError, match="5 steps are not a multiple of order 2"):
        make_stepper("dpm-solver-singlestep", lower_order_final=False).table(steps)
    early = torch.tensor([900.0, -1.0, -1.0], dtype=torch.float64)
    clean = TimeGrid(early, VP().levels(early))
    for name in ("ddim", "euler", "ddpm", "dpm-solver", "unipc", "heun", "lms", "euler-ancestral"):
        with pytest.raises(ValueError, match="needs noise at every node but the last"):
            make_stepper(name).table(clean)
    with pytest.raises(ValueError, match="set predict to 'data'"):
        make_stepper("unipc", predict="noise").table(make_grid(FlowMatching(), 4))


def test_the_start_has_the_deviation_of_its_level() -> None:
    """Also where the grid starts below the process's own start, and where a method starts above the grid."""
    ve = mixture("ve", VE(), spread=0.5)
    few = make_grid(ve.noise, 6, shape="karras", sigma_max=5.0)
    seeds = list(range(400))
    p = make_problem(ve, make_stepper("ddim"), few, seeds, dtype=torch.float64)
    assert float(p.x0.std()) == pytest.approx(5.0, rel=0.05)
    x = sequential(make_problem(ve, make_stepper("heun"), few, seeds, dtype=torch.float64)).x
    assert float(x.std()) == pytest.approx(ve.data_std, rel=0.15)
    churned = make_problem(ve, make_stepper("edm", s_churn=3.0), few, seeds, dtype=torch.float64)
    assert float(churned.x0.std() / p.x0.std()) == pytest.approx(2**0.5, rel=1e-6)
    flow = mixture("flow", FlowMatching(), spread=0.5)
    for first in (1.0, 0.7):
        grid = make_grid(flow.noise, 3, sigmas=[first, 0.5, 0.2])
        p = make_problem(flow, make_stepper("ddim"), grid, seeds, dtype=torch.float64)
        assert float(p.x0.std()) == pytest.approx((first**2 + (1 - first) ** 2 * flow.data_std**2) ** 0.5, rel=0.05)
    vp = mixture("vp", VP())
    p = make_problem(vp, make_stepper("ddim"), make_grid(vp.noise, 2, sigmas=[1.0, 0.5]), seeds, dtype=torch.float64)
    assert float(p.x0.std()) == pytest.approx(1.0, rel=0.05)


def test_pieces_that_do_not_fit() -> None:
    vp, flow = mixture("vp"), mixture("flow")
    stepper: Any = make_stepper("ddim")
    others = ((vp, VP(schedule="cosine")), (vp, VP(steps=100)), (vp, FlowMatching()), (vp, VE()), (flow, VP()))
    for model, noise in (*others, (mixture("ve", VE()), VP())):
        with pytest.raises(ValueError, match="not those of the model's process"):
            make_problem(model, stepper, make_grid(noise, 4), [1])
    grid = make_grid(vp.noise, 4)
    with pytest.raises(ValueError, match=r"x0 must have the shape \(2, 5\), got \(2, 4\)"):
        make_problem(vp, stepper, grid, [1, 2], x0=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="floating-point"):
        make_problem(vp, stepper, grid, [1], dtype=torch.int64)
    with pytest.raises(ValueError, match="must be finite"):
        make_problem(vp, stepper, grid, [1], classes=[0], guidance=float("nan"))
    p = make_problem(vp, stepper, grid, [1, 2], classes=[0, 1], guidance=2.0)
    assert p.uncond is not None
    for change in ({"cond": p.uncond[:1]}, {"uncond": p.uncond[:1]}, {"seeds": (1,)}):
        with pytest.raises(ValueError, match="A problem of 2 samples needs as many"):
            dataclasses.replace(p, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a condition and an unconditional branch"):
        dataclasses.replace(p, cond=None)
    back = TimeGrid.of(FlowMatching(), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="starts without noise, so its start cannot be drawn"):
        make_problem(flow, make_stepper("euler"), back, [1])


def test_velocity_models_have_every_stepper_of_their_process() -> None:
    """Nodes that a method puts in carry the derivatives too."""
    for noise in (FlowMatching(), VE()):
        model = mixture("flow", noise, prediction="velocity")
        grid = make_grid(noise, 4, sigmas=[0.9, 0.6, 0.3, 0.1])
        for name, settings in STEPPERS:
            p = make_problem(model, make_stepper(name, **settings), grid, [1, 2], dtype=torch.float64)
            assert bool(sequential(p).x.isfinite().all()), name


def test_a_last_step_that_goes_nowhere() -> None:
    """'leading' times end at 0, and so does a grid that stops at the least noise of training."""
    model = mixture("vp", prediction="noise")
    grid = make_grid(model.noise, 5, "leading", final="sigma_min")
    assert float(grid.ratio[-1]) == float(grid.ratio[-2])
    for name, settings in STEPPERS:
        if not name.startswith("flow"):
            p = make_problem(model, make_stepper(name, **settings), grid, [1, 2], dtype=torch.float64)
            assert bool(sequential(p).x.isfinite().all()), name
    twice = grid.take(torch.tensor([0, 1, 1, 2, 3]))
    for name in ("dpm-solver", "unipc", "lms"):
        with pytest.raises(ValueError, match="drop those that repeat"):
            make_stepper(name).table(twice)


@pytest.mark.parametrize("diffusion", ["sigma", "ratio"])
def test_flow_sde_ends_at_the_data_prediction(diffusion: str) -> None:
    for noise in (FlowMatching(), VE()):
        model = mixture("flow", noise, prediction="data")
        p = make_problem(
            model, make_stepper("flow-sde", diffusion=diffusion), make_grid(noise, 3), [1, 2], dtype=torch.float64
        )
        found = sequential(p)
        assert found.trajectory is not None
        last = found.trajectory[:, -2]
        data = model(last, p.nodes.t[-2:-1].expand(2), None)
        torch.testing.assert_close(found.x, data, rtol=1e-9, atol=1e-9)


def test_treatments() -> None:
    data = torch.tensor([[0.1, -0.4, 3.0, -6.0], [0.1, 0.2, -0.3, 0.4]])
    found = dynamic_threshold(data, 0.5, 4.0)
    torch.testing.assert_close(found[0], torch.tensor([0.1 / 1.7, -0.4 / 1.7, 1.0, -1.0]))  # the median is 1.7
    assert torch.equal(found[1], data[1])  # never below 1
    torch.testing.assert_close(dynamic_threshold(data, 1.0, 4.0)[0], data[0].clamp(-4, 4) / 4)
    guided, plain = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    whole = rescale_guidance(guided, plain, 1.0)
    torch.testing.assert_close(whole.std((1, 2)), plain.std((1, 2)))
    torch.testing.assert_close(rescale_guidance(guided, plain, 0.25), 0.25 * whole + 0.75 * guided)
    with pytest.raises(ValueError, match="give one of them"):
        Treatment(clip=1.0, threshold=0.9)
    for wrong in ({"clip": 0.0}, {"threshold": 1.5}, {"threshold_max": 0.5}, {"guidance_rescale": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Treatment(**wrong)
    for name in ("clip", "threshold", "threshold_max", "guidance_rescale"):
        with pytest.raises(ValueError, match=name):
            Treatment(**{name: float("nan")})
    alone = torch.tensor([[2.0]])
    assert torch.equal(rescale_guidance(alone, 3 * alone, 1.0), alone)  # one value has no deviation


@pytest.mark.parametrize("prediction", ["noise", "data", "v"])
def test_limits_reach_every_prediction(prediction: str) -> None:
    """Limited data predictions are the same whatever the network predicts, and so are the samples."""
    model = mixture("vp", prediction=prediction)
    grid = make_grid(model.noise, 8)
    p = make_problem(
        model, make_stepper("dpm-solver"), grid, [1, 2], dtype=torch.float64, treatment=Treatment(clip=0.5)
    )
    node, rows = torch.full((2,), 7), torch.arange(2)
    data = p.output(p.x0, node, rows)
    assert p.wants is Prediction.DATA
    assert float(data.abs().max()) == 0.5
    reference = mixture("vp", prediction="data")
    expected = reference(p.x0, p.nodes.t[node], None).clamp(-0.5, 0.5)
    torch.testing.assert_close(data, expected, rtol=1e-9, atol=1e-9)


def test_guidance_is_rescaled_before_the_sampler() -> None:
    model = mixture("flow", prediction="velocity")
    make: Any = {"classes": [0, 1], "guidance": [3.0, 1.0], "dtype": torch.float64}
    grid = make_grid(model.noise, 6)
    p = make_problem(model, make_stepper("euler"), grid, [1, 2], treatment=Treatment(guidance_rescale=0.7), **make)
    node, rows = torch.full((2,), 2), torch.arange(2)
    found = p.output(p.x0, node, rows)
    guided = make_problem(model, make_stepper("euler"), grid, [1, 2], **make).output(p.x0, node, rows)
    plain = dataclasses.replace(p, guidance=None, uncond=None).output(p.x0, node, rows)
    torch.testing.assert_close(found[:1], rescale_guidance(guided[:1], plain[:1], 0.7))
    torch.testing.assert_close(found[1], plain[1])  # without guidance nothing is rescaled


def test_the_stepper_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page on writing one's own: short, and exact in parallel; its order is measured with the others."""
    folder = Path(__file__).parents[1] / "docs" / "examples"
    assert len((folder / "own_stepper.py").read_text().splitlines()) <= 40
    monkeypatch.syspath_prepend(folder)
    own = make_stepper("own_stepper:Midpoint")
    p = problem(mixture("vp"), own, 6, 2)
    found = solve(p, ParaFlow(ParaFlowConfig(tolerance=0.0)), sliding(4))
    torch.testing.assert_close(found.x, sequential(p).x, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="midpoint needs some data at the start"):
        problem(mixture("flow"), own, 6)
