"""Checks of a model: what it says it is, and that a row's output depends on that row alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.model import VelocityModel
from paraflowkit.core.problem import Problem, make_problem
from paraflowkit.noise import NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaFlowConfig
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.spacing import make_grid
from paraflowkit.testing._base import check, fail, skip
from paraflowkit.testing._problems import make_stepper, sequential
from paraflowkit.testing._watch import frozen_copy, gap, same, sliding

ROWS = 3
#: Largest difference of a row's outputs in batches of other sizes, over the largest output: kernels may round apart.
ROUNDING = 1e-3
BATCH = (
    "rows look at each other: batch normalisation in training mode, a mean over the first dimension, or conditions "
    "paired with the wrong rows"
)


def _home(model: VelocityModel) -> tuple[torch.device, torch.dtype]:
    """Where the model lives, and the dtype of its parameters; the CPU and float32 where it has none."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


def _rows(model: VelocityModel, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """States and float64 times along the way from noise to data."""
    device, dtype = _home(model)
    grid = make_grid(model.noise, 2 * rows)
    index = torch.arange(1, 2 * rows, 2)
    unit = torch.randn(rows, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = torch.hypot(grid.alpha[index] * model.data_std, grid.sigma[index])
    x = unit * level.view(-1, *(1,) * len(model.shape))
    return x.to(device=device, dtype=dtype), grid.t[index].to(device)


def _condition(model: VelocityModel, rows: int) -> Tensor | None:
    """Conditions of different classes where the model knows some, or of different prompts, or none."""
    attempts: list[tuple[list[int | None], list[str | None]]] = [
        ([i % 2 for i in range(rows)], [None] * rows),
        ([None] * rows, [("a cat", "a dog")[i % 2] for i in range(rows)]),
    ]
    for classes, prompts in attempts:
        try:
            cond = model.condition(classes, prompts)
        except ValueError:
            continue
        return None if cond is None else cond.to(_home(model)[0])
    cond = model.condition([None] * rows, [None] * rows)
    return None if cond is None else cond.to(_home(model)[0])


@torch.no_grad()
def _call(model: VelocityModel, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
    return model(x, t, cond)


def _off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-12))


@check("model")
def check_attributes(model: VelocityModel) -> None:
    """The process, what is predicted, the shape and the data's deviation are declared and fit together."""
    noise, prediction = getattr(model, "noise", None), getattr(model, "prediction", None)
    if not isinstance(noise, NoiseSchedule):
        fail(f"noise is {noise!r}", "set it to the process that the network was trained on: FlowMatching, VP, VE, EDM")
    if not isinstance(prediction, Prediction):
        fail(f"prediction is {prediction!r}", "set it to a Prediction: DATA, NOISE, V or VELOCITY")
    shape: Any = getattr(model, "shape", None)
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 1 for n in shape) or not shape:  # pyright: ignore[reportUnknownVariableType]
        fail(f"shape is {shape!r}", "set it to the shape of one sample, a tuple of whole numbers without the batch")
    if not (isinstance(model.data_std, (int, float)) and 0 < model.data_std < math.inf):  # pyright: ignore[reportUnnecessaryIsInstance]
        fail(f"data_std is {model.data_std!r}", "set it to the standard deviation of the data, a scale of errors")
    _problem(model, 3)  # whose ValueError says which of them do not fit together


@check("model")
def check_output(model: VelocityModel) -> None:
    """An output has its state's dtype and shape, with twice the channels for a learned variance, and is finite."""
    x, t = _rows(model)
    found = _call(model, x, t, _condition(model, ROWS))
    wanted = list(x.shape)
    wanted[1] *= 2 if model.learned_variance else 1
    if list(found.shape) != wanted:
        fail(
            f"states {tuple(x.shape)} gave outputs {tuple(found.shape)}",
            f"return {tuple(wanted)}; twice the channels belong to learned_variance = True",
        )
    if found.dtype != x.dtype:
        fail(f"{x.dtype} states gave {found.dtype} outputs", "return out.to(x.dtype): float64 times must not spread")
    if not bool(found.isfinite().all()):
        fail("an output is not finite", "a division by alpha or sigma at an end of the process, or untrained weights")


@check("model")
def check_rows(model: VelocityModel) -> None:
    """A row's output does not depend on which rows it is evaluated with, how many, or in which order."""
    x, t = _rows(model)
    cond = _condition(model, ROWS)
    together = _call(model, x, t, cond)
    for i in range(ROWS):
        part = slice(i, i + 1)
        off = _off(_call(model, x[part], t[part], None if cond is None else cond[part])[0], together[i])
        if off > ROUNDING:
            fail(f"row {i} comes out {off:.1e} different alone", BATCH)
    order = torch.arange(ROWS - 1, -1, -1, device=x.device)
    turned = _call(model, x[order], t[order], None if cond is None else cond[order])
    if _off(turned[order], together) > ROUNDING:
        fail("rows in another order have other outputs", BATCH)
    other = torch.cat([x[:1], 3 * x[1:]])
    if _off(_call(model, other, t, cond)[0], together[0]) > ROUNDING:
        fail("row 0 changes with the states of the others", BATCH)


