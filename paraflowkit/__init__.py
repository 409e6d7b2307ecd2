"""paraflowkit: parallel-in-time sampling of diffusion and flow-matching models.

Names are loaded when they are first used, so that ``import paraflowkit`` needs no torch. The sampling loop itself is
:func:`paraflowkit.solve.solve` (it is not repeated here, where its module already has that name).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paraflowkit.core.model import VelocityModel as VelocityModel
    from paraflowkit.core.problem import Problem as Problem
    from paraflowkit.core.problem import make_problem as make_problem
    from paraflowkit.core.solver import ParallelSolver as ParallelSolver
    from paraflowkit.core.stepper import BaseStepper as BaseStepper
    from paraflowkit.core.window import WindowPolicy as WindowPolicy
    from paraflowkit.pipelines import check as check
    from paraflowkit.pipelines import disable as disable
    from paraflowkit.pipelines import enable as enable
    from paraflowkit.pipelines import enabled as enabled
    from paraflowkit.schedulers import table_from_scheduler as table_from_scheduler
    from paraflowkit.solution import Result as Result
    from paraflowkit.solution import Solution as Solution
    from paraflowkit.spacing import make_grid as make_grid
    from paraflowkit.table import StepTable as StepTable

_HOMES = {
    "VelocityModel": "paraflowkit.core.model",
    "BaseStepper": "paraflowkit.core.stepper",
    "ParallelSolver": "paraflowkit.core.solver",
    "WindowPolicy": "paraflowkit.core.window",
    "Problem": "paraflowkit.core.problem",
    "make_problem": "paraflowkit.core.problem",
    "make_grid": "paraflowkit.spacing",
    "StepTable": "paraflowkit.table",
    "table_from_scheduler": "paraflowkit.schedulers",
    "Result": "paraflowkit.solution",
    "Solution": "paraflowkit.solution",
    "enable": "paraflowkit.pipelines",
    "disable": "paraflowkit.pipelines",
    "enabled": "paraflowkit.pipelines",
    "check": "paraflowkit.pipelines",
}

__version__ = "0.1.0"
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  # loaded by __getattr__


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'paraflowkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
