"""The spacings that users know by name: from a process and a number of steps to a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from paraflowkit.grid import TimeGrid
from paraflowkit.noise import VE, VP, FlowMatching, Levels, NoiseSchedule

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
    if tokens < 1:
        raise ValueError(f"An image has at least one token, got {tokens}.")
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + slope * (tokens - base_tokens))


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
            / alpha; ``dpm`` (DPM-Solver, UniPC) takes N + 1 times and leaves out the one nearest to the data.
        shape: of the noise levels between the ends of the spacing: ``karras`` (Karras et al. 2022, equation 5),
            ``exponential`` (equal steps of their logarithm) or ``beta`` (quantiles of Beta(0.6, 0.6), Lee et al. 2024).
        sigmas: the levels themselves, from noise to data without the final 0, such as a list of Align Your Steps.
            Levels are sigma / alpha for VP, VE and EDM and sigma for flow matching. A list of another length than N is
            interpolated in its logarithm (Sabour et al. 2024).
        times: the times themselves, in place of ``sigmas``.
        rho: exponent of ``karras``. sigma_min, sigma_max: ends of the shapes, in place of the spacing's.
        shift_terminal: flow levels are stretched so that the last one before the end is this.
        final: ``zero``: the last node is the process's end; ``sigma_min``: the least noise it was trained with.

    Raises:
        ValueError: an unknown name, N < 1, N above the training steps, a level outside the process, or a setting that
            the process does not have; the message names the remedy.
    """
    if steps < 1:
        raise ValueError(f"A grid needs at least one step, got {steps}.")
    for name, value, known in (
        ("spacing", spacing, SPACINGS),
        ("convention", convention, CONVENTIONS),
        ("final", final, ("zero", "sigma_min")),
    ):
        if value not in known:
            raise ValueError(f"Unknown {name} {value!r}: use one of {', '.join(known)}.")
    if shape is not None and shape not in SHAPES:
        raise ValueError(f"Unknown shape {shape!r}: use one of {', '.join(SHAPES)}.")
    if sum(value is not None for value in (shape, sigmas, times)) > 1:
        raise ValueError("'shape', 'sigmas' and 'times' each place the nodes: give one of them.")
    if not isinstance(noise, FlowMatching):
        for name, given in (("shift", shift != 1.0), ("shift_terminal", shift_terminal is not None)):
            if given:
                raise ValueError(f"'{name}' is a setting of flow-matching grids only: leave it out.")
    if isinstance(noise, VP):
        time, level = _vp(noise, steps, spacing, steps_offset, convention)
    elif isinstance(noise, FlowMatching):
        level = _flow(steps, spacing, shift, shift_terminal)
        time = 1 - level
    else:
        if spacing != "uniform":
            raise ValueError(f"Spacing {spacing!r} is one of VP and flow-matching grids: use 'uniform' or a shape.")
        time = level = _ends(noise, steps)
    if shape is not None or sigmas is not None or times is not None:
        if times is not None:
            low, high = sorted((noise.start, noise.end))
            listed = _list(times, "times")
            if bool((listed < max(low, 0.0)).any()) or bool((listed > high).any()):
                raise ValueError(f"'times' must lie in {max(low, 0.0):g} … {high:g}, the times of the process.")
            values = _level_of(noise, listed)
            level = _interpolate(values, steps)
        elif shape is not None:
            whole = isinstance(noise, VP) and convention == "dpm"
            level = _shape(noise, shape, level, steps, rho, sigma_min, sigma_max, whole)
        else:
            level = _interpolate(_list(sigmas or (), "sigmas"), steps)
        _check_levels(noise, level)
        time = 1 - level if isinstance(noise, FlowMatching) else noise.time_of(level)
        if isinstance(noise, VP) and convention == "ddim":
            time = time.round()
            level = _level_of(noise, time)
    _check_levels(noise, level)
    levels = _levels(noise, level)
    if final == "sigma_min" and isinstance(noise, (FlowMatching, VE)):
        raise ValueError("'final: sigma_min' is a setting of VP grids: a flow or VE grid ends at zero.")
    end = noise.levels(torch.tensor([0.0 if final == "sigma_min" else noise.end], dtype=torch.float64))
    last = torch.tensor([noise.end], dtype=torch.float64)

    def join(left: Tensor | None, right: Tensor | None) -> Tensor | None:
        return None if left is None or right is None else torch.cat([left, right])

    return TimeGrid(
        torch.cat([time, last]),
        Levels(
            torch.cat([levels.alpha, end.alpha]),
            torch.cat([levels.sigma, end.sigma]),
            join(levels.dalpha, end.dalpha),
            join(levels.dsigma, end.dsigma),
        ),
    )


