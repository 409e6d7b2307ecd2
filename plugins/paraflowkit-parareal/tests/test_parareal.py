"""Parareal, found through its entry points: exact at tolerance 0, and the plain iteration on a linear flow."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch
from paraflowkit import registry
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.models.configs import DigitsConfig, GaussianMixtureConfig
from paraflowkit.models.digits.adapter import DigitsFlow
from paraflowkit.models.gaussian_mixture import GaussianMixture
from paraflowkit.noise import VE, VP, FlowMatching
from paraflowkit.solution import Result, Solution, relative_rmse
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import SequentialConfig
from paraflowkit.solvers.sequential import Sequential
from paraflowkit.spacing import make_grid
from paraflowkit.windows.configs import SlidingConfig
from paraflowkit.windows.sliding import Sliding
from pydantic import ValidationError

from paraflowkit_parareal.layout import Layout


def installed(group, name):
    """What the distribution registered: exactly one value, even where it is installed twice."""
    (value,) = {e.value: e for e in entry_points(group=group, name=name)}.values()
    return value.load()


CONFIG = installed("paraflowkit.configs", "solver.parareal")
SOLVER = installed("paraflowkit.solvers", "parareal")
PROCESSES = {"flow": FlowMatching(), "vp": VP(), "ve": VE(sigma_max=10.0)}
N = 13

torch.set_num_threads(1)


def stepper(name, **settings):
    return registry.get("stepper", name)(registry.config_class("stepper", name).model_validate(settings))


def problem(process="flow", sampler="euler", steps=N, batch=3, guidance=2.0, components=6, **settings) -> Problem:
    config = GaussianMixtureConfig(dimension=4, components=components, classes=min(components, 3), spread=0.4)
    model = GaussianMixture(config, noise=PROCESSES[process])
    return make_problem(
        model,
        stepper(sampler, **settings),
        make_grid(model.noise, steps),
        [5 + i for i in range(batch)],
        classes=[i % min(components, 3) for i in range(batch)],
        guidance=guidance,
        dtype=torch.float64,
    )


def run(p: Problem, more=None, **settings) -> Solution:
    return solve(p, SOLVER(CONFIG(**settings)), Sliding(SlidingConfig(size=4)), trajectory=True, **(more or {}))


def sequentially(p: Problem) -> Solution:
    return solve(p, Sequential(SequentialConfig()), Sliding(SlidingConfig(size=1)), trajectory=True)


def check_exact(p: Problem, **settings) -> Solution:
    reference = sequentially(p)
    found = run(p, tolerance=0, **settings)
    assert found.ok
    assert found.stats.sweeps <= p.steps
    assert float((found.trajectory - reference.trajectory).abs().max()) <= 1e-12 * float(reference.x.abs().max())
    return found


def test_the_class_and_its_settings_belong_together():
    assert SOLVER.config_cls is CONFIG


def test_the_settings_load_without_torch():
    code = "import sys, paraflowkit_parareal.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("blocks", [None, 1, 2, 3, 5, 6, N, 40])
@pytest.mark.parametrize(
    ("process", "sampler", "settings"),
    [
        ("flow", "euler", {}),
        ("flow", "ddim", {"eta": 1.0}),
        ("vp", "ddim", {"eta": 0.0}),
        ("vp", "ddim", {"eta": 1.0}),
        ("ve", "euler", {}),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(str(v) for v in value.values()),
)
def test_tolerance_zero_is_the_sequential_trajectory(process, sampler, settings, blocks, batch):
    check_exact(problem(process, sampler, batch=batch, **settings), blocks=blocks)


@pytest.mark.parametrize("blocks", [None, 5])
@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("ddpm", {}),
        ("dpm-solver", {"order": 2}),
        ("dpm-solver", {"order": 3}),
        ("heun", {}),
        ("unipc", {}),
        ("clipped-ddim", {"clip": 1.0}),
    ],
    ids=["ddpm", "dpm-2", "dpm-3", "heun", "unipc", "not-affine"],
)
def test_other_samplers(sampler, settings, blocks):
    p = problem("vp", sampler, steps=20, **settings)
    reference = check_exact(p, blocks=blocks).x
    early = run(p, blocks=blocks, tolerance=1e-2)
    assert early.stats.sweeps < p.steps
    assert float((early.x - reference).square().mean().sqrt()) < 1e-2


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("blocks", [None, 2, 5])
def test_few_steps(steps, blocks):
    check_exact(problem(steps=steps), blocks=blocks)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 13, 50, 100])
def test_the_pipeline_is_the_earliest_that_data_allow(steps):
    for blocks in (None, 1, 2, 3, 5, 8, steps, 2 * steps):
        layout = Layout.cut(4, 4 + steps, blocks)
        lengths = [layout.length(i) for i in range(layout.blocks)]
        assert sum(lengths) == steps
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] - lengths[-1] <= 1
        assert min(lengths) >= min(2, steps)
        arrival = {}
        for k in range(layout.blocks + 1):
            for i in range(k, layout.blocks + 1):
                if i == 0:
                    arrival[k, i] = 0
                    continue
                inputs = [arrival[k, i - 1] + 1] if i > k else []
                inputs += [arrival[k - 1, i - 1] + lengths[i - 1]] if k else []
                arrival[k, i] = max(inputs)
                assert layout.arrival(k, i) == arrival[k, i]
        for sweep in range(steps):
            made = [(k, i) for (k, i), when in arrival.items() if i and when == sweep + 1]
            assert sorted(made) == sorted(layout.made_by(sweep))


def plain_parareal(velocity, times, x0, edges):
    """X of every iteration and block end, ``{(k, i): state}``, by the textbook's loops over Euler steps."""
    count = len(edges) - 1

    def coarse(i, x):
        return x + (times[edges[i + 1]] - times[edges[i]]) * velocity(x, times[edges[i]])

    def fine(i, x):
        for n in range(edges[i], edges[i + 1]):
            x = x + (times[n + 1] - times[n]) * velocity(x, times[n])
        return x

    found = {(k, 0): x0 for k in range(count + 1)}
    for i in range(count):
        found[0, i + 1] = coarse(i, found[0, i])
    for k in range(count):
        for i in range(count):
            found[k + 1, i + 1] = fine(i, found[k, i]) + coarse(i, found[k + 1, i]) - coarse(i, found[k, i])
    return found


