"""The option of pytest that names components for :mod:`paraflowkit.testing.conformance`.

Every pytest run of the environment loads this module, so it imports neither torch nor the kit unless the option is
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--component``."""
    parser.getgroup("paraflowkit").addoption(
        "--component",
        action="append",
        default=[],
        metavar="KIND:NAME",
        help="hold an installed component of paraflowkit to its contract, as in "
        "`python -m pytest --pyargs paraflowkit.testing.conformance --component solver:paraflow`; settings follow the "
        "name as in stepper:dpm-solver,order=3, and the option may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the components that are named, so that one that cannot be made is told at once and in one sentence."""
    named: list[str] = config.getoption("--component") or []
    if not named:
        return
    import pytest

    from paraflowkit.errors import ParaflowkitError
    from paraflowkit.testing._parametrize import CASES, parametrize_with_checks

    try:
        config.stash[CASES] = parametrize_with_checks(named)
    except (ParaflowkitError, ValueError) as error:
        raise pytest.UsageError(f"--component: {error}") from None
