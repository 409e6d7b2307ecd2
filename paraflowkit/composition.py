"""What the driver asks of the pieces it is given, in one sentence each where they do not fit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from paraflowkit.core.config import ComponentConfig
from paraflowkit.core.problem import Problem
from paraflowkit.core.solver import ParallelSolver, Update
from paraflowkit.core.stepper import StepRule
from paraflowkit.core.window import Window, WindowPolicy
from paraflowkit.table import StepTable


def check_pair(rule: StepRule, solver: ParallelSolver[Any, Any]) -> None:
    """Raise ValueError, with a remedy, where a solver needs a step table and the sampler has none."""
    if solver.needs_table and not isinstance(rule, StepTable):
        raise ValueError(
            f"{type(solver).__name__} needs the coefficients of an affine sampler, which {type(rule).__name__} is not: "
            "use a solver that does not, such as paradigms or paraflow, or an affine stepper."
        )


def refuse_levels(solver: ParallelSolver[Any, Any]) -> None:
    """Raise ValueError for settings that need the noise levels of the nodes, where those are made up."""
    settings = solver.config
    if settings.norm != "absolute" and settings.tolerance > 0:
        raise ValueError(
            f"The noise levels of this scheduler are not known, so the norm {settings.norm!r} means nothing: use "
            "norm 'absolute'."
        )
    for name in ("guess", "entering"):
        if getattr(settings, name) != "constant":
            raise ValueError(
                f"The noise levels of this scheduler are not known, so {name} {getattr(settings, name)!r} means "
                f"nothing: use {name} 'constant'."
            )


def check_warm(warm: Tensor | None, problem: Problem) -> Tensor | None:
    """The earlier trajectory, one a sample. Raises ValueError where it does not fit the problem."""
    if warm is None:
        return None
    count, *rest = warm.shape if warm.ndim else (0,)
    if rest != [problem.steps + 1, *problem.x0.shape[1:]] or count not in (1, len(problem.x0)):
        raise ValueError(
            f"The earlier trajectory has the shape {tuple(warm.shape)}, and {len(problem.x0)} samples on "
            f"{problem.steps + 1} nodes need {(len(problem.x0), problem.steps + 1, *problem.x0.shape[1:])} (or one for "
            "all): use one that was saved with the same model, stepper and number of steps."
        )
    if not bool(warm.isfinite().all()):
        raise ValueError("The earlier trajectory holds values that are not finite: use that of a run that converged.")
    return warm.to(problem.x0).expand(len(problem.x0), *rest)


def advanced(policy: WindowPolicy[Any], old: Window | None, stride: int, steps: int) -> Window:
    """The policy's next window, or its first. Raises ValueError where it breaks the policy's contract."""
    new = policy.initial(steps) if old is None else policy.advance(old, stride, steps)
    lo, hi = (0, 0) if old is None else (old.lo + stride, old.hi)
    if new.lo != lo or not max(hi, min(lo + 1, steps)) <= new.hi <= steps:
        before = "first" if old is None else f"after {old} and a stride of {stride}"
        raise ValueError(
            f"The window policy {type(policy).__name__} gave {new} {before}, of {steps} steps: a window starts at the "
            f"front, {lo} here, and ends at {max(hi, min(lo + 1, steps))} … {steps}."
        )
    return new


def checked(found: Tensor | Update, solver: ParallelSolver[Any, Any], after: Tensor) -> Update:
    """What a solver's sweep returned. Raises ValueError where its states have another shape."""
    update = found if isinstance(found, Update) else Update(found)
    if update.states.shape != after.shape:
        raise ValueError(
            f"{type(solver).__name__}.sweep returned states of shape {tuple(update.states.shape)}, and the window has "
            f"{tuple(after.shape)}: return a state for each step of it, padding included."
        )
    return update


class Whole(WindowPolicy[ComponentConfig]):
    """All steps at once, for solvers that lay out the trajectory themselves."""

    def __init__(self) -> None:
        super().__init__(ComponentConfig())

    def limit(self, steps: int) -> int:
        return steps

    def initial(self, steps: int) -> Window:
        return Window(0, steps)

    def advance(self, window: Window, stride: int, steps: int) -> Window:
        return Window(window.lo + stride, steps)
