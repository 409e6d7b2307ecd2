"""Solvers that extrapolate a pipeline's outputs with slopes: what is remembered of each step, and where it leads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from test_pipelines import _quiet_logs, digits, draw, entry, made  # pyright: ignore[reportPrivateUsage]

from paraflowkit.core.surrogate import Level, Move, Picard, SecantLine, Surrogate, View
from paraflowkit.pipelines import enable
from paraflowkit.pipelines.levels import read_levels
from paraflowkit.pipelines.record import Segment
from paraflowkit.solvers.configs import ParaFlowConfig
from paraflowkit.solvers.paraflow import ParaFlow

__all__ = ["_quiet_logs"]
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in ("__array", ".*is deprecated", ".*deprecated and")
]


class Secant(ParaFlow):
    """A solver that marches pipelines with the surrogate under test."""

    line: Surrogate = SecantLine()

    def surrogate(self) -> Surrogate:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.line


def solver(tolerance: float, line: Surrogate | None = None) -> Secant:
    made = Secant(ParaFlowConfig(tolerance=tolerance))
    made.line = line or SecantLine()
    return made


def draws(*seeds: int, rows: int = 3, dtype: torch.dtype = torch.float32) -> Iterator[torch.Tensor]:
    return (torch.randn(rows, 2, 4, generator=torch.Generator().manual_seed(s)).to(dtype) for s in seeds)


def step(move: Move) -> torch.Tensor:
    """DDIM-like: neither linear part is the identity."""
    return 0.9 * move.x + 0.2 * move.output + (0 if move.shift is None else move.shift)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def test_a_linear_network_of_one_number_is_met() -> None:
    at, x, before = draws(0, 1, 2)
    view = View(0, x, at, 3 * at + 1, before, 3 * before + 1)
    move = SecantLine().move(replace(view, x=at + 0.1 * x))
    torch.testing.assert_close(move.output, 3 * (at + 0.1 * x) + 1)
    assert torch.equal(move.x, at + 0.1 * x)
    assert move.shift is None


def test_the_evaluation_before_is_met() -> None:
    at, before, output, old = draws(0, 1, 2, 3)
    torch.testing.assert_close(SecantLine().move(View(0, before, at, output, before, old)).output, old)


def test_a_way_longer_than_the_last_change_is_cut() -> None:
    at, before, output, old = draws(0, 1, 2, 3)
    far = at + 100 * (before - at)
    torch.testing.assert_close(SecantLine().move(View(0, far, at, output, before, old)).output, old)


def test_rows_go_their_own_ways() -> None:
    """The first was evaluated twice, the second once, and the third stays."""
    at, x, output, before, old = draws(0, 1, 2, 3, 4)
    at[2], before[1] = x[2], at[1]
    view = View(0, x, at, output, before, old)
    new = step(SecantLine().move(view))
    for i in range(3):
        one = View(0, x[i, None], at[i, None], output[i, None], before[i, None], old[i, None])
        torch.testing.assert_close(step(SecantLine().move(one))[0], new[i])
    assert torch.equal(new[1], step(Picard().move(view))[1])
    assert not torch.allclose(new[0], step(Picard().move(view))[0])
    assert torch.equal(new[2], step(Move(output, x))[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_where_nothing_moved_every_bit_stays(dtype: torch.dtype) -> None:
    at, output, before, old, other = draws(0, 1, 2, 3, 4, dtype=dtype)
    at[0, 0, 0] = output[0, 0, 0] = -0.0
    x = at.clone()
    x[1] = other[1]
    for level in (None, Level(0.6, 0.8, 1.0, -0.8)):
        for pair in ((None, None), (before, old), (at, output)):
            move = SecantLine().move(View(0, x, at, output, *pair, level))
            assert move.output.dtype == move.x.dtype == dtype
            assert bits(move.output[0].view(torch.int8)) == bits(output[0].view(torch.int8))
            shifted = move.x if move.shift is None else move.x + move.shift.to(dtype)
            assert bits(shifted[0].view(torch.int8)) == bits(x[0].view(torch.int8))


def test_half_precision_is_as_good_as_its_numbers() -> None:
    """The sums over a row overflow in half precision, and small differences vanish in them."""
    generator = torch.Generator().manual_seed(0)
    at, way, gone = (torch.randn(2, 20000, generator=generator).half() for _ in range(3))
    at, before = 20 * at, 20 * at + 4 * gone
    x = at + way
    move = SecantLine().move(View(0, x, at, at / 2, before, before / 2))
    torch.testing.assert_close(move.output, x / 2, atol=2e-2, rtol=2e-3)


def test_outputs_of_another_size_march_by_picard() -> None:
    x, at = draws(0, 1)
    output = torch.cat([at, at], 1)
    move = SecantLine().move(View(0, x, at, output, at, output, Level(0.6, 0.8, 1.0, -0.8)))
    assert move.output is output
    assert torch.equal(move.x, at)


def test_a_step_evaluated_once_has_the_prior_slope() -> None:
    """That of Gaussian data, which the network would predict exactly."""
    at, x = draws(0, 1)
    alpha, sigma, variance = 0.6, 0.8, 2.0
    level = Level(alpha, sigma, 1 / alpha, -sigma / alpha)  # noise prediction

    def noise(state: torch.Tensor) -> torch.Tensor:
        return sigma * state / (sigma**2 + alpha**2 * variance)

    move = SecantLine().move(View(0, x, at, noise(at), level=level))
    torch.testing.assert_close(move.output, noise(x))
    assert move.shift is None
    move = SecantLine(spread=None).move(View(0, x, at, noise(at), level=level))
    assert torch.equal(move.x, at)


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_levels_say_what_outputs_mean(name: str) -> None:
    import diffusers

    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(6)
    levels = read_levels(scheduler, scheduler.timesteps[2])
    assert levels is not None
    x, output = draws(0, 1, dtype=torch.float64)
    for n in range(4):
        level = levels.at(n)
        assert level is not None
        torch.testing.assert_close(levels.clean(n, x, output), level.of_x * x + level.of_output * output)
    assert levels.at(4) is None


def test_rows_that_are_not_evaluated_keep_their_pairs() -> None:
    """Rows of one step are evaluated at different sweeps."""
    segment = Segment()
    states = [torch.full((3, 1), float(k)) for k in range(5)]

    def sweep(k: int, rows: list[bool]) -> None:
        segment.shown(torch.where(seen.view(-1, 1), 10 * at, -1.0))  # held, where there is no evaluation yet
        segment.asked = states[k]
        now = torch.tensor(rows)
        segment.evaluated(now, slopes=True)
        at[now] = states[k][now]
        seen.logical_or_(now)

    seen, at = torch.zeros(3, dtype=torch.bool), torch.zeros(3, 1)
    sweep(1, [True, False, False])
    sweep(2, [True, True, False])
    sweep(3, [True, False, False])
    sweep(4, [False, True, True])
    segment.shown(10 * at)
    assert segment.at is not None
    assert segment.before_at is not None
    assert segment.output is not None
    assert segment.before_output is not None
    assert segment.at.flatten().tolist() == [3, 4, 4]
    assert segment.before_at.flatten().tolist() == [2, 2, 4]  # the last row has no evaluation before
    assert segment.output.flatten().tolist() == [30, 40, 40]
    assert segment.before_output.flatten().tolist()[:2] == [20, 20]


@dataclass(frozen=True)
class Watched(SecantLine):
    """Keeps what it is shown."""

    views: list[View] = field(default_factory=list[View])

    def move(self, view: View) -> Move:
        pair = (view.before_at, view.before_output)
        self.views.append(replace(view, x=view.x.clone(), output=view.output.clone()))
        assert (pair[0] is None) == (pair[1] is None)
        return super().move(view)


def test_the_pairs_are_evaluations_of_the_network() -> None:
    """Each remembered output is that of the pipeline's guided network at the remembered state, for every row."""
    pipe, watched = digits(), Watched()
    with enable(pipe, solver(2e-3, watched), window=6):
        draw(pipe, 14, (3, 7, 1))
        assert pipe.paraflow_stats.refused is None
        times = pipe.scheduler.timesteps.clone()
    labels, pairs = torch.tensor([10, 10, 10, 3, 7, 1]), 0
    for view in watched.views:
        if view.before_at is None or view.before_output is None:
            continue
        twice = torch.cat([view.before_at] * 2)
        with torch.no_grad():
            free, pure = pipe.unet(twice, times[view.node].expand(6), class_labels=labels).sample.chunk(2)
        other = (view.before_at != view.at).flatten(1).any(1) & (view.x != view.at).flatten(1).any(1)
        torch.testing.assert_close(view.before_output[other], (free + 3 * (pure - free))[other], atol=1e-4, rtol=1e-4)
        pairs += int(other.sum())
    assert pairs > 10