def _vp(noise: VP, steps: int, spacing: str, offset: int, convention: str) -> tuple[Tensor, Tensor]:
    """Times and sigma / alpha of the N nodes before the last."""
    total = noise.steps
    if steps > total:
        raise ValueError(f"{steps} steps are more than the {total} that the process was trained with.")
    if offset and spacing != "leading":
        raise ValueError("'steps_offset' is a setting of the 'leading' spacing: leave it at 0.")
    count = torch.arange(steps, dtype=torch.float64)
    extra = 1 if convention == "dpm" else 0
    if spacing == "linspace":
        time = torch.linspace(0, total - 1, steps + extra, dtype=torch.float64).flip(0)[:steps]
        time = time if convention == "euler" else time.round()
    elif spacing == "leading":
        time = (count.flip(0) + extra) * (total // (steps + extra)) + offset
        if time[0] > total - 1:
            raise ValueError(f"steps_offset {offset} moves the first time past the last training step.")
    else:
        time = (total - total / steps * count).round() - 1
    if len(time) > 1 and bool((time.diff() >= 0).any()):
        raise ValueError(f"{steps} steps of spacing {spacing!r} repeat a training step: take fewer steps.")
    if convention != "euler":
        return time, _level_of(noise, time)
    # The Euler family of diffusers interpolates sigma / alpha itself, not its logarithm, at fractional times.
    known = (1 / noise.training_bars() - 1).sqrt()
    low = time.floor().long().clamp(0, max(total - 2, 0))
    share = time - low
    return time, torch.where(
        share == 0, known[low], torch.lerp(known[low], known[(low + 1).clamp(max=total - 1)], share)
    )


def _flow(steps: int, spacing: str, shift: float, terminal: float | None) -> Tensor:
    """sigma of the N nodes before the last."""
    if not shift > 0:
        raise ValueError(f"'shift' must be positive, got {shift}.")

    def shifted(value: Tensor) -> Tensor:
        return shift * value / (1 + (shift - 1) * value)

    if spacing == "uniform":
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


def _ends(noise: NoiseSchedule, steps: int) -> Tensor:
    return torch.linspace(noise.start, noise.end, steps + 1, dtype=torch.float64)[:-1]


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
        ends = _level_of(noise, torch.tensor([0.0, noise.start], dtype=torch.float64))
        low, high = float(ends[0]), float(ends[1])
    low, high = least if least is not None else low, most if most is not None else high
    if not 0 < low <= high < math.inf:
        raise ValueError(f"shape {name!r} needs 0 < sigma_min <= sigma_max < infinity, got {low:g} and {high:g}.")
    if rho <= 0:
        raise ValueError(f"'rho' must be positive, got {rho}.")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if name == "karras":
        return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    if name == "exponential":
        return torch.lerp(torch.tensor(math.log(high)).double(), torch.tensor(math.log(low)).double(), ramp).exp()
    from scipy.stats import beta  # imported here: it takes a second, and one shape needs it

    return low + torch.from_numpy(beta.ppf(1 - ramp.numpy(), 0.6, 0.6)) * (high - low)


def _list(values: Sequence[float], name: str) -> Tensor:
    listed = torch.tensor([float(v) for v in values], dtype=torch.float64)
    if name == "sigmas" and len(listed) and float(listed[-1]) == 0:
        listed = listed[:-1]
    if not len(listed):
        raise ValueError(f"'{name}' is an empty list: give the nodes from noise to data, without the end.")
    return listed


def _interpolate(level: Tensor, steps: int) -> Tensor:
    """Levels of another number, interpolated in their logarithm over their index; both ends stay."""
    if len(level) == steps:
        return level
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
        low, high = 0.0, noise.start
    slack = 1e-4  # published lists give the process's own ends to four or five digits
    if bool((level < low * (1 - slack)).any()) or bool((level > high * (1 + slack)).any()) or bool((level <= 0).any()):
        raise ValueError(
            f"Noise levels from {float(level.max()):g} to {float(level.min()):g} leave the process, which has "
            f"{high:g} to {low:g}: move them inside."
        )
    if len(level) > 1 and bool((level.diff() >= 0).any()):
        raise ValueError("Noise levels must fall strictly from noise to data.")


def _levels(noise: NoiseSchedule, level: Tensor) -> Levels:
    if isinstance(noise, FlowMatching):
        return noise.levels(1 - level)
    if isinstance(noise, VE):
        return noise.levels(level)
    alpha = (1 + level.square()).rsqrt()
    # Without data the ratio is infinite: alpha is 0 and sigma 1.
    return Levels(alpha, torch.where(level.isinf(), 1.0, level * alpha))
