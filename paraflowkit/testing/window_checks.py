"""Checks of a window policy: windows that start at the front, never fall back, and end at the last node."""

from __future__ import annotations

import random
from typing import Any

from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.solve import solve
from paraflowkit.solvers.configs import ParaFlowConfig
from paraflowkit.solvers.paraflow import ParaFlow
from paraflowkit.testing._base import check, fail
from paraflowkit.testing._problems import STEPS, make, sequential
from paraflowkit.testing._watch import frozen_copy, gap, same

AnyWindow = WindowPolicy[Any]
LENGTHS = (1, 2, 7, 12, 50)


def _fitted(policy: AnyWindow, steps: int, max_rows: int | None = None) -> AnyWindow:
    """The policy as the driver would use it, for a problem of so many steps."""
    return policy.fit(make("flow", "euler", 2, steps=steps), max_rows)


def _walk(policy: AnyWindow, steps: int, choose: random.Random) -> None:
    """Slide over all steps by strides drawn at random, and look at every window."""
    limit = policy.limit(steps)
    if not (isinstance(limit, int) and 1 <= limit <= steps):  # pyright: ignore[reportUnnecessaryIsInstance]
        fail(f"limit({steps}) is {limit!r}", "it is the longest window it will ever ask for, 1 … steps")
    window = policy.initial(steps)
    if window.lo != 0:
        fail(f"the first window of {steps} steps starts at node {window.lo}", "initial starts at node 0")
    while True:
        if window.hi > steps:
            fail(f"{window} passes the last of {steps} nodes", "cut the end: min(…, steps)")
        if window.lo < steps and window.hi <= window.lo:
            fail(
                f"{window} of {steps} steps is empty", "a window holds at least one step until the last node is reached"
            )
        if window.hi - window.lo > limit:
            fail(
                f"{window} is longer than limit({steps}) = {limit}",
                "buffers are made for the limit: count there what initial and advance may ask for",
            )
        if window.lo >= steps:
            return
        length = window.hi - window.lo
        stride = choose.choice([1, length, choose.randint(1, length)])
        after = policy.advance(window, stride, steps)
        if policy.advance(window, stride, steps) != after:
            fail(
                f"advance({window}, {stride}, {steps}) gave another window the second time",
                "keep nothing on the object",
            )
        if after.lo != window.lo + stride:
            fail(
                f"after {stride} states of {window} were accepted the window starts at {after.lo}",
                "it starts at window.lo + stride: more would skip states, fewer would solve exact ones again",
            )
        if after.hi < window.hi:
            fail(
                f"the end fell back from {window.hi} to {after.hi}",
                "states already worked on would be lost: max(…, hi)",
            )
        window = after


@check("window")
def check_slides(window: AnyWindow) -> None:
    """Any strides lead from node 0 to node N through windows that hold the front, never fall back and fit the limit."""
    choose = random.Random(0)
    for steps in LENGTHS:
        policy = _fitted(window, steps)
        for _ in range(8):
            _walk(policy, steps, choose)


@check("window")
def check_from_anywhere(window: AnyWindow) -> None:
    """A window that the driver has cut short, as it does for steps taken one by one, advances like any other."""
    for steps in LENGTHS:
        policy = _fitted(window, steps)
        for lo in range(steps):
            after = policy.advance(Window(lo, lo + 1), 1, steps)
            if after.lo != lo + 1 or not lo + 1 <= after.hi <= steps or (after.hi == after.lo) != (after.lo == steps):
                fail(
                    f"from Window({lo}, {lo + 1}) of {steps} steps it goes to {after}",
                    "derive the next window from the one that is given, not from those given before",
                )


@check("window")
def check_fit(window: AnyWindow) -> None:
    """Fitting gives a policy and leaves the old one as it was; nothing changes while windows are asked for."""
    before = frozen_copy(vars(window))
    for max_rows in (None, 6):
        fitted = _fitted(window, STEPS, max_rows)
        if not isinstance(fitted, WindowPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            fail(f"fit gave {type(fitted).__name__}", "return self, or a policy of its own for this problem")
        attributes = frozen_copy(vars(fitted))
        first = [fitted.limit(STEPS), fitted.initial(STEPS)]
        _walk(fitted, STEPS, random.Random(1))
        if not same(attributes, frozen_copy(vars(fitted))) or [fitted.limit(STEPS), fitted.initial(STEPS)] != first:
            fail("an attribute of the policy changed while it was used", "one policy serves every sample: keep nothing")
    if not same(before, frozen_copy(vars(window))):
        fail("fit changed the policy it was called on", "return a new one: the old one may serve other problems")


@check("window")
def check_solve(window: AnyWindow) -> None:
    """A parallel solve at tolerance 0 through these windows is the sequential one, in at most N sweeps."""
    problem = make("vp", "dpm-solver", 3)
    found = solve(problem, ParaFlow(ParaFlowConfig(tolerance=0.0)), window, trajectory=True)
    assert found.trajectory is not None  # it was asked for; this is for the type checker
    error = float(gap(found.trajectory, sequential(problem)).max())
    if error > 1e-9 or not found.ok or found.stats.sweeps > problem.steps:
        told = ", ".join(sorted({result.name for result in found.results}))
        fail(
            f"the solve ended with {told} after {found.stats.sweeps} sweeps of {problem.steps} steps, {error:.1e} off",
            "windows leave out states or start behind the front",
        )
