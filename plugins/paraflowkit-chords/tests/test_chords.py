"""CHORDS, found through its entry points: exact at tolerance 0, and the published algorithm on a linear flow."""

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

from paraflowkit_chords.starts import automatic_starts


def installed(group, name):
    """What the distribution registered: exactly one value, even where it is installed twice."""
    (value,) = {e.value: e for e in entry_points(group=group, name=name)}.values()
    return value.load()


CONFIG = installed("paraflowkit.configs", "solver.chords")
SOLVER = installed("paraflowkit.solvers", "chords")
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
    code = "import sys, paraflowkit_chords.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cores", [1, 2, 3, 5, 8, N, 40])
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
def test_tolerance_zero_is_the_sequential_trajectory(process, sampler, settings, cores, batch):
    check_exact(problem(process, sampler, batch=batch, **settings), cores=cores)


@pytest.mark.parametrize("cores", [3, 6])
@pytest.mark.parametrize(
    ("sampler", "settings", "bound"),
    [
        ("ddpm", {}, 0.1),  # 13 steps with noise are far apart
        ("dpm-solver", {"order": 2}, 1e-2),
        ("dpm-solver", {"order": 3}, 1e-2),
        ("heun", {}, 1e-2),
        ("unipc", {}, 1e-2),
        ("clipped-ddim", {"clip": 1.0}, 2e-2),
    ],
    ids=["ddpm", "dpm-2", "dpm-3", "heun", "unipc", "not-affine"],
)
def test_other_samplers(sampler, settings, bound, cores):
    p = problem("vp", sampler, **settings)
    reference = check_exact(p, cores=cores).x
    second = run(p, cores=cores, finisher=2)
    assert second.stats.sweeps < p.steps
    assert float((second.x - reference).square().mean().sqrt()) < bound


def test_history_is_corrected_too():
    """Measured 6e-4; a core whose past states and outputs are left as they were gets 3e-3."""
    p = problem("vp", "dpm-solver", order=2, batch=8)
    second = run(p, cores=6, finisher=2)
    assert float((second.x - sequentially(p).x).square().mean().sqrt()) < 1.5e-3


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_few_steps(steps):
    check_exact(problem(steps=steps), cores=8)


@pytest.mark.parametrize("starts", [[0], [0, 2], [0, 11], [0, 2, 4, 6, 8, 10, 12], [0, 5, 7, 12]])
def test_starts_of_ones_own(starts):
    assert int(check_exact(problem(), starts=starts).stats.iterations) == N


def direct(velocity, times, x0, starts):
    """The published algorithm with lists: ``[(sweeps, sample)]`` in the order in which the cores finish.

    Euler's method for both solvers; every core is a dictionary, and a sweep reads only what the last one left.
    """
    last = len(times) - 1
    cores = [{"node": 0, "x": x0, "begin": None}]
    ends, sweeps = [], 0

    def euler(x, v, a, b):
        return x + (times[b] - times[a]) * v

    while cores:
        sweeps += 1
        seen = [(core["node"], core["x"], velocity(core["x"], times[core["node"]])) for core in cores]
        for core, here in zip(cores, seen, strict=True):
            core["begin"] = core["begin"] or here
        following = []
        for k, (node, x, v) in enumerate(seen):
            begin, new = cores[k]["begin"], euler(x, v, node, node + 1)
            if k > 0 and seen[k - 1][0] == begin[0]:
                _, right_x, right_v = seen[k - 1]
                b, wrong_x, wrong_v = begin
                new = new + euler(right_x, right_v, b, node + 1) - euler(wrong_x, wrong_v, b, node + 1)
                begin = None
            following.append({"node": node + 1, "x": new, "begin": begin})
        newest = len(seen) - 1
        if not ends and newest + 1 < len(starts) and seen[newest][0] == starts[newest]:
            node, x, v = seen[newest]
            following.append({"node": starts[newest + 1], "x": euler(x, v, node, starts[newest + 1]), "begin": None})
        while following and following[-1]["node"] == last:
            ends.append((sweeps, following.pop()["x"]))
        cores = following
    return ends


