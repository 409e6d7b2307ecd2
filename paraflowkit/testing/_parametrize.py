"""Checks as pytest cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from paraflowkit.errors import did_you_mean
from paraflowkit.testing._base import checks_of, kind_of, name_of, resolve

#: Where the plugin keeps the cases of the components named on the command line.
CASES = pytest.StashKey[pytest.MarkDecorator]()
Expected = Mapping[str, str] | Callable[[Any], Mapping[str, str]]


def parametrize_with_checks(
    components: Iterable[Any], expected_failures: Expected | None = None
) -> pytest.MarkDecorator:
    """One pytest case for each component and each check of its kind::

        @parametrize_with_checks([MySolver(MyConfig()), "stepper:my-stepper"])
        def test_contract(component, check):
            check(component)

    Args:
        components: instances, classes, or ``KIND:NAME`` of installed ones, which may be of several kinds.
        expected_failures: reasons by the name of the check, or a function of the component that gives them. Such a case
            is a strict xfail: it must fail with :class:`~paraflowkit.testing.CheckFailed`.

    Raises:
        ValueError: a component cannot be made, or an expected failure names no check of its component (of any of the
            components, where they share one mapping).
    """
    cases: list[Any] = []
    known: set[str] = set()
    named: set[str] = set()
    taken: dict[str, int] = {}
    for component in components:
        kind = kind_of(component)
        instance = resolve(kind, component)
        reasons = expected_failures(instance) if callable(expected_failures) else expected_failures or {}
        own = {check.__name__: check for check in checks_of(kind)}
        if callable(expected_failures):
            _refuse_unknown(set(reasons), set(own))
        known, named = known | set(own), named | set(reasons)
        title = name_of(component).replace(":", "-", 1)
        taken[title] = taken.get(title, 0) + 1
        title += f"-{taken[title]}" if taken[title] > 1 else ""
        for name, check in own.items():
            reason = reasons.get(name)
            marks = [pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)] if reason is not None else []
            cases.append(pytest.param(instance, check, id=f"{title}-{name}", marks=marks))
    _refuse_unknown(named, known)
    return pytest.mark.parametrize(("component", "check"), cases)


def _refuse_unknown(named: set[str], known: set[str]) -> None:
    for name in sorted(named - known):
        raise ValueError(f"expected_failures names {name!r}, which is no check.{did_you_mean(name, known)}")
