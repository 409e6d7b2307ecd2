"""Checks of a stepper: a pure, causal rule on every process that it is made for."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from paraflowkit.core.stepper import BaseStepper, StepRule
from paraflowkit.grid import TimeGrid
from paraflowkit.noise import VE, VP, FlowMatching, NoiseSchedule
from paraflowkit.prediction import Prediction
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaFlowConfig
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.spacing import make_grid
from paraflowkit.testing._base import check, fail, skip
from paraflowkit.testing._problems import STEPS, make, mixture, sequential
from paraflowkit.testing._watch import frozen_copy, gap, same, sliding

AnyStepper = BaseStepper[Any]
PROCESSES: dict[str, NoiseSchedule] = {"flow": FlowMatching(), "vp": VP(schedule="cosine"), "ve": VE(sigma_max=10.0)}


def _supported(stepper: AnyStepper) -> list[tuple[str, TimeGrid, StepRule]]:
    """The processes that the stepper takes, with nodes and rule on each.

    Raises:
        SkipTest: it takes none, of which check_rule says more.
    """
    found: list[tuple[str, TimeGrid, StepRule]] = []
    for process, noise in PROCESSES.items():
        with contextlib.suppress(ValueError):
            nodes = stepper.nodes(make_grid(noise, STEPS), noise)
            found.append((process, nodes, stepper.rule(nodes)))
    if not found:
        skip("the stepper takes no process")
    return found


def _buffers(rule: StepRule, count: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random states, outputs and noise for ``width`` steps: ``(count, K - 1 + width, 4)`` twice and without history."""
    draw = torch.Generator().manual_seed(seed)
    length = rule.order_in_time - 1 + width
    channels = 8 if getattr(rule, "learned_variance", False) else 4
    shapes = (count, length, 4), (count, length, channels), (count, width, 4)
    x, m, z = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return x, m, z


def _noise(rule: StepRule, z: Tensor) -> Tensor | None:
    return z if rule.stochastic else None


def _steps(count: int, width: int, first: int = 0) -> Tensor:
    return (first + torch.arange(width)).expand(count, width)


