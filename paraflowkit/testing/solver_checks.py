"""Checks of what a solver finds: at tolerance 0 the sequential trajectory, whatever the sampler and the window."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import Sweep
from paraflowkit.core.window import WindowPolicy
from paraflowkit.solution import Solution
from paraflowkit.solve import SweepInfo
from paraflowkit.testing._base import Check, Finding, check, fail, mend_first, skip
from paraflowkit.testing._problems import STEPS, Counting, make, sequential
from paraflowkit.testing._watch import (
    AnySolver,
    Watched,
    at_tolerance,
    exact,
    gap,
    loose,
    most_sweeps,
    run,
    sliding,
)
from paraflowkit.windows.configs import FixedConfig
from paraflowkit.windows.fixed import Fixed

#: Largest error of a state, over the largest state, that counts as rounding.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.06}
NOT_EXACT = (
    "the new state after the front is not phi[:, 0] (check_front), states are accepted that no evaluated step has made "
    "(check_accepts_evaluated), or a residual is 0 where the state still moves (check_stride)"
)


def _compare(label: str, solver: AnySolver, problem: Problem, window: int | WindowPolicy[Any], cause: str) -> Solution:
    """Solve and hold the whole trajectory against the sequential one. Raises SkipTest where the solver refuses."""
    found = run(solver, problem, window, trajectory=True)
    wanted = sequential(problem)
    assert found.trajectory is not None  # it was asked for; this is for the type checker
    error = gap(found.trajectory, wanted)
    limit = ROUNDING[problem.x0.dtype]
    if bool((error > limit).any()):
        node = int((error > limit).any(0).nonzero()[0])
        worst = float(error[:, node].max())
        fail(f"{label}: from x[{node}] on the result is not the sequential sampler's, {worst:.1e} off", cause)
    if not found.ok:
        names = ", ".join(sorted({result.name for result in found.results}))
        fail(f"{label}: the solve ended with {names}", "the solver slows down or spoils a solve that it should finish")
    most = most_sweeps(solver, problem.steps)
    if found.stats.sweeps > most:
        fail(
            f"{label}: {found.stats.sweeps} sweeps for {problem.steps} steps, {most} always suffice",
            "each sweep must accept the state after the front: do not let it return unchanged",
        )
    return found


def _every(solver: AnySolver, cases: Iterable[tuple[str, Problem]], cause: str, earlier: Iterable[Check]) -> None:
    """Compare on every problem that the solver takes. Raises SkipTest where it takes none.

    Args:
        cause: what is blamed, unless one of the ``earlier`` checks fails too, which then is what to mend first.
    """
    ran, reason = False, ""
    for label, problem in cases:
        try:
            for window in (3, STEPS):
                _compare(f"{label}, window {window}", exact(solver), problem, window, cause)
                ran = True
        except SkipTest as refused:
            reason = str(refused)
        except Finding as finding:
            fail(finding.found, mend_first(solver, earlier) + finding.cause)
    if not ran:
        skip(f"the solver refuses these samplers: {reason}")


@check("solver")
def check_exact(solver: AnySolver) -> None:
    """At tolerance 0 a deterministic one-step sampler gives the sequential trajectory, in at most N sweeps."""
    try:
        tight = at_tolerance(solver, 0.0)
    except ValueError as error:
        fail(f"tolerance 0 is refused ({error})", "allow it in the settings (ge=0): it makes a solver checkable")
    for batch in (1, 3):
        problem = make("flow", "euler", batch)
        for window in (1, 3, STEPS, STEPS + 5):
            try:
                _compare(f"euler, window {window}, batch {batch}", tight, problem, window, NOT_EXACT)
            except SkipTest as refused:
                fail(
                    f"the solver refuses euler with {STEPS} steps: {refused}",
                    "a solver must take the plainest sampler; give an instance with other settings",
                )


@check("solver")
def check_history(solver: AnySolver) -> None:
    """At tolerance 0 samplers that look back at earlier nodes give the sequential trajectory."""
    cases = [
        ("dpm-solver of order 3", make("vp", "dpm-solver", order=3)),
        ("lms of order 4", make("ve", "lms", order=4)),
    ]
    cause = (
        "history behind the window was reset: keep x[lo-1], m[lo-1] … (sweep.states and sweep.outputs begin "
        "sweep.history nodes before the front, and phi already uses them)"
    )
    _every(solver, cases, cause, (check_exact,))


@check("solver")
def check_noise(solver: AnySolver) -> None:
    """At tolerance 0 stochastic samplers give the trajectory of the sequential sampler with the same noise."""
    cases = [("ddim with eta 1", make("flow", "ddim", eta=1.0)), ("ddpm", make("vp", "ddpm"))]
    cause = (
        "noise drawn beforehand was forgotten or drawn again: every step n adds the same z[n] in each sweep, which phi "
        "already holds; take it from sweep.z"
    )
    _every(solver, cases, cause, (check_exact,))


@check("solver")
def check_inner_stages(solver: AnySolver) -> None:
    """At tolerance 0 samplers with inner stages, whose steps have two nodes, give the sequential trajectory."""
    cases = [("heun", make("ve", "heun", steps=STEPS // 2)), ("unipc", make("vp", "unipc"))]
    cause = (
        "nodes were taken for equal steps in time: predicted nodes are steps of their own, so read times and levels "
        "from problem.nodes and never divide by differences of neighbouring nodes"
    )
    _every(solver, cases, cause, (check_exact, check_history))


@check("solver")
def check_guidance(solver: AnySolver) -> None:
    """At tolerance 0 guided samples, of one scale each, give the sequential trajectory."""
    cases = [("guidance 3, 1 and 7.5", make("vp", "ddim", 3, guidance=[3.0, 1.0, 7.5]))]
    cause = "guidance was applied twice or to the wrong sample: m already is the guided output"
    _every(solver, cases, cause, (check_exact,))


@check("solver")
def check_not_affine(solver: AnySolver) -> None:
    """At tolerance 0 a sampler without a step table gives the sequential trajectory, or ``needs_table`` refuses it."""
    cause = "the solver reads coefficients that such a sampler lacks: set needs_table = True, or use phi alone"
    cases = [("clipped-ddim", make("vp", "clipped-ddim", clip=1.0))]
    _every(solver, cases, cause, (check_exact,))


@check("solver")
def check_window_independent(solver: AnySolver) -> None:
    """At tolerance 0 the result does not depend on the window's size or policy."""
    tight = exact(solver)
    problem = make("vp", "ddim", 2, eta=0.5)
    found: dict[str, Tensor] = {}
    for size in (1, 4, 7, STEPS):
        found[f"a sliding window of {size}"] = run(tight, problem, sliding(size)).x
        found[f"blocks of {size}"] = run(tight, problem, Fixed(FixedConfig(size=size))).x
    first, *others = found
    for other in others:
        if float(gap(found[other][:, None], found[first][:, None]).max()) > ROUNDING[torch.float64]:
            fail(f"{other} and {first} give different samples", f"the window must only change the cost; {NOT_EXACT}")


