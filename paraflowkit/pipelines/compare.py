"""A call of a pipeline made both ways."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from paraflowkit.errors import ParaflowkitError
from paraflowkit.pipelines.enable import Enabled, disable, enable, enabled, install
from paraflowkit.pipelines.hooks import HANDLE
from paraflowkit.pipelines.rewind import Randomness
from paraflowkit.pipelines.rows import clone, leaves
from paraflowkit.pipelines.stats import PipelineStats


@dataclass(frozen=True)
class Check:
    """What :func:`check` found.

    Attributes:
        difference: largest absolute difference of the outputs, over the largest absolute value. rmse: root mean squared
            difference over the plain output's standard deviation. stats: of the parallel call.
        plain_seconds, seconds: wall clock of the two.
    """

    difference: float
    rmse: float
    stats: PipelineStats
    plain_seconds: float
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"difference    {self.difference:.2g} of the largest value, RMSE {self.rmse:.2g} of the standard deviation",
            f"time          {self.plain_seconds:.2f} s plainly, {self.seconds:.2f} s parallel in time",
        ]
        if self.stats.refused is not None:
            return "\n".join([f"refused       {self.stats.refused}; the call was run plainly", *lines])
        return "\n".join([f"parallel      {self.stats}", *lines])


def check(
    pipe: Any,
    *args: Any,
    solver: Any = "secant",
    window: Any = 8,
    settings: dict[str, Any] | None = None,
    **call: Any,
) -> Check:
    """Make a call of a pipeline plainly and parallel in time, print how the two compare, and return it.

    Both start from the same random state; a ``generator`` that is given ends in the state of one call.

    Args:
        pipe: it is left as it was, enabled or not. args, call: of the pipeline. solver, window: as for :func:`enable`.
        settings: further arguments of :func:`enable`, such as ``{"tolerance": 1e-3}``.

    Raises:
        ParaflowkitError: settings that are wrong. Exception: what the pipeline itself raises for this call.
    """
    more = _settings(pipe, settings, call)
    before = vars(pipe)[HANDLE] if enabled(pipe) else None
    disable(pipe)
    start = Randomness((args, call))
    disable(enable(pipe, solver, window=window, **more).pipe)  # wrong settings are told before anything long
    try:
        return _compare(pipe, args, call, start, lambda: enable(pipe, solver, window=window, **more))
    finally:
        disable(pipe)
        if before is not None:
            install(before)


def _settings(pipe: Any, settings: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Further arguments of enable. Raises ParaflowkitError for what is no such thing, or in the wrong place."""
    if settings is not None and not isinstance(settings, dict):
        raise ParaflowkitError(f"check: settings: expects a dict such as {{'tolerance': 1e-3}}, got {settings!r}.")
    more: dict[Any, Any] = dict(settings or {})
    for name in more:
        if name in ("solver", "window"):
            raise ParaflowkitError(f"check: settings: {name} is an argument of check itself: check(pipe, {name}=…).")
        if not isinstance(name, str):
            raise ParaflowkitError(f"check: settings: names are text, got {name!r}.")
    if not hasattr(pipe, "_blocks"):
        parameters = inspect.signature(type(pipe).__call__).parameters
        open_ = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        for name in call:
            if name not in parameters and not open_:
                raise ParaflowkitError(
                    f"check: {name}: {type(pipe).__name__} takes no such argument; further settings of enable go into "
                    f"settings={{{name!r}: …}}."
                )
    return more


def _compare(pipe: Any, args: Any, call: dict[str, Any], start: Randomness, on: Callable[[], Enabled]) -> Check:
    began = time.perf_counter()
    plain = pipe(*clone(args), **clone(call))
    middle = time.perf_counter()
    start.restore()
    handle = on()
    handle.warned = True  # the report says it
    between = time.perf_counter()
    parallel = pipe(*args, **call)
    end = time.perf_counter()
    assert handle.stats is not None
    difference, rmse = _differences(parallel, plain)
    found = Check(difference, rmse, copy.copy(handle.stats), middle - began, end - between)
    print(found)
    return found


def _differences(a: Any, b: Any) -> tuple[float, float]:
    """Largest relative difference, and RMSE over the standard deviation, of all that two outputs hold."""
    first, second = _numbers(a), _numbers(b)
    if first.shape != second.shape:
        return float("inf"), float("inf")
    if not len(second):
        return 0.0, 0.0
    gap = first - second
    return (
        float(gap.abs().max() / second.abs().max().clamp_min(1e-12)),
        float(gap.square().mean().sqrt() / second.std(correction=0).clamp_min(1e-12)),
    )


def _numbers(output: Any) -> torch.Tensor:
    values = getattr(output, "values", None)
    tree = dict(values) if isinstance(values, dict) else output  # a modular pipeline's state
    found: list[torch.Tensor] = []
    for _, leaf in leaves(tree):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf.detach().double().cpu().flatten())
        elif isinstance(leaf, np.ndarray) or hasattr(leaf, "getpixel"):
            found.append(torch.from_numpy(np.asarray(leaf).astype(np.float64)).flatten())
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)
