"""Noise processes, grids and step tables."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paraflowkit.grid import TimeGrid
from paraflowkit.noise import EDM, VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.norms import tolerance_scales
from paraflowkit.prediction import Prediction, convert
from paraflowkit.spacing import make_grid
from paraflowkit.table import StepTable

SCHEDULES: list[tuple[NoiseSchedule, float]] = [
    (FlowMatching(), 0.3),
    (VP(), 400.0),
    (VP(schedule="cosine"), 400.0),
    (VP(schedule="scaled_linear"), 999.0),
    (VE(), 3.0),
    (EDM(), 0.7),
]


@pytest.mark.parametrize(("noise", "time"), SCHEDULES)
@pytest.mark.parametrize("source", Prediction)
@pytest.mark.parametrize("target", Prediction)
def test_conversions_agree_with_the_truth(
    noise: NoiseSchedule, time: float, source: Prediction, target: Prediction
) -> None:
    draw = torch.Generator().manual_seed(0)
    data, eps = (torch.randn(4, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    t = torch.full((4,), time, dtype=torch.float64)
    alpha, sigma = noise.alpha(t)[:, None], noise.sigma(t)[:, None]
    size = (alpha.square() + sigma.square()).sqrt()
    truth = {Prediction.DATA: data, Prediction.NOISE: eps, Prediction.V: (alpha * eps - sigma * data) / size}
    x = alpha * data + sigma * eps
    if isinstance(noise, VP) and Prediction.VELOCITY in (source, target):
        if source is not target:
            with pytest.raises(ValueError, match="no velocity"):
                convert(x, x, noise.levels(t), source, target)
        return
    if not isinstance(noise, VP):
        da, ds = noise.slopes(t)
        truth[Prediction.VELOCITY] = da[:, None] * data + ds[:, None] * eps
    torch.testing.assert_close(
        convert(truth[source], x, noise.levels(t), source, target), truth[target], rtol=1e-9, atol=1e-9
    )


def test_processes() -> None:
    t = VP()
    steps = torch.tensor([-1.0, 0.0, 999.0], dtype=torch.float64)
    torch.testing.assert_close(t.alpha(steps).square() + t.sigma(steps).square(), torch.ones(3, dtype=torch.float64))
    assert float(t.alpha(steps)[0]) == 1.0
    assert float(VP(final_alpha_one=False).alpha(steps)[0]) == float(t.alpha(steps)[1])
    c_skip, c_out, c_in, c_noise = EDM().preconditioning(torch.tensor([0.5], dtype=torch.float64))
    # Karras et al. 2022, table 1, at sigma = sigma_data = 0.5.
    assert c_skip.item() == pytest.approx(0.5)
    assert c_out.item() == pytest.approx(0.25 / 0.5**0.5)
    assert c_in.item() == pytest.approx(1 / 0.5**0.5)
    assert c_noise.item() == pytest.approx(torch.tensor(0.5).log().item() / 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VP(schedule="quadratic"), "use linear, scaled_linear, cosine or sigmoid"),
        (lambda: VP(steps=0), "at least one training step"),
        (lambda: VP(beta_start=0.5, beta_end=0.1), "beta_start <= beta_end"),
        (lambda: VP().alpha(torch.tensor([1000.0])), "must lie in -1 … 999"),
        (lambda: VE(sigma_max=0.001), "sigma_min < sigma_max"),
        (lambda: make_grid(VP(), 0), "at least one, got 0"),
        (lambda: make_grid(VP(), 1001), "more than the 1000"),
        (lambda: make_grid(VP(), 10, "karass"), "Unknown spacing 'karass'"),
        (lambda: make_grid(FlowMatching(), 10, "leading"), "use 'uniform'"),
        (lambda: make_grid(VP(), 10, shift=3.0), "leave it out"),
        (lambda: make_grid(FlowMatching(), 10, shift=-1.0), "must be positive"),
        (lambda: make_grid(VP(), 1000, "leading", steps_offset=1), "past the last training step"),
        (lambda: TimeGrid.of(FlowMatching(), torch.tensor([0.0, 1.0])), "float64"),
        (lambda: TimeGrid.of(FlowMatching(), torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)), "strictly"),
        (lambda: tolerance_scales("max", make_grid(VP(), 3)), "absolute, sigma or posterior"),
    ],
)
def test_ill_input_gets_a_sentence(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("noise", [FlowMatching(), VP(), VE()])
def test_scales_are_positive_and_posterior_is_the_ddpm_variance(noise: NoiseSchedule) -> None:
    grid = make_grid(noise, 50)
    for norm in ("absolute", "sigma", "posterior"):
        scale = tolerance_scales(norm, grid)
        assert scale.shape == (50,)
        assert bool((scale > 0).all())
    if isinstance(noise, VP):
        steps = make_grid(noise, 1000)
        bars = noise.alpha_bar(steps.t)
        beta = 1 - bars[:-1] / bars[1:]
        ddpm = (1 - bars[1:]) / (1 - bars[:-1]) * beta  # Ho et al. 2020, equation 7
        torch.testing.assert_close(tolerance_scales("posterior", steps)[:-1], ddpm[:-1], rtol=1e-9, atol=0)


def random_table(n: int, k: int, seed: int) -> StepTable:
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, k, generator=draw, dtype=torch.float64) for _ in range(2))
    for i in range(min(n, k - 1)):
        a[i, i + 1 :] = b[i, i + 1 :] = 0
    return StepTable(a / 2, b, torch.rand(n, generator=draw, dtype=torch.float64), Prediction.DATA)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), k=st.integers(1, 4), seed=st.integers(0, 999))
def test_apply_is_the_recurrence_and_unroll_its_inverse(n: int, k: int, seed: int) -> None:
    table = random_table(n, k, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    m, z = (torch.randn(n, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    x = torch.zeros(n + 1, 2, dtype=torch.float64)
    x[0] = torch.randn(2, generator=draw, dtype=torch.float64)
    forcing = torch.zeros(n, 2, dtype=torch.float64)
    for i in range(n):
        for j in range(min(i + 1, k)):
            forcing[i] += table.b[i, j] * m[i - j]
        forcing[i] += table.s[i] * z[i]
        x[i + 1] = forcing[i] + sum(table.a[i, j] * x[i - j] for j in range(min(i + 1, k)))
    pad = torch.zeros(k - 1, 2, dtype=torch.float64)
    applied = table.apply(torch.arange(n)[None], torch.cat([pad, x[:-1]])[None], torch.cat([pad, m])[None], z[None])
    torch.testing.assert_close(applied[0], x[1:])
    # x0 enters through the a's of the first steps; as forcing it makes the linear system complete.
    for i in range(min(n, k)):
        forcing[i] += table.a[i, i] * x[0]
    torch.testing.assert_close(table.unroll(0, n) @ forcing, x[1:])


def test_tables_refuse_nonsense() -> None:
    good = torch.ones(3, 1, dtype=torch.float64)
    with pytest.raises(TypeError, match="float64"):
        StepTable(good.float(), good, good[:, 0], Prediction.DATA)
    with pytest.raises(ValueError, match="not finite"):
        StepTable(good * torch.nan, good, good[:, 0], Prediction.DATA)
    with pytest.raises(ValueError, match="one shape"):
        StepTable(good, good[:2], good[:, 0], Prediction.DATA)
    two = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="before node 0"):
        StepTable(two, two, good[:, 0], Prediction.DATA)
    with pytest.raises(ValueError, match="unroll needs"):
        StepTable(good, good, good[:, 0], Prediction.DATA).unroll(2, 9)
