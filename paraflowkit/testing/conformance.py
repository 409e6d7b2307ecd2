"""Test module that holds installed components to their contract, without a test file of one's own::

python -m pytest --pyargs paraflowkit.testing.conformance --component solver:paraflow --component stepper:heun
"""

from __future__ import annotations

from typing import Any

import pytest

from paraflowkit.testing._base import Check
from paraflowkit.testing._parametrize import CASES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for each component that was named and each of its checks."""
    mark = metafunc.config.stash.get(CASES, None)
    if mark is None:
        raise pytest.UsageError("Name what to check, as in --component solver:paraflow (or stepper, model, window).")
    metafunc.parametrize(*mark.args, **mark.kwargs)


def test_conformance(component: Any, check: Check) -> None:
    """One check of one component."""
    check(component)
