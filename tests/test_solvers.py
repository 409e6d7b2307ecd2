"""The solvers of the papers: exact at tolerance 0 with every setting, and what is particular to each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from problems import Counting, make_solver, make_stepper, mixture, problem, sequential, sliding
from pydantic import ValidationError

from paraflowkit import registry
from paraflowkit.core.draws import draw
from paraflowkit.core.march import LARGEST_RMS, estimate, roll
from paraflowkit.core.problem import Problem
from paraflowkit.solution import Solution, relative_rmse
from paraflowkit.solve import solve

SAMPLERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "euler": ("flow", "euler", {}),
    "heun": ("ve", "heun", {}),
    "ddim-1": ("vp", "ddim", {"eta": 1.0}),
    "ddpm": ("vp", "ddpm", {}),
    "dpm-3": ("vp", "dpm-solver", {"order": 3}),
    "sde-dpm": ("vp", "dpm-solver", {"order": 2, "algorithm": "sde-dpmsolver++"}),
    "lms": ("ve", "lms", {}),
    "unipc": ("vp", "unipc", {"order": 3}),
    "clipped": ("vp", "clipped-ddim", {"clip": 2.0}),
}
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "parataa": ("parataa", {}),
    "parataa-fixed-point": ("parataa", {"memory": 1, "order": 3}),
    "parataa-order-1": ("parataa", {"order": 1, "memory": 5}),
    "parasolver": ("parasolver", {}),
    "parasolver-5": ("parasolver", {"subintervals": 5}),
    "parasolver-7-parallel": ("parasolver", {"subintervals": 7, "inner": "parallel", "precondition": 3}),
    "parasolver-1": ("parasolver", {"subintervals": 1}),
    "turbo": ("parasolver-turbo", {"degree": 3}),
    "turbo-1": ("parasolver-turbo", {"degree": 1, "precondition": 0, "guess": "noise"}),
    "paraflow-noise": ("paraflow", {"guess": "noise", "entering": "noise"}),
    "parasolver-0": ("parasolver", {"precondition": 0}),
    "paradigms-clean": ("paradigms", {"guess": "clean_estimate", "entering": "clean_estimate", "precondition": 4}),
}
N = 12
MULTISTEP = ("dpm-3", "sde-dpm", "lms", "unipc")


def sampler(name: str, batch: int = 3, steps: int = N, **more: Any) -> Problem:
    process, stepper, settings = SAMPLERS[name]
    return problem(mixture(process), make_stepper(stepper, **settings), steps, batch, **more)


def solver(name: str, **more: Any) -> Any:
    kind, settings = SOLVERS[name]
    return make_solver(kind, **{"tolerance": 0.0, **settings, **more})


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("where", SAMPLERS)
def test_tolerance_zero_is_sequential(name: str, where: str) -> None:
    p = sampler(where, guidance=2.0)
    if name.startswith("parataa") and where == "clipped":
        with pytest.raises(ValueError, match="affine"):
            solve(p, solver(name), sliding(4))
        return
    if name == "parasolver-5" and where in MULTISTEP:
        with pytest.raises(ValueError, match="steps of this sampler look back, so it can be cut into"):
            solve(p, solver(name), sliding(4))
        return
    reference = sequential(p)
    assert reference.trajectory is not None
    scale = reference.trajectory.abs().max()
    counting = Counting(p)
    found = solve(
        dataclasses.replace(p, evaluate=counting), solver(name), sliding(5), trajectory=True, max_sweeps=3 * N
    )
    assert found.trajectory is not None
    assert (found.trajectory - reference.trajectory).abs().max() <= 1e-10 * scale
    assert found.stats.sweeps <= p.steps
    assert found.stats.rows == counting.rows == 2 * int(found.stats.evaluations.sum())
    assert found.stats.calls == counting.calls


@pytest.mark.parametrize(
    "name", [name for name in SOLVERS if "-5" not in name and "-7" not in name and "-1" not in name]
)
def test_printed_strides_need_at_most_twice_as_many_sweeps(name: str) -> None:
    p = sampler("ddim-1")
    found = solve(p, solver(name, stride="printed"), sliding(5))
    assert found.stats.sweeps <= 2 * N
    torch.testing.assert_close(found.x, sequential(p).x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SOLVERS)
def test_tolerance_trades_error_for_iterations(name: str) -> None:
    p = sampler("euler", batch=8, steps=40, guidance=2.0)
    reference = sequential(p).x
    runs = [solve(p, solver(name, tolerance=t, norm="absolute"), sliding(10)) for t in (1e-2, 1e-4, 0.0)]
    errors = [float(relative_rmse(run.x, reference).mean()) for run in runs]
    iterations = [run.stats.iterations for run in runs]
    assert iterations == sorted(iterations)
    assert errors[0] < 0.05
    assert errors[1] < 1e-3
    assert errors[2] < 1e-10
    # Two of them are sequential, steps of order 1 hand news on by one node a sweep, and few long subintervals gain
    # nothing, as in table 4 of the ParaSolver paper.
    if name not in ("parasolver-1", "turbo-1", "parataa-order-1", "parasolver-5"):
        assert iterations[0] < 0.85 * 40


@pytest.mark.parametrize("where", MULTISTEP)
@pytest.mark.parametrize("name", ["parataa", "parasolver", "turbo", "turbo-all", "paraflow-clean", "paraflow"])
def test_true_history_is_kept_at_any_tolerance(name: str, where: str) -> None:
    """States that moved within the tolerance keep the outputs that they were accepted with."""
    kind, settings = {
        **SOLVERS,
        "turbo-all": ("parasolver-turbo", {"degree": 5, "accept": "all"}),
        "paraflow-clean": ("paraflow", {"guess": "clean_estimate", "entering": "clean_estimate", "precondition": 1}),
        "paraflow": ("paraflow", {}),
    }[name]
    p = sampler(where, batch=4, steps=40)
    reference = sequential(p).x
    for tolerance in (1e-3, 1e-5):
        made = make_solver(kind, norm="absolute", **{**settings, "tolerance": tolerance})
        found = solve(p, made, sliding(10))
        assert float(relative_rmse(found.x, reference).max()) < 30 * tolerance
        if tolerance == 1e-3:
            assert found.stats.iterations < 30


@pytest.mark.parametrize("where", ["lms", "sde-dpm"])
@pytest.mark.parametrize("name", [*SOLVERS, "turbo-all"])
def test_a_sample_does_not_depend_on_its_batch_at_a_tolerance(name: str, where: str) -> None:
    if name == "parasolver-5" and where in MULTISTEP:
        return
    kind, settings = {**SOLVERS, "turbo-all": ("parasolver-turbo", {"degree": 3, "accept": "all"})}[name]
    made = make_solver(kind, norm="absolute", **{**settings, "tolerance": 1e-2})
    p = sampler(where, batch=4, steps=20, guidance=2.0)
    together = solve(p, made, sliding(6))
    assert p.cond is not None
    assert p.uncond is not None
    assert p.guidance is not None
    for i in (0, 3):
        part = slice(i, i + 1)
        rest = {"cond": p.cond[part], "uncond": p.uncond[part], "guidance": p.guidance[part]}
        alone = solve(dataclasses.replace(p, x0=p.x0[part], seeds=p.seeds[part], **rest), made, sliding(6))
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=0, atol=1e-10)
        assert alone.stats.evaluations[0] == together.stats.evaluations[i]


@pytest.mark.parametrize("where", SAMPLERS)
@pytest.mark.parametrize("inner", ["sequential", "parallel"])
def test_subintervals_started_from_the_solution_stay_there(where: str, inner: str) -> None:
    """What was right already must not be taken for what was computed rightly."""
    p = sampler(where, steps=20, guidance=2.0)
    reference = sequential(p).trajectory
    if inner == "sequential" and where in MULTISTEP:
        return
    made = make_solver("parasolver", subintervals=7, tolerance=0.0, inner=inner)
    found = solve(p, made, sliding(p.steps), warm=reference, trajectory=True)
    assert found.trajectory is not None
    torch.testing.assert_close(found.trajectory, reference, rtol=0, atol=1e-10)


def test_subintervals_are_cut_between_steps_not_within_them() -> None:
    """Heun has two nodes a step; 10 subintervals of 20 steps have 4 nodes, the last one 3."""
    p = sampler("heun", batch=1, steps=20)
    state = make_solver("parasolver", subintervals=10).init(p)
    assert state.start.unique().tolist() == list(range(0, 39, 4))
    assert state.longest == 4
    with pytest.raises(ValueError, match="look back, so it can be cut into at most 20 subintervals"):
        make_solver("parasolver", subintervals=21).init(p)
    loose = {"tolerance": 1e-2, "norm": "absolute"}
    reference = sequential(p).x
    for count in (10, 20):
        found = solve(p, make_solver("parasolver", subintervals=count, **loose), sliding(24))
        assert found.stats.sweeps < 30
        assert float(relative_rmse(found.x, reference).max()) < 0.02


@pytest.mark.parametrize("value", [1e10, 1e30, 1e160])
@pytest.mark.parametrize("name", ["parataa", "parasolver", "turbo"])
def test_a_blow_up_of_one_sample_leaves_the_others_alone(name: str, value: float) -> None:
    p = sampler("ddim-1", batch=3, steps=20)
    good = solve(p, solver(name, tolerance=1e-3), sliding(6))
    calls = 0

    def spoil(out: torch.Tensor, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        out = out.clone()
        if calls == 3:
            out[0] = value  # the first row is of the first sample
        return out

    bad = dataclasses.replace(p, evaluate=Counting(p, spoil))
    found = solve(bad, solver(name, tolerance=1e-3), sliding(6))
    torch.testing.assert_close(found.x[1:], good.x[1:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["parataa", "parasolver", "turbo", "paraflow-noise"])
def test_half_precision_follows_itself(name: str) -> None:
    for where in ("euler", "ddpm"):
        p = sampler(where, dtype=torch.bfloat16)
        reference = sequential(p).x
        found = solve(p, solver(name), sliding(N))
        assert found.x.dtype == torch.bfloat16
        torch.testing.assert_close(found.x, reference, rtol=0, atol=0.03 * float(reference.abs().max()))


def test_one_subinterval_is_sequential_sampling() -> None:
    p = sampler("euler")
    found = solve(p, solver("parasolver-1", tolerance=1.0), sliding(N))
    assert found.stats.evaluations.tolist() == [N] * 3
    assert torch.equal(found.x, sequential(p).x)


def test_as_many_subintervals_as_steps_is_paradigms_with_its_guess() -> None:
    p = sampler("ddim-1", steps=30)
    guesses = {"guess": "clean_estimate", "entering": "clean_estimate", "precondition": 1, "tolerance": 1e-2}
    ours = solve(p, make_solver("parasolver", subintervals=30, norm="absolute", **guesses), sliding(8))
    theirs = solve(p, make_solver("paradigms", norm="absolute", **guesses), sliding(8))
    assert torch.equal(ours.x, theirs.x)
    assert torch.equal(ours.stats.evaluations, theirs.stats.evaluations)


def test_parasolver_integrates_subintervals_side_by_side() -> None:
    """With 4 subintervals of 5 steps a pass costs 5 sweeps, and each evaluates a step of every subinterval."""
    p = sampler("euler", batch=1, steps=20)
    counting = Counting(p)
    settings = {"subintervals": 4, "precondition": 0, "guess": "constant", "tolerance": 0.0}
    solve(dataclasses.replace(p, evaluate=counting), make_solver("parasolver", **settings), sliding(20), max_sweeps=5)
    assert counting.nodes == [k + j for j in range(5) for k in (0, 5, 10, 15)]


def test_parasolver_ends_follow_the_published_update() -> None:
    """One pass, by hand: Φ over each subinterval, then Picard's sum over the ends (equation 13)."""
    p = sampler("euler", batch=2, steps=20)
    settings = {"subintervals": 4, "precondition": 0, "guess": "constant", "tolerance": 0.0}
    seen: list[Solution] = []
    seen.append(solve(p, make_solver("parasolver", **settings), sliding(20), max_sweeps=5, trajectory=True))
    ends = [p.x0]
    new = p.x0
    for k in range(4):
        x = p.x0  # the constant guess of every start
        for n in range(5 * k, 5 * k + 5):
            step = torch.full((2, 1), n)
            m = p.output(x, step[:, 0], torch.arange(2))
            x = p.rule.apply(step, x[:, None], m[:, None], None)[:, 0]
        new = x + (new - p.x0)
        ends.append(new)
    # The next pass starts from the new ends: node 5 is exact, the network is asked at the others.
    counting = Counting(p, spoil=lambda out, x, node: (asked.append((node.clone(), x.clone())), out)[1])
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    solve(dataclasses.replace(p, evaluate=counting), make_solver("parasolver", **settings), sliding(20), max_sweeps=6)
    node, x = asked[5]
    for k in (1, 2, 3):
        torch.testing.assert_close(x[node == 5 * k], ends[k], rtol=0, atol=1e-12)