@pytest.mark.parametrize("blocks", [1, 2, 4, 5, 11])
def test_the_iterates_are_those_of_plain_parareal(blocks):
    """On the linear flow of one Gaussian, where nothing of this plugin or of the driver is used to get the wanted."""
    p = problem(steps=23, batch=2, guidance=1.0, components=1)
    model = GaussianMixture(GaussianMixtureConfig(dimension=4, components=1, classes=1, spread=0.4))
    mean, spread = model.means[0].double(), 0.4

    def velocity(x, t):
        share = t * spread**2 / (t**2 * spread**2 + (1 - t) ** 2)  # of the data, per unit of x - t * mean
        data = mean + share * (x - t * mean)
        return (data - x) / (1 - t)

    made = []

    class Watched(SOLVER):
        def sweep(self, state, sweep):
            found = super().sweep(state, sweep)
            made.append(found[0].states)
            return found

    solve(p, Watched(CONFIG(tolerance=0, blocks=blocks)), Sliding(SlidingConfig(size=1)))
    layout = Layout.cut(0, 23, blocks)
    wanted = plain_parareal(velocity, p.nodes.t.tolist(), p.x0, layout.edges)
    compared = 0
    for (k, i), state in wanted.items():
        if i == 0 or k > i:
            continue
        sweep = layout.arrival(k, i) - 1  # at its end, when the front has made node `sweep` + 1
        ours = made[sweep][:, layout.edges[i] - 1 - sweep]
        assert torch.allclose(ours, state, rtol=0, atol=1e-11), (k, i)
        compared += 1
    assert compared == sum(i + 1 for i in range(1, layout.blocks + 1))