@check("solver")
def check_stride(solver: AnySolver) -> None:
    """At tolerance 0 every state that a sweep accepts is the sequential sampler's."""
    tight = exact(solver)
    problem = make("flow", "euler", 3)
    wanted = sequential(problem)
    fronts = [[0] * 3]
    seen: list[tuple[Tensor, Tensor]] = []

    def see(state: Any, sweep: Sweep, go: Any) -> Any:
        seen.append((sweep.n[:, 0].clone(), sweep.evaluated.long().cumprod(1).sum(1)))
        return go()

    def note(info: SweepInfo) -> None:
        fronts.append(info.fronts.tolist())

    found = run(Watched(tight, see), problem, 6, callback=note, trajectory=True)
    assert found.trajectory is not None
    wrong = gap(found.trajectory, wanted) > ROUNDING[torch.float64]
    for k, (before, after) in enumerate(itertools.pairwise(fronts)):
        leading = seen[k][1].tolist()
        for i, (lo, hi) in enumerate(zip(before, after, strict=True)):
            bad = [n for n in range(lo + 1, hi + 1) if bool(wrong[i, n])]
            if not bad or bool(wrong[i, lo]) or bad[0] - lo > leading[i]:
                continue  # states that come of wrong ones, and those that no evaluation made, are other checks'
            if bad[0] == lo + 1:
                fail(f"sweep {k + 1} made x[{lo + 1}] wrong from an exact x[{lo}]", NOT_EXACT)
            fail(
                f"sweep {k + 1} accepted x[{lo + 1}] … x[{hi}], and x[{bad[0]}] was not settled",
                "the stride is off by one or the residual is another state's: residual[:, c] belongs to the new state "
                "at node lo + c + 1, and the driver accepts one more than the leading converged states",
            )