@pytest.mark.parametrize("starts", [[0, 2, 4, 8, 16], [0, 4, 8, 12, 16, 20], [0, 3, 9], [0, 2], [0, 21]])
def test_every_finisher_is_that_of_the_published_algorithm(starts):
    """On the linear flow of one Gaussian, where nothing of this plugin or of the driver is used to get the wanted."""
    p = problem(steps=23, batch=2, guidance=1.0, components=1)
    model = GaussianMixture(GaussianMixtureConfig(dimension=4, components=1, classes=1, spread=0.4))
    mean, spread = model.means[0].double(), 0.4

    def velocity(x, t):
        share = t * spread**2 / (t**2 * spread**2 + (1 - t) ** 2)  # of the data, per unit of x - t * mean
        data = mean + share * (x - t * mean)
        return (data - x) / (1 - t)

    wanted = direct(velocity, p.nodes.t.tolist(), p.x0, starts)
    assert len(wanted) == len(starts)
    for order, (sweeps, sample) in enumerate(wanted, 1):
        found = run(p, starts=starts, finisher=order)
        assert found.stats.sweeps == sweeps
        assert torch.allclose(found.x, sample, rtol=0, atol=1e-12)


def test_automatic_starts_fit():
    for steps in range(1, 130):
        for cores in (1, 2, 3, 4, 7, 8, 16, 31, 200):
            starts = automatic_starts(steps, cores)
            assert starts[0] == 0
            assert len(starts) <= cores
            assert CONFIG(starts=starts).starts == starts  # which checks their order
            assert starts[-1] < steps


def test_one_sample_does_not_see_another():
    p = problem(batch=3)
    together = run(p, tolerance=1e-2)
    for i in range(3):
        alone = dataclasses.replace(
            p,
            x0=p.x0[i : i + 1],
            seeds=p.seeds[i : i + 1],
            cond=p.cond[i : i + 1],
            uncond=p.uncond[i : i + 1],
            guidance=p.guidance[i : i + 1],
        )
        found = run(alone, tolerance=1e-2)
        assert torch.allclose(found.x[0], together.x[i], rtol=0, atol=1e-12)
        assert int(found.stats.sample_iterations) == int(together.stats.sample_iterations[i])


@pytest.mark.parametrize("ahead", [1, 4, N - 1, N, N + 5])
def test_preconditioning_goes_before_the_cores(ahead):
    check_exact(problem(), precondition=ahead, cores=3)


def test_printed_stride():
    assert check_exact(problem(), stride="printed").stats.sweeps == N


def test_a_guess_that_breaks_falls_back():
    p = problem(batch=2)
    inner = p.evaluate

    def spoiled(x, node, cond):
        out = inner(x, node, cond)
        return torch.where(((node == 6) & (x[:, 0] != exact))[:, None], torch.nan, out)

    exact = sequentially(p).trajectory[0, 6, 0]
    found = run(dataclasses.replace(p, evaluate=spoiled), tolerance=0, more={"nonfinite": "sequential"})
    assert found.results[0] is Result.FELL_BACK
    assert torch.allclose(found.x[0], sequentially(p).x[0], rtol=0, atol=1e-12)


def digits(samples=4, steps=50):
    model = DigitsFlow(DigitsConfig())
    return model, make_problem(
        model,
        stepper("euler"),
        make_grid(model.noise, steps),
        list(range(1000, 1000 + samples)),
        classes=list(range(samples)),
        guidance=3.0,
    )


@pytest.mark.slow
def test_digits_take_fewer_iterations():
    model, p = digits()
    found = run(p, tolerance=0.1)
    error = relative_rmse(found.x, sequentially(p).x, model.data_std)
    assert float(error.mean()) < 1e-2
    assert float(found.stats.sample_iterations.double().mean()) <= 22


def test_mixture_takes_fewer_iterations():
    p = problem(steps=50)
    found = run(p, tolerance=1e-2)
    assert float((found.x - sequentially(p).x).square().mean().sqrt()) < 1e-2
    assert int(found.stats.sample_iterations.max()) < 35


def test_made_up_noise_levels_are_refused():
    with pytest.raises(ValueError, match="use a solver without them"):
        run(dataclasses.replace(problem(), nominal=True))


def test_starts_behind_the_end_are_refused():
    with pytest.raises(ValueError, match="must lie below that"):
        run(problem(), starts=[0, N])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"cores": 0}, "greater than or equal to 1"),
        ({"starts": []}, "must begin with 0"),
        ({"starts": [1, 3]}, "must begin with 0"),
        ({"starts": [0, 4, 4]}, "grow by at least 2"),
        ({"starts": [0, 1]}, "grow by at least 2"),
        ({"starts": [0, 2], "cores": 3}, "leave one of them out"),
        ({"finisher": 1, "tolerance": 0}, "leave out 'finisher'"),
        ({"core": 4}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        CONFIG(**settings)
