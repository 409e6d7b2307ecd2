"""A scheduler's own loop, run on inputs of ours, with its noise in our hands."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Refusal(ValueError):
    """A scheduler that cannot be a step table, in a sentence of ours."""


class _Noise(TorchFunctionMode):
    """Hands out the tensors it was given in place of what ``torch.randn`` would draw."""

    def __init__(self) -> None:
        super().__init__()
        self.next: Tensor | None = None
        self.draws = 0

    def offer(self, value: Tensor | None) -> None:
        self.next, self.draws = value, 0

    def taken(self) -> int:
        return self.draws

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.randn, torch.randn_like) and self.next is not None:
            self.draws += 1
            return self.next.clone()
        return func(*args, **(kwargs or {}))


def one_line(error: Exception) -> str:
    """What others' code says, without its line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def fresh(scheduler: Any) -> Any:
    """A deep copy, tables on the CPU, of a scheduler on which ``set_timesteps`` was called and ``step`` was not.

    Raises:
        Refusal: it is no scheduler, has no steps yet, or has stepped already.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, type) or not all(hasattr(scheduler, k) for k in ("config", "step", "set_timesteps")):
        got = scheduler if isinstance(scheduler, type) else type(scheduler)
        raise Refusal(f"table_from_scheduler takes a configured scheduler object of diffusers, got {got}.")
    counted = getattr(scheduler, "num_inference_steps", None) is not None or getattr(
        scheduler, "custom_timesteps", False
    )
    if not counted or getattr(scheduler, "timesteps", None) is None:
        raise Refusal(f"{name} has no steps yet: call its set_timesteps first.")
    # Not every scheduler counts its steps; DDIM does not, and need not.
    if getattr(scheduler, "step_index", None) is not None or getattr(scheduler, "counter", 0):
        raise Refusal(f"{name} has stepped already: call its set_timesteps again first.")
    made = copy.deepcopy(scheduler)
    for key, value in vars(made).items():
        if isinstance(value, Tensor):
            setattr(made, key, value.cpu())
    return made


def run(
    scheduler: Any,
    options: dict[str, Any],
    inputs: Callable[[int, Tensor | None], tuple[Tensor, Tensor]],
    noise: Callable[[int], Tensor],
) -> tuple[list[Tensor], Tensor, list[bool]]:
    """Every step of the scheduler.

    Args:
        scheduler: it is copied. options: of its ``step``.
        inputs: (step, its last result or None) -> (state, raw network output), ``(rows, *shape)`` each.
        noise: step -> what it shall draw.

    Returns:
        The results of all steps; the factor of ``scale_model_input`` at every step, float64 ``(N,)``; and whether each
        step drew noise.

    Raises:
        Refusal: a step draws more than once, or fails.
    """
    results: list[Tensor] = []
    scales: list[float] = []
    drew: list[bool] = []
    mine = fresh(scheduler)
    with _Noise() as source, torch.no_grad():
        last: Tensor | None = None
        if hasattr(mine, "set_begin_index"):
            mine.set_begin_index(0)  # else a repeated first timestep is taken for the second of them
        for n, t in enumerate(mine.timesteps):
            x, m = inputs(n, last)
            scaled = torch.ones_like(x)
            if hasattr(mine, "scale_model_input"):  # flow-matching schedulers show the network the state itself
                scaled = mine.scale_model_input(scaled, t)
            scales.append(float(scaled.flatten()[0]))
            source.offer(noise(n).to(m.dtype))
            try:
                after: Tensor = mine.step(m, t, x, return_dict=False, **options)[0]
            except Exception as error:
                raise Refusal(
                    f"{type(scheduler).__name__} fails in step {n} with plain states and outputs, so it cannot be read "
                    f"as a step table: {one_line(error)}"
                ) from error
            draws = source.taken()
            source.offer(None)
            if draws > 1:
                raise Refusal(
                    f"{type(scheduler).__name__} draws noise {draws} times in a step, and a step table has one."
                )
            last = after
            results.append(after)
            drew.append(draws == 1)
    return results, torch.tensor(scales, dtype=torch.float64), drew
