"""The spacings that users know by name: from a process and a number of steps to a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from paraflowkit.grid import TimeGrid
from paraflowkit.noise import SMALLEST_BAR, VE, VP, FlowMatching, Levels, NoiseSchedule

__all__ = ["CONVENTIONS", "SHAPES", "SPACINGS", "make_grid", "resolution_shift"]

SPACINGS = ("uniform", "leading", "trailing", "linspace")
CONVENTIONS = ("ddim", "euler", "dpm")
SHAPES = ("karras", "exponential", "beta")


def resolution_shift(
    tokens: int, base_shift: float = 0.5, max_shift: float = 1.15, base_tokens: int = 256, max_tokens: int = 4096
) -> float:
    """The flow-matching shift of an image of so many tokens, exp(mu) with mu linear in the tokens.

    The defaults are those of Flux. Source: Esser et al., Scaling Rectified Flow Transformers, ICML 2024, section 5.3.2;
    ``calculate_shift`` of diffusers.
    """
    if not tokens >= 1:
        raise ValueError(f"An image has at least one token, got {tokens}.")
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    mu = base_shift + slope * (tokens - base_tokens)
    if mu > 100:
        raise ValueError(f"An image of {tokens} tokens is beyond what the shift by resolution is made for.")
    return math.exp(mu)


def make_grid(
    noise: NoiseSchedule,
    steps: int,
    spacing: str = "uniform",
    shift: float = 1.0,
    steps_offset: int = 0,
    *,
    convention: str = "ddim",
    shape: str | None = None,
    sigmas: Sequence[float] | None = None,
    times: Sequence[float] | None = None,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    shift_terminal: float | None = None,
    final: str = "zero",
) -> TimeGrid:
    """The grid of a process.

    Args:
        noise: the process.
        steps: N ≥ 1.
        spacing: ``uniform``: equal steps of t. For VP, diffusers' ``leading``, ``trailing`` (which ``uniform`` means
            there) and ``linspace``. For flow matching also ``linspace``, the own default of diffusers' schedulers: N
            levels from 1 to 1/1000 and then 0.
        shift: resolution shift of flow matching, sigma → shift·sigma / (1 + (shift − 1)·sigma) (Esser et al. 2024,
            equation 23); see :func:`resolution_shift`.
        steps_offset: added to the ``leading`` times, as in diffusers.
        convention: how a VP process reads the spacing, as three families of diffusers' schedulers do: ``ddim`` (DDIM,
            DDPM) rounds times; ``euler`` (Euler, Heun, LMS) keeps fractional ``linspace`` times and interpolates sigma
            / alpha; ``dpm`` (DPM-Solver, UniPC) takes N + 1 times and leaves out the one nearest to the data, spans
            shapes from the last training step to the first, and tells the network whole times.
        shape: of the noise levels between the ends of the spacing, or of a VE process: ``karras`` (Karras et al. 2022,
            equation 5), ``exponential`` (equal steps of their logarithm) or ``beta`` (quantiles of Beta(0.6, 0.6), Lee
            et al. 2024).
        sigmas: the levels themselves, from noise to data without the final 0, such as a list of Align Your Steps.
            Levels are sigma / alpha for VP, VE and EDM and sigma for flow matching, which are then shifted. A list of
            another length than N is interpolated in its logarithm (Sabour et al. 2024).
        times: the times themselves, in place of ``sigmas``.
        rho: exponent of ``karras``. sigma_min, sigma_max: ends of the shapes, in place of the spacing's.
        shift_terminal: flow levels are stretched so that the last one before the end is this.
        final: ``zero``: the last node is the process's end; ``sigma_min``: the least noise it was trained with.

    Raises:
        ValueError: an unknown name, N < 1, N above the training steps, a level outside the process, or a setting that
            the process or the other settings leave without effect; the message names the remedy.
    """
    if not 1 <= steps < math.inf or int(steps) != steps:
        raise ValueError(f"A grid needs a whole number of steps, at least one, got {steps}.")
    for name, value, known in (
        ("spacing", spacing, SPACINGS),
        ("convention", convention, CONVENTIONS),
        ("final", final, ("zero", "sigma_min")),
        ("shape", shape or SHAPES[0], SHAPES),
    ):
        if value not in known:
            home = f" {value!r} is a shape." if name == "spacing" and value in SHAPES else ""
            raise ValueError(f"Unknown {name} {value!r}: use one of {', '.join(known)}.{home}")
    listed = sigmas is not None or times is not None
    if sum(value is not None for value in (shape, sigmas, times)) > 1:
        raise ValueError("'shape', 'sigmas' and 'times' each place the nodes: give one of them.")
    flow, vp = isinstance(noise, FlowMatching), isinstance(noise, VP)
    for name, given, works, where in (
        ("shift", shift != 1.0, flow, "of flow-matching grids"),
        ("shift_terminal", shift_terminal is not None, flow, "of flow-matching grids"),
        ("shift", shift != 1.0, times is None, "of grids that are not listed by time"),
        ("shift_terminal", shift_terminal is not None, times is None, "of grids that are not listed by time"),
        ("convention", convention != "ddim", vp and not listed, "of VP grids that are not listed"),
        ("steps_offset", steps_offset != 0, vp and spacing == "leading", "of VP grids with 'leading' spacing"),
        ("final: sigma_min", final == "sigma_min", vp, "of VP grids; the others end at zero"),
        ("rho", rho != 7.0, shape == "karras", "of the shape 'karras'"),
        ("sigma_min", sigma_min is not None, shape is not None, "of shapes; see also 'sigmas' and 'final'"),
        ("sigma_max", sigma_max is not None, shape is not None, "of shapes; see also 'sigmas'"),
        (
            f"spacing: {spacing}",
            spacing != "uniform",
            not listed and not (shape is not None and convention == "dpm"),
            "of grids without a list of 'sigmas' or 'times', and without a shape of convention 'dpm'",
        ),
    ):
        if given and not works:
            raise ValueError(f"'{name}' is a setting {where}: leave it out.")
    if isinstance(noise, VP):
        time, level = _vp(noise, steps, spacing, steps_offset, convention)
    elif isinstance(noise, FlowMatching):
        given = _interpolate(noise, _list(sigmas, "sigmas"), steps) if sigmas is not None else None
        level = _flow(steps, spacing, shift, shift_terminal, given)
        time = 1 - level
    else:
        if spacing != "uniform":
            raise ValueError(f"Spacing {spacing!r} is one of VP and flow-matching grids: use 'uniform' or a shape.")
        time = torch.linspace(noise.start, noise.end, steps + 1, dtype=torch.float64)[:-1]
        level = _level_of(noise, time)
    if times is not None:
        time = _list(times, "times")
        low, high = sorted((noise.start, 0.0 if vp else noise.end))
        if bool((time < low).any()) or bool((time > high).any()):
            raise ValueError(f"'times' must lie in {low:g} … {high:g}, the times of the process.")
        level = _interpolate(noise, _level_of(noise, time), steps)
        if len(time) != steps:
            time = 1 - level if flow else noise.time_of(level)
    elif sigmas is not None and not flow:
        level = _interpolate(noise, _list(sigmas, "sigmas"), steps)
        time = noise.time_of(level)
    elif shape is not None:
        whole = isinstance(noise, VP) and convention == "dpm"
        level = _shape(noise, shape, level, steps, rho, sigma_min, sigma_max, whole)
        time = 1 - level if flow else noise.time_of(level)
        if isinstance(noise, VP) and convention == "dpm":
            # diffusers rounds the times of Karras's levels, except on the cosine schedule, and cuts off the others.
            rounded = shape == "karras" and noise.schedule != "cosine"
            time = time.round() if rounded else (time + 1e-6).floor()
    _check_levels(noise, level)
    end = noise.levels(torch.tensor([0.0 if final == "sigma_min" else noise.end], dtype=torch.float64))
    # An end that holds the noise of the first training step is told as that step.
    noisy = isinstance(noise, VP) and (final == "sigma_min" or not noise.final_alpha_one)
    last = torch.tensor([0.0 if noisy else noise.end], dtype=torch.float64)
    return TimeGrid(torch.cat([time, last]), _levels(noise, level, time).then(end))


def _vp(noise: VP, steps: int, spacing: str, offset: int, convention: str) -> tuple[Tensor, Tensor]:
    """Times and sigma / alpha of the N nodes before the last."""
    total = noise.steps
    if steps > total:
        raise ValueError(f"{steps} steps are more than the {total} that the process was trained with.")
    extra = 1 if convention == "dpm" else 0
    # NumPy's own arithmetic, as in diffusers: halves are rounded by the last bit of these sums.
    if spacing == "linspace":
        place = np.linspace(0, total - 1, steps + extra)[::-1][:steps].copy()
        time = torch.from_numpy(place if convention == "euler" else place.round())
    elif spacing == "leading":
        time = (torch.arange(steps, dtype=torch.float64).flip(0) + extra) * (total // (steps + extra)) + offset
        if time[0] > total - 1:
            raise ValueError(f"steps_offset {offset} moves the first time past the last training step.")
    else:
        time = torch.from_numpy(np.arange(total, 0, -total / steps).round()[:steps] - 1)
    if len(time) > 1 and bool((time.diff() >= 0).any()):
        raise ValueError(f"{steps} steps of spacing {spacing!r} repeat a training step: take fewer steps.")
    if convention == "ddim":
        return time, _level_of(noise, time)
    bars = noise.training_bars()
    if noise.zero_terminal_snr:
        bars[-1] = SMALLEST_BAR
    # The Euler family of diffusers interpolates sigma / alpha itself, not its logarithm, at fractional times.
    known = (1 / bars - 1).sqrt()
    low = time.floor().long().clamp(0, max(total - 2, 0))
    share = time - low
    return time, torch.where(
        share == 0, known[low], torch.lerp(known[low], known[(low + 1).clamp(max=total - 1)], share)
    )


def _flow(steps: int, spacing: str, shift: float, terminal: float | None, given: Tensor | None) -> Tensor:
    """sigma of the N nodes before the last; given: the list to be shifted."""
    if not 0 < shift < math.inf:
        raise ValueError(f"'shift' must be positive, got {shift}.")

    def shifted(value: Tensor) -> Tensor:
        return shift * value / (1 + (shift - 1) * value)

    if given is not None:
        level = shifted(given)
    elif spacing == "uniform":
        level = shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1])
    elif spacing == "linspace":
        # diffusers shifts twice here: the range that it remembers is shifted already.
        low = float(shifted(torch.tensor(1e-3, dtype=torch.float64)))
        level = shifted(torch.linspace(1, low, steps, dtype=torch.float64))
    else:
        raise ValueError(f"Spacing {spacing!r} picks training steps, which only VP has: use 'uniform' or 'linspace'.")
    if terminal is not None:
        if not 0 < terminal < 1 or steps < 2:
            raise ValueError("'shift_terminal' lies between 0 and 1 and needs at least two steps.")
        level = 1 - (1 - level) * (1 - terminal) / (1 - level[-1])
    return level


def _shape(
    noise: NoiseSchedule,
    name: str,
    level: Tensor,
    steps: int,
    rho: float,
    least: float | None,
    most: float | None,
    whole: bool,
) -> Tensor:
    """N levels of a named shape between the ends of ``level``, or of the whole process."""
    low, high = float(level[-1]), float(level[0])
    if isinstance(noise, VE):
        low, high = noise.sigma_min, noise.sigma_max
    elif whole and isinstance(noise, VP):
        bars = noise.training_bars()[[0, -1]].clamp(min=SMALLEST_BAR if noise.zero_terminal_snr else 0.0)
        low, high = (1 / bars - 1).sqrt().tolist()
    low, high = least if least is not None else low, most if most is not None else high
    if not 0 < low <= high < math.inf:
        raise ValueError(f"shape {name!r} needs 0 < sigma_min <= sigma_max < infinity, got {low:g} and {high:g}.")
    if not 0 < rho < math.inf:
        raise ValueError(f"'rho' must be positive, got {rho}.")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if name == "karras":
        first, last = (torch.tensor(v, dtype=torch.float64) ** (1 / rho) for v in (high, low))
        level = (first + ramp * (last - first)) ** rho
        if not bool(level.isfinite().all()):
            raise ValueError(f"'rho' of {rho:g} gives levels that are not finite: use one nearer to 7.")
        return level
    if name == "exponential":
        return high * (ramp * math.log(low / high)).exp()
    from scipy.stats import beta  # imported here: it takes a second, and one shape needs it

    return low + torch.from_numpy(beta.ppf(1 - ramp.numpy(), 0.6, 0.6)) * (high - low)


def _list(values: Sequence[float], name: str) -> Tensor:
    listed = torch.tensor([float(v) for v in values], dtype=torch.float64)
    if name == "sigmas" and len(listed) and float(listed[-1]) == 0:
        listed = listed[:-1]
    if not len(listed):
        raise ValueError(f"'{name}' is an empty list: give the nodes from noise to data, without the end.")
    wrong = ~listed.isfinite() | (listed <= 0 if name == "sigmas" else torch.zeros_like(listed, dtype=torch.bool))
    if bool(wrong.any()):
        kind = "positive and finite" if name == "sigmas" else "finite"
        raise ValueError(f"'{name}' must be {kind}, got {float(listed[wrong][0]):g}.")
    return listed


def _interpolate(noise: NoiseSchedule, level: Tensor, steps: int) -> Tensor:
    """Levels of another number, interpolated in their logarithm over their index; both ends stay."""
    _check_levels(noise, level)
    if len(level) == steps:
        return level
    if bool((level <= 0).any()) or bool(level.isinf().any()):
        raise ValueError(
            f"A list of {len(level)} nodes for {steps} steps is interpolated, which needs some data and some noise at "
            f"each of them: leave out the end, or give {steps} nodes."
        )
    if len(level) == 1:
        raise ValueError(f"A list of 1 node says nothing about {steps} steps: give at least two.")
    place = torch.linspace(0, len(level) - 1, steps, dtype=torch.float64)
    low = place.floor().long().clamp(max=max(len(level) - 2, 0))
    high = (low + 1).clamp(max=len(level) - 1)
    return torch.lerp(level[low].log(), level[high].log(), place - low).exp()


def _level_of(noise: NoiseSchedule, time: Tensor) -> Tensor:
    at = noise.levels(time)
    return at.sigma if isinstance(noise, FlowMatching) else at.sigma / at.alpha


def _check_levels(noise: NoiseSchedule, level: Tensor) -> None:
    if isinstance(noise, FlowMatching):
        low, high = 0.0, 1.0
    elif isinstance(noise, VP):
        low, high = (float(v) for v in _level_of(noise, torch.tensor([0.0, noise.start], dtype=torch.float64)))
    else:
        high, low = (float(v) for v in _level_of(noise, torch.tensor([noise.start, noise.end], dtype=torch.float64)))
    slack = 1e-4  # published lists give the process's own ends to four or five digits
    if bool((level < low * (1 - slack)).any()) or bool((level > high * (1 + slack)).any()) or bool((level <= 0).any()):
        raise ValueError(
            f"Noise levels from {float(level.max()):g} to {float(level.min()):g} leave the process, which has "
            f"{high:g} to {low:g}, the end left out: move them inside."
        )
    if len(level) > 1 and bool((level.diff() >= 0).any()):
        raise ValueError("Noise levels must fall strictly from noise to data.")


def _levels(noise: NoiseSchedule, level: Tensor, time: Tensor) -> Levels:
    if not isinstance(noise, VP):
        return noise.levels(time)
    alpha = (1 + level.square()).rsqrt()
    # Without data the ratio is infinite: alpha is 0 and sigma 1.
    return Levels(alpha, torch.where(level.isinf(), 1.0, level * alpha))