@check("stepper")
def check_rule(stepper: AnyStepper) -> None:
    """The rule has as many steps as nodes, and says what it wants, looks back at, and whether it adds noise."""
    for steps in (1, 2, 3, STEPS, 2 * STEPS):
        tried, reason = 0, ""
        for process, noise in PROCESSES.items():
            try:
                nodes = stepper.nodes(make_grid(noise, steps), noise)
                rule = stepper.rule(nodes)
            except ValueError as error:
                if not str(error).strip() or str(error).startswith("StepTable"):
                    fail(
                        f"{process}, {steps} steps: refused with {str(error)!r}",
                        "refuse nodes on which the method does not exist before the table is made, in a sentence that "
                        "names a method that does",
                    )
                reason = str(error)
                continue
            tried += 1
            if rule.steps != nodes.steps:
                fail(
                    f"{process}, {steps} steps: the rule has {rule.steps} steps and its nodes {nodes.steps}",
                    "nodes(grid) and table(nodes) must agree: a method with inner stages has a step for each node",
                )
            if not isinstance(rule.wants, Prediction):  # pyright: ignore[reportUnnecessaryIsInstance]
                fail(f"wants is {rule.wants!r}", "name a Prediction: DATA, NOISE, V or VELOCITY")
            if not (isinstance(rule.order_in_time, int) and rule.order_in_time >= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
                fail(f"order_in_time is {rule.order_in_time!r}", "it is K, the nodes that a step looks at, at least 1")
            if not isinstance(rule.stochastic, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
                fail(f"stochastic is {rule.stochastic!r}", "it says whether any step adds noise: True or False")
        if not tried and steps == STEPS:
            fail(
                f"every process is refused, the last with: {reason}",
                "write coefficients for general alpha and sigma, and refuse only nodes that the method cannot have",
            )


@check("stepper")
def check_pure(stepper: AnyStepper) -> None:
    """Nodes and rule are functions of the grid alone: made twice they agree, and neither grid nor stepper changes."""
    for process, noise in PROCESSES.items():
        grid = make_grid(noise, STEPS)
        before, attributes = frozen_copy(grid), frozen_copy(vars(stepper))
        try:
            nodes = stepper.nodes(grid, noise)
            kept = frozen_copy(nodes)
            first = stepper.rule(nodes)
        except ValueError:
            continue
        second = stepper.rule(stepper.nodes(make_grid(noise, STEPS), noise))
        if not same(before, grid) or not same(kept, nodes):
            fail(f"{process}: the grid was changed in place", "make new tensors: other components hold the same grid")
        if not same(attributes, frozen_copy(vars(stepper))):
            fail(
                f"{process}: an attribute of the stepper changed",
                "keep nothing on the object: the driver has history",
            )
        x, m, z = _buffers(first, 2, first.steps)
        n = _steps(2, first.steps)
        if not same(first.apply(n, x, m, _noise(first, z)), second.apply(n, x, m, _noise(second, z))):
            fail(
                f"{process}: the same nodes gave another table the second time",
                "a table is a pure function of the nodes: it draws nothing and remembers nothing",
            )


@check("stepper")
def check_apply(stepper: AnyStepper) -> None:
    """Steps made together are those made one by one; they look at no later node and no other sample."""
    for process, _, rule in _supported(stepper):
        width, history = min(rule.steps, 7), rule.order_in_time - 1
        x, m, z = _buffers(rule, 3, width)
        n, noise = _steps(3, width), _noise(rule, z)
        kept = frozen_copy((x, m, z, n))
        whole = rule.apply(n, x, m, noise)
        if not same(kept, (x, m, z, n)):
            fail(f"{process}: apply changed its arguments in place", "write into new tensors")
        if whole.shape != x[:, history:].shape:
            fail(f"{process}: apply gave {tuple(whole.shape)}", "it returns (samples, W, *shape)")
        for w in range(width):
            part = slice(w, w + history + 1)
            one = rule.apply(n[:, w : w + 1], x[:, part], m[:, part], None if noise is None else noise[:, w : w + 1])
            if float((one[:, 0] - whole[:, w]).abs().max()) > 1e-9 * float(whole.abs().max()):
                fail(
                    f"{process}: step {w}, taken alone, is not the one taken among {width}",
                    "it looks at a later node, or takes history from a wrong place: position K - 1 + w is node n[w]",
                )
        for i in range(3):
            single = rule.apply(n[i : i + 1], x[i : i + 1], m[i : i + 1], None if noise is None else noise[i : i + 1])
            if float((single[0] - whole[i]).abs().max()) > 1e-9 * float(whole.abs().max()):
                fail(f"{process}: a sample steps elsewhere with others in the batch", "look at no other sample")
        if noise is not None and same(whole, rule.apply(n, x, m, 2 * noise)):
            fail(f"{process}: the rule is stochastic and does not use z", "weight z by the table's s")


@check("stepper")
def check_dtypes(stepper: AnyStepper) -> None:
    """States of float64, float32 and bfloat16 keep their dtype, and differ by rounding only."""
    for process, _, rule in _supported(stepper):
        x, m, z = _buffers(rule, 2, rule.steps)
        n = _steps(2, rule.steps)
        wanted = rule.apply(n, x, m, _noise(rule, z))
        for dtype, limit in ((torch.float64, 0.0), (torch.float32, 1e-5), (torch.bfloat16, 0.05)):
            found = rule.apply(n, x.to(dtype), m.to(dtype), _noise(rule, z.to(dtype)))
            label = str(dtype).removeprefix("torch.")
            if found.dtype != dtype:
                fail(f"{process}: {label} states became {found.dtype}", "cast the coefficients to the states' dtype")
            # Per step: coefficients of one grid may differ by orders of magnitude.
            size = sum(part.abs().amax((0, 2)).max() for part in (x, m, z)) + wanted.abs().amax((0, 2))
            if bool(((found.double() - wanted).abs().amax((0, 2)) > limit * size).any()) and dtype != torch.float64:
                fail(f"{process}: in {label} a step is far from that in float64", "compute coefficients in float64")


@check("stepper")
def check_parallel(stepper: AnyStepper) -> None:
    """At tolerance 0 a parallel solve gives the trajectory of the stepper's own loop, in at most N sweeps."""
    solver = ParaFlow(ParaFlowConfig(tolerance=0.0))
    ran, reason = False, ""
    for process in PROCESSES:
        try:
            problem = make(process, stepper, 2, model=mixture(process, PROCESSES[process]))
        except ValueError as error:
            reason = str(error)
            continue
        ran, wanted = True, sequential(problem)
        for size in (3, problem.steps):
            found = solve(problem, solver, sliding(size), trajectory=True)
            assert found.trajectory is not None  # it was asked for; this is for the type checker
            error = float(gap(found.trajectory, wanted).max())
            if error > 1e-9:
                fail(
                    f"{process}, window {size}: the parallel trajectory is {error:.1e} off the sequential one",
                    "a step depends on more than the nodes it may look at, its outputs and its noise",
                )
    if not ran:
        skip(f"the mixtures of the kit do not suit the stepper: {reason}")