@pytest.mark.parametrize("name", ["digits-flow", "digits-vp"])
def test_tolerance_zero_is_exact_in_at_most_as_many_rounds(name: str) -> None:
    """In float64, where the size of a batch changes nothing that could be seen."""
    pipe = digits(name).to(torch.float64)
    plain = draw(pipe, 12)
    with enable(pipe, solver(0.0), window=5):
        parallel = draw(pipe, 12)
        stats = pipe.paraflow_stats
    assert stats.refused is None
    assert stats.sequential <= 12
    assert stats.rounds > 1
    torch.testing.assert_close(parallel, plain, atol=1e-12, rtol=0)
    assert torch.equal(draw(pipe, 12), plain)


def arithmetic(sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> UNet2DOutput:
    """A network whose rows are the same, bit for bit, in a batch of any size."""
    level, kind = (timestep / 1000).view(-1, 1, 1, 1), class_labels.view(-1, 1, 1, 1)
    return UNet2DOutput(sample / (sample * sample + 1 + kind) - level * sample.roll(1, -1))


def test_outputs_of_an_unknown_kind_are_not_taken_for_constants() -> None:
    pipe = digits()
    forward = pipe.unet.forward

    def unusual(*args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(sample=forward(*args, **kwargs).sample)

    pipe.unet.forward = unusual
    plain = draw(pipe)
    enable(pipe, window=4, tolerance=0.0)
    with pytest.warns(UserWarning, match="its output is a SimpleNamespace, not a tensor"):
        assert torch.equal(draw(pipe), plain)


def test_tolerance_zero_is_exact_bit_for_bit() -> None:
    pipe = digits()
    pipe.unet.forward = arithmetic
    plain = draw(pipe, 16)
    with enable(pipe, solver(0.0), window=5):
        parallel = draw(pipe, 16)
        stats = pipe.paraflow_stats
    assert stats.refused is None
    assert 1 < stats.sequential <= 16
    assert bits(parallel) == bits(plain)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("StableDiffusion3Pipeline", "stable_diffusion_3"),
        ("StableDiffusionControlNetPipeline two ControlNets", "controls"),
        ("StableDiffusionInpaintPipeline 9 channels", "stable_diffusion"),
    ],
)
def test_tolerance_zero_is_the_pipeline(name: str, module: str) -> None:
    each = entry(name, module)
    pipe = each.build()
    prompts = each.prompts[-1]
    plain = made(pipe, each, prompts)
    with enable(pipe, solver(0.0), window=3):
        parallel = made(pipe, each, prompts)
        stats = pipe.paraflow_stats
    assert stats.refused is None
    assert float((parallel - plain).abs().max()) <= 1e-4 * float(plain.abs().max())
    assert stats.sequential <= stats.plain_calls


@pytest.mark.slow
def test_fewer_rounds_than_picards_at_the_same_tolerance() -> None:
    """And no larger an error than the tolerance allows; with UniPC, whose corrector Picard iteration misleads."""
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    pipe, rounds = digits("digits-vp"), {}
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    plain = draw(pipe, 24)
    for line in (Picard(), SecantLine()):
        with enable(pipe, solver(1e-2, line), window=10):
            error = float((draw(pipe, 24) - plain).square().mean().sqrt())
            rounds[type(line)] = pipe.paraflow_stats.sequential
        assert error <= 1e-2
    assert rounds[SecantLine] < 0.75 * rounds[Picard]


def test_a_pipeline_in_half_precision() -> None:
    pipe = digits().to(torch.bfloat16)
    plain = draw(pipe, 20)
    with enable(pipe, solver(2e-2), window=6):
        parallel = draw(pipe, 20)
        stats = pipe.paraflow_stats
    assert stats.refused is None
    assert parallel.dtype == torch.bfloat16
    assert stats.sequential < 20
    assert float((parallel - plain).float().square().mean().sqrt()) < 0.1