def _looser(solver: AnySolver) -> list[AnySolver]:
    """The solver at a tolerance that accepts whatever it may, if it takes one."""
    try:
        return [at_tolerance(solver, 1.0)]
    except ValueError:
        return []


@check("solver")
def check_accepts_evaluated(solver: AnySolver) -> None:
    """Only states that an evaluated step has made are accepted, unless the solver says that it interpolates.

    At tolerance 0 each was itself evaluated as it is.
    """
    beyond = (
        "Update.limit goes beyond the leading nodes that are evaluated: leave it None, or count sweep.evaluated from "
        "the front"
    )
    leading: list[Tensor] = []

    def see(state: Any, sweep: Sweep, go: Any) -> Any:
        leading.append(sweep.evaluated.long().cumprod(1).sum(1))
        return go()

    roomy = make("vp", "ddim", 3, steps=2 * STEPS, guidance=1.0)
    for one in () if solver.interpolates else (loose(solver), *_looser(solver)):
        leading.clear()
        stats = run(Watched(one, see), roomy, 2 * STEPS).stats
        for k, (made, stride) in enumerate(zip(leading, stats.strides, strict=True)):
            if bool((stride > made).any()):
                i = int((stride > made).nonzero()[0])
                fail(
                    f"sweep {k + 1} accepted {int(stride[i])} states, of which {int(made[i])} come of evaluated steps",
                    beyond,
                )
    tight = exact(solver)
    for problem in (make("ve", "euler", 3, guidance=1.0), make("ve", "lms", 3, guidance=1.0, order=2)):
        network = Counting(problem, keep=True)
        found = run(tight, dataclasses.replace(problem, evaluate=network), 6, trajectory=True)
        assert found.trajectory is not None
        near = ROUNDING[torch.float64] * float(found.trajectory.abs().max())
        seen: dict[tuple[int, int], list[Tensor]] = {}
        for sample, node, x in network.seen:
            seen.setdefault((sample, node), []).append(x)
        for i in range(3):
            for n in range(problem.steps):
                x = found.trajectory[i, n]
                if not any(float((x - other).abs().max()) <= near for other in seen.get((i, n), [])):
                    fail(
                        f"x[{n}] was accepted, and the network was never evaluated there",
                        mend_first(solver, (check_stride,)) + beyond,
                    )


@check("solver")
def check_tolerance(solver: AnySolver) -> None:
    """A smaller tolerance gives a smaller error, and no tolerance takes more than N sweeps."""
    problem = make("flow", "euler", 4, steps=2 * STEPS, guidance=2.0)
    wanted = sequential(problem)[:, -1]
    scale = float(wanted.abs().max())
    errors: dict[float, float] = {}
    for tolerance in (0.3, 1e-2, 1e-4):
        try:
            one = at_tolerance(solver, tolerance)
        except ValueError:
            skip("the solver has no positive tolerance")
        found = run(one, problem, 8)
        if not found.ok:
            fail(f"at tolerance {tolerance} the solve ended with {found.results}", "more than 2N sweeps were needed")
        if found.stats.sweeps > most_sweeps(one, problem.steps):
            fail(
                f"at tolerance {tolerance} it took {found.stats.sweeps} sweeps for {problem.steps} steps",
                "each sweep must accept the state after the front",
            )
        errors[tolerance] = float((found.x - wanted).abs().max()) / scale
    large, middle, small = errors.values()
    if small > max(large, middle) * 1.001 + 1e-9 or small > 1e-2:
        told = ", ".join(f"{error:.1e} at {tolerance}" for tolerance, error in errors.items())
        fail(
            f"the error does not fall with the tolerance: {told}",
            "the residual is not a mean squared change of the states: it is compared with tolerance² times the norm's "
            "scale, so leave it None or give squares",
        )


@check("solver")
def check_dtypes(solver: AnySolver) -> None:
    """float64, float32 and bfloat16 states keep their dtype and follow the sequential sampler in the same one."""
    tight = exact(solver)
    for dtype in ROUNDING:
        label = str(dtype).removeprefix("torch.")
        problem = make("flow", "euler", 2, dtype=dtype, guidance=2.0)
        found = run(loose(solver), problem)
        if found.x.dtype != dtype:
            fail(f"{label} states came back as {found.x.dtype}", "create tensors with the dtype of sweep.phi")
        if not found.ok:
            fail(f"{label}: the solve ended with {found.results}", "an operation overflows in this precision")
        _compare(
            label, tight, problem, 5, "an operation is made in another precision, or a dtype is cast to a lower one"
        )