@check("model")
def check_inputs_unmutated(model: VelocityModel) -> None:
    """Neither states, times nor conditions are changed in place."""
    x, t = _rows(model)
    given = (x, t, _condition(model, ROWS))
    before = frozen_copy(given)
    _call(model, *given)
    if not same(before, given):
        fail("an argument was changed in place", "the driver still needs it: use out-of-place operations")


@check("model")
def check_deterministic(model: VelocityModel) -> None:
    """The same rows give the same output again, and nothing random is drawn."""
    x, t = _rows(model)
    cond = _condition(model, ROWS)
    state = torch.get_rng_state()
    first = _call(model, x, t, cond)
    drawn = not torch.equal(state, torch.get_rng_state())
    second = _call(model, x, t, cond)
    if not same(first, second):
        fail("the same rows gave another output", "dropout is on or noise is drawn: call eval() in the constructor")
    if drawn:
        fail("a random number was drawn", "dropout is on or noise is drawn: call eval() in the constructor")


@check("model")
def check_frozen(model: VelocityModel) -> None:
    """A call changes no parameter, buffer or mode of the network."""
    x, t = _rows(model)
    before, modes = frozen_copy(model.state_dict()), [module.training for module in model.modules()]
    _call(model, x, t, _condition(model, ROWS))
    if not same(before, model.state_dict()):
        fail("a parameter or buffer changed", "running statistics are updated: call eval() in the constructor")
    if modes != [module.training for module in model.modules()]:
        fail("train() or eval() was called in forward", "do it in the constructor")


@check("model")
def check_times(model: VelocityModel) -> None:
    """float64 times are taken, and neighbouring times of a long grid are told apart: none is rounded on its way."""
    device, _ = _home(model)
    steps = 1000
    grid = make_grid(model.noise, steps)
    for start in (1, steps // 2, steps - 4):
        index = torch.arange(start, start + 3)
        x = _rows(model, 1)[0].expand(3, *model.shape)
        cond = _condition(model, 1)
        cond = None if cond is None else cond.expand(3, *cond.shape[1:])
        out = _call(model, x, grid.t[index].to(device), cond)
        for i, j in ((0, 1), (1, 2), (0, 2)):
            if same(out[i], out[j]):
                times = ", ".join(f"{float(t):.5g}" for t in grid.t[index[[i, j]]])
                fail(
                    f"the times {times} give the same output",
                    "times are rounded or ignored: keep them in float32 or more on their way into the network",
                )


@check("model")
def check_conditions(model: VelocityModel) -> None:
    """Conditions have a row for each sample, the unguided ones have their shape, and nonsense gives a ValueError."""
    for rows in (1, ROWS):
        for cond in (model.condition([None] * rows, [None] * rows), _condition(model, rows)):
            if cond is not None and len(cond) != rows:
                fail(f"{rows} samples gave {len(cond)} conditions", "the first dimension of a condition is the samples")
            if cond is None:
                continue
            try:
                free = model.null_condition(cond)
            except ValueError:
                continue
            if free.shape != cond.shape:
                fail(f"null_condition gave {tuple(free.shape)} for {tuple(cond.shape)}", "it keeps the shape of cond")
    for nonsense in (10**9, -7):
        try:
            model.condition([nonsense], [None])
        except ValueError as error:
            if not str(error).strip():
                fail(f"class {nonsense} is refused without a word", "say which classes there are")
        else:
            fail(f"class {nonsense} is accepted", "raise ValueError in condition: an index error names no sample")
    if _condition(model, 2) is None:
        for classes, prompts in (([0], [None]), ([None], ["a cat"])):
            try:
                model.condition(classes, prompts)  # type: ignore[arg-type]
            except ValueError:
                continue
            fail(
                "a wish is accepted and gives no condition",
                "raise ValueError where it has no effect",
            )


@check("model")
def check_condition_matters(model: VelocityModel) -> None:
    """Samples of different classes or prompts get different outputs, each that of its own."""
    cond = _condition(model, 2)
    if cond is None or same(cond[0], cond[1]):
        skip("the model knows no two classes or prompts")
    x, t = _rows(model, 1)
    out = _call(model, x.expand(2, *model.shape), t.expand(2), cond)
    if same(out[0], out[1]):
        fail("two classes or prompts give the same output", "forward leaves cond out")


def _problem(model: VelocityModel, steps: int) -> Problem:
    """Three samples with a sampler for any process."""
    device, dtype = _home(model)
    stepper = make_stepper("ddim")
    return make_problem(model, stepper, make_grid(model.noise, steps), [1, 2, 3], dtype=dtype, device=device)


@check("model")
def check_solve(model: VelocityModel) -> None:
    """A short solve is finite, and the parallel one at tolerance 0 is the sequential one."""
    problem = _problem(model, 4)
    wanted = sequential(problem)
    if not bool(wanted.isfinite().all()):
        fail("a solve of 4 steps is not finite", "prediction or noise are not those that the network was trained with")
    found = solve(problem, ParaFlow(ParaFlowConfig(tolerance=0.0)), sliding(4), trajectory=True)
    assert found.trajectory is not None  # it was asked for; this is for the type checker
    error = float(gap(found.trajectory, wanted).max())
    if error > 10 * ROUNDING or not found.ok:
        fail(f"the parallel solve is {error:.1e} off the sequential one", BATCH)