def test_turbo_evaluates_the_front_alone() -> None:
    p = sampler("euler", batch=2, steps=30)
    counting = Counting(p)
    found = solve(
        dataclasses.replace(p, evaluate=counting),
        make_solver("parasolver-turbo", degree=3, tolerance=1e-3, norm="absolute"),
        sliding(12),
    )
    assert found.ok
    assert max(int(stride.max()) for stride in found.stats.strides) <= 3
    assert found.stats.evaluations.sum() == counting.rows
    assert found.stats.evaluations.max() <= 3 * found.stats.iterations


def test_turbo_that_accepts_all_may_pass_states_it_never_evaluated() -> None:
    p = sampler("ddim-1", batch=4, steps=60)
    reference = sequential(p).x
    loose = {"degree": 3, "tolerance": 0.05, "norm": "absolute"}
    safe = solve(p, make_solver("parasolver-turbo", **loose), sliding(24))
    paper = solve(p, make_solver("parasolver-turbo", accept="all", **loose), sliding(24))
    assert paper.stats.iterations < safe.stats.iterations
    assert int(paper.stats.evaluations.max()) < 60 <= int(safe.stats.evaluations.min())
    assert max(int(stride.max()) for stride in paper.stats.strides) > 3
    assert float(relative_rmse(paper.x, reference).mean()) > float(relative_rmse(safe.x, reference).mean())