@pytest.mark.parametrize("tolerance", [0.3, 1e-2])
def test_one_sample_does_not_see_another(tolerance):
    p = problem(steps=29, batch=3)
    together = run(p, tolerance=tolerance)
    for i in range(3):
        alone = dataclasses.replace(
            p,
            x0=p.x0[i : i + 1],
            seeds=p.seeds[i : i + 1],
            cond=p.cond[i : i + 1],
            uncond=p.uncond[i : i + 1],
            guidance=p.guidance[i : i + 1],
        )
        found = run(alone, tolerance=tolerance)
        assert torch.allclose(found.x[0], together.x[i], rtol=0, atol=1e-12)
        assert int(found.stats.sample_iterations) == int(together.stats.sample_iterations[i])


def test_accepted_blocks_are_not_evaluated_again():
    p = problem(steps=50)
    loose, whole = run(p, tolerance=1e-2), run(p, tolerance=0)
    strides = torch.stack(loose.stats.strides)
    assert int(strides.max()) > 1
    assert int(loose.stats.evaluations.sum()) < int(whole.stats.evaluations.sum())
    # Every iteration but the accepted ones would run through all later blocks.
    assert float((loose.x - sequentially(p).x).square().mean().sqrt()) < 1e-2


@pytest.mark.parametrize("ahead", [1, 4, N - 1, N, N + 5])
def test_preconditioning_goes_before_the_blocks(ahead):
    check_exact(problem(), precondition=ahead, blocks=3)


@pytest.mark.parametrize("tolerance", [0, 1e-2])
def test_printed_stride(tolerance):
    p = problem()
    found = run(p, tolerance=tolerance, stride="printed")
    assert found.ok
    assert found.stats.sweeps <= N
    assert float((found.x - sequentially(p).x).abs().max()) <= max(tolerance, 1e-12)


def test_a_guess_that_breaks_falls_back():
    p = problem(batch=2)
    reference = sequentially(p)
    inner, exact = p.evaluate, reference.trajectory[0, 7, 0]

    def spoiled(x, node, cond):
        out = inner(x, node, cond)
        return torch.where(((node == 7) & (x[:, 0] != exact))[:, None], torch.nan, out)

    found = run(dataclasses.replace(p, evaluate=spoiled), tolerance=0, more={"nonfinite": "sequential"})
    assert found.results[0] is Result.FELL_BACK
    assert torch.allclose(found.x[0], reference.x[0], rtol=0, atol=1e-12)


def test_mixture_takes_fewer_iterations():
    p = problem(steps=50, batch=8)
    found = run(p, tolerance=1e-2)
    assert float((found.x - sequentially(p).x).square().mean().sqrt()) < 1e-2
    assert float(found.stats.sample_iterations.double().mean()) < 30


@pytest.mark.slow
def test_digits_take_fewer_iterations():
    model = DigitsFlow(DigitsConfig())
    p = make_problem(
        model,
        stepper("euler"),
        make_grid(model.noise, 50),
        list(range(1000, 1004)),
        classes=list(range(4)),
        guidance=3.0,
    )
    found = run(p, tolerance=1e-2)
    error = relative_rmse(found.x, sequentially(p).x, model.data_std)
    assert float(error.mean()) < 1e-2
    assert float(found.stats.sample_iterations.double().mean()) <= 25


def test_made_up_noise_levels_are_refused():
    with pytest.raises(ValueError, match="use a solver without them"):
        run(dataclasses.replace(problem(), nominal=True))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"blocks": 0}, "greater than or equal to 1"),
        ({"blocks": "many"}, "valid integer"),
        ({"tolerance": -1}, "greater than or equal to 0"),
        ({"block": 4}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        CONFIG(**settings)
