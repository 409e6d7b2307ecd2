"""A step table read off a scheduler's own ``step``, whatever it computes, as long as it is affine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paraflowkit.prediction import Prediction
from paraflowkit.schedulers.loop import Refusal, run
from paraflowkit.table import StepTable

#: Weights below this share of a row's largest are rounding of the scheduler's float32.
_NEGLIGIBLE = 1e-12


def probe(scheduler: Any, options: dict[str, Any]) -> StepTable:
    """The table over raw network outputs.

    The scheduler runs once on a batch whose rows are unit inputs: row i is 1 in the i-th of all states, outputs and
    noises and 0 in the others, so that the rows of a step's result are its weights. States are given, not fed back, so
    a weight is the direct one.

    Raises:
        Refusal: a step of zeros does not give zero, or a step uses the noise of another.
    """
    steps = len(scheduler.timesteps)
    size = 3 * steps + 1

    def unit(index: int) -> Tensor:
        value = torch.zeros(size, 1, 1, 1, dtype=torch.float64)
        value[index] = 1
        return value

    def inputs(n: int, _: Tensor | None) -> tuple[Tensor, Tensor]:
        return unit(n), unit(steps + n)

    results, _, drew = run(scheduler, options, inputs, lambda n: unit(2 * steps + n))
    rows = torch.stack([r.double().flatten() for r in results])
    if bool((rows[:, -1].abs() > _NEGLIGIBLE).any()):
        raise Refusal(f"{type(scheduler).__name__} does not map zeros to zero, so it has no step table.")
    rows = torch.where(rows.abs() > _NEGLIGIBLE * rows.abs().amax(1, keepdim=True), rows, 0.0)
    x, m, z = rows[:, :steps], rows[:, steps : 2 * steps], rows[:, 2 * steps : 3 * steps]
    step = torch.arange(steps)
    lag = step[:, None] - step[None, :]
    used = (x != 0) | (m != 0)
    columns = int(torch.where(used, lag, 0).max()) + 1
    a, b = torch.zeros(steps, columns, dtype=torch.float64), torch.zeros(steps, columns, dtype=torch.float64)
    for j in range(columns):
        n = torch.arange(j, steps)
        a[n, j], b[n, j] = x[n, n - j], m[n, n - j]
    s = z.diagonal() * torch.tensor(drew)
    if bool((z - torch.diag(s)).any()):
        raise Refusal(
            f"{type(scheduler).__name__} uses the noise of earlier steps again, which a step table does not hold."
        )
    # What the raw output is does not matter to the table: the caller names it.
    return StepTable(a, b, s.clone(), Prediction.DATA)