def test_parataa_of_full_order_is_exact_in_one_sweep_where_outputs_do_not_depend_on_states() -> None:
    """Unrolling the affine part solves a linear sampler at once; Picard's identity does not."""
    p = sampler("ddim-1", batch=2, steps=20)
    flat = dataclasses.replace(
        p, evaluate=lambda x, node, cond: node[:, None].expand_as(x).to(x) / 20, prediction=p.wants
    )
    fast = solve(flat, make_solver("parataa", order=20, memory=1, tolerance=1e-12, norm="absolute"), sliding(20))
    slow = solve(flat, make_solver("paradigms", tolerance=1e-12, norm="absolute"), sliding(20))
    assert fast.stats.sweeps == 2  # one that solves, one that sees that nothing moves
    assert slow.stats.sweeps > 5
    torch.testing.assert_close(fast.x, sequential(flat).x, rtol=0, atol=1e-10)


def test_parataa_is_plain_anderson_acceleration_on_one_unknown() -> None:
    """On a window of two the second state has one predecessor; its correction is the published formula."""
    p = sampler("euler", batch=1, steps=40)
    asked: list[torch.Tensor] = []

    def note(out: torch.Tensor, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        asked.append(x.clone())
        return out

    ridge = 1e-3
    solver = make_solver("parataa", order=1, memory=2, ridge=ridge, tolerance=0.0)
    counting = Counting(p, spoil=note)
    solve(dataclasses.replace(p, evaluate=counting), solver, sliding(40), max_sweeps=3)

    def residual(states: torch.Tensor) -> torch.Tensor:
        n = torch.arange(40)[None]
        m = p.output(states[:-1], n[0], torch.zeros(40, dtype=torch.int64))
        return p.rule.apply(n, states[None, :-1], m[None], None)[0] - states[1:]

    zero = p.x0.expand(41, -1)
    r0 = residual(zero)
    one = torch.cat([p.x0, zero[1:] + r0])
    r1 = residual(one)[1:]  # the front has moved to node 1
    dx, dr = (one - zero)[2:], r1 - r0[1:]
    gram, right = (dr * dr).sum(1).cumsum(0), (dr * r1).sum(1).cumsum(0)
    gamma = (right / (gram + ridge))[:, None]
    two = one[2:] + r1 - (dx + dr) * gamma
    two[0] = one[2] + r1[0]
    torch.testing.assert_close(asked[1][:], one[1:40], rtol=0, atol=1e-12)
    torch.testing.assert_close(asked[2][:], two[:38], rtol=0, atol=1e-10)


@pytest.mark.parametrize("where", SAMPLERS)
def test_rolling_is_sampling_with_a_network_that_predicts_one_image(where: str) -> None:
    p = sampler(where, steps=9)
    data = torch.randn(p.x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    held = dataclasses.replace(
        p,
        evaluate=lambda x, node, cond: data.repeat(len(x) // 3, 1),
        prediction=type(p.wants).DATA,
        cond=None,
        uncond=None,
    )
    reference = sequential(held).trajectory
    assert reference is not None
    # From node 0 with nothing behind it, for as many steps as each sample likes.
    history = p.rule.order_in_time - 1
    states = p.x0[:, None].expand(3, history + p.steps + 1, -1)
    outputs = torch.zeros(3, history + p.steps, p.x0.shape[1], dtype=torch.float64)
    z = torch.stack([torch.stack([draw(s, n + 1, (5,)) for n in range(p.steps)]) for s in p.seeds])
    lengths = [p.steps, 4, 0]
    made = roll(p, states, outputs, z, [0, 0, 0], [0, 0, 0], lengths, data)
    for i, length in enumerate(lengths):
        there = made[i, history : history + 1 + length]
        torch.testing.assert_close(there, reference[i, : 1 + length], rtol=1e-9, atol=1e-9)
        assert torch.equal(made[i, history + 1 + length :], states[i, history + 1 + length :])


def test_estimates_too_large_to_be_data_are_scaled_down() -> None:
    p = sampler("ddim-1")
    node = torch.zeros(3, dtype=torch.int64)
    wild = torch.tensor([[1.0] * 5, [100.0] * 5, [-1e6] * 5], dtype=torch.float64)
    made = estimate(p, p.x0, p.from_data(wild, p.x0, node), node)
    rms, largest = made.square().mean(1).sqrt(), LARGEST_RMS * p.data_std
    torch.testing.assert_close(rms, torch.tensor([1.0, largest, largest], dtype=torch.float64))
    assert bool((made[2] < 0).all())


@pytest.mark.parametrize("name", [n for n in registry.names("solver") if n != "sequential"])
def test_presets_are_published_settings(name: str) -> None:
    cls = registry.config_class("solver", name)
    for preset, values in getattr(cls, "presets", {}).items():
        made = cls.model_validate({"preset": preset})
        for key, value in values.items():
            assert getattr(made, key) == value
        over = cls.model_validate({"preset": preset, "tolerance": 0.123})
        assert over.tolerance == 0.123  # type: ignore[attr-defined]  # every solver has one
        assert cls.model_validate(made.model_dump()) == made
    with pytest.raises(ValidationError, match="unknown preset 'sd9'"):
        cls.model_validate({"preset": "sd9"})


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("paraflow", {"precondition": -1}, "greater than or equal to 0"),
        ("parasolver", {"subintervals": 0}, "greater than or equal to 1"),
        ("parataa", {"ridge": 0.0}, "greater than 0"),
        ("parasolver", {"subintervals": 3, "stride": "printed"}, "would move the ends"),
        ("parasolver-turbo", {"accept": "some"}, "'evaluated' or 'all'"),
    ],
)
def test_ill_settings_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make_solver(name, **settings)


def test_more_subintervals_than_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="subintervals to 12 or less"):
        solve(sampler("euler"), make_solver("parasolver", subintervals=13), sliding(4))
