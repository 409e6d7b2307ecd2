"""The conformance kit: named checks that hold a stepper, solver, model or window policy to its contract.

The runtime never imports it. Names are loaded when they are first used, so that the pytest plugin, which every pytest
run of the environment loads, needs no torch. Hypothesis strategies are in :mod:`paraflowkit.testing.strategies`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paraflowkit.testing._base import CheckFailed as CheckFailed
    from paraflowkit.testing._base import check_component as check_component
    from paraflowkit.testing._base import check_model as check_model
    from paraflowkit.testing._base import check_solver as check_solver
    from paraflowkit.testing._base import check_stepper as check_stepper
    from paraflowkit.testing._base import check_window as check_window
    from paraflowkit.testing._base import checks_of as checks_of
    from paraflowkit.testing._parametrize import parametrize_with_checks as parametrize_with_checks

_HOMES = {
    **dict.fromkeys(
        ("CheckFailed", "check_component", "check_model", "check_solver", "check_stepper", "check_window", "checks_of"),
        "paraflowkit.testing._base",
    ),
    "parametrize_with_checks": "paraflowkit.testing._parametrize",
}

__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  # loaded by __getattr__


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'paraflowkit.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
