"""What the checks share: how one fails, which there are, and how a component is made of what the caller gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NoReturn, TypeVar
from unittest import SkipTest

import yaml
from pydantic import BaseModel, ValidationError

from paraflowkit import registry
from paraflowkit.core.model import VelocityModel
from paraflowkit.core.solver import ParallelSolver
from paraflowkit.core.stepper import BaseStepper
from paraflowkit.core.window import WindowPolicy
from paraflowkit.errors import explain

ComponentT = TypeVar("ComponentT")
Check = Callable[[Any], None]

_INTERFACES: dict[str, type] = {
    "model": VelocityModel,
    "stepper": BaseStepper,
    "solver": ParallelSolver,
    "window": WindowPolicy,
}
_MODULES = {
    "model": ("model_checks",),
    "stepper": ("stepper_checks", "stepper_orders"),
    "solver": ("solver_manners", "solver_checks"),
    "window": ("window_checks",),
}
_found: dict[str, list[Check]] = {}


class CheckFailed(AssertionError):
    """A component breaks its contract: which check says so, what was found, the likely cause and what to do.

    Attributes:
        checks: names of the checks that failed.
    """

    def __init__(self, message: str, checks: tuple[str, ...]) -> None:
        self.checks = checks
        super().__init__(message)


class Finding(Exception):
    """What a check found and the likely cause; the check's name is put before them."""

    def __init__(self, found: str, cause: str) -> None:
        self.found, self.cause = found, cause
        super().__init__(f"{found}; {cause}")


def fail(found: str, cause: str) -> NoReturn:
    """Fail the check that is running."""
    raise Finding(found, cause)


def skip(reason: str) -> NoReturn:
    """Say that the check does not apply: pytest shows it as skipped, :func:`check_component` passes over it."""
    raise SkipTest(reason)


def mend_first(component: Any, earlier: Iterable[Check]) -> str:
    """Words that send the reader to the first of the ``earlier`` checks that fails too, or nothing."""
    for one in earlier:
        try:
            one(component)
        except SkipTest:
            continue
        except CheckFailed:
            return f"{one.__name__} fails too: mend that first. If this remains: "
    return ""


def check(*kinds: str) -> Callable[[Callable[[Any], None]], Check]:
    """Register a function as a check of components of these kinds, under its own name."""

    def register(function: Callable[[Any], None]) -> Check:
        name = function.__name__

        @functools.wraps(function)
        def run(component: Any) -> None:
            try:
                function(component)
            except Finding as finding:
                raise CheckFailed(f"{name}: {finding}", (name,)) from None
            except (CheckFailed, SkipTest):
                raise
            except Exception as error:
                what = f"{type(component).__name__} raised {type(error).__name__}: {error}"
                raise CheckFailed(f"{name}: {what}; the traceback above shows where.", (name,)) from error

        for kind in kinds:
            _found.setdefault(kind, []).append(run)
        return run

    return register


def checks_of(kind: str) -> tuple[Check, ...]:
    """The checks of a kind of component, ``model``, ``stepper``, ``solver`` or ``window``, in the order they are made.

    Each is a function of the component, with a name and a docstring that says what it checks.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in _MODULES:
        raise ValueError(f"Unknown kind {kind!r}: use {', '.join(_MODULES)}.")
    order = [f"paraflowkit.testing.{module}" for module in ("settings_checks", *_MODULES[kind])]
    for module in order:
        import_module(module)
    return tuple(sorted(_found[kind], key=lambda one: order.index(one.__module__)))


def name_of(component: Any) -> str:
    """A short name of a component for messages and test ids: as it was given, or its class."""
    if isinstance(component, str):
        return component
    return component.__name__ if isinstance(component, type) else type(component).__name__


def kind_of(component: Any) -> str:
    """The kind of an instance, of a class or of ``KIND:NAME``.

    Raises:
        ValueError: it is none of them; the message says what is wanted.
    """
    if isinstance(component, str):
        kind = component.partition(":")[0]
        if kind in _INTERFACES and ":" in component:
            return kind
        raise ValueError(f"{component!r} does not say what it is: write {'|'.join(_INTERFACES)}:NAME.")
    of = component if isinstance(component, type) else type(component)
    for kind, interface in _INTERFACES.items():
        if issubclass(of, interface):
            return kind
    names = ", ".join(interface.__name__ for interface in _INTERFACES.values())
    raise ValueError(f"{name_of(component)} is no component: derive it from one of {names}.")


def resolve(kind: str, component: Any) -> Any:
    """The instance to be checked.

    Args:
        kind: of the component. component: an instance, a class, which is made with its default settings, or the name
            of an installed one, as ``paraflow`` or with settings as ``dpm-solver,order=3``.

    Raises:
        PluginError: nothing is installed under that name. ValueError: the settings are refused, or it is of another
            kind.
    """
    settings: dict[str, Any] = {}
    if isinstance(component, str):
        name, *pairs = component.removeprefix(f"{kind}:").split(",")
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise ValueError(f"{component!r}: settings follow the name as key=value, got {pair!r}.")
            settings[key.strip()] = yaml.safe_load(value)
        cls, config_cls = registry.get(kind, name), registry.config_class(kind, name)
    elif isinstance(component, type):
        cls, config_cls = component, getattr(component, "config_cls", None)
    elif isinstance(component, _INTERFACES[kind]):
        return component
    else:
        raise ValueError(f"{name_of(component)} is no {kind}: derive it from {_INTERFACES[kind].__name__}.")
    if not issubclass(cls, _INTERFACES[kind]):
        raise ValueError(f"{cls.__name__} is no {kind}: derive it from {_INTERFACES[kind].__name__}.")
    if not (isinstance(config_cls, type) and issubclass(config_cls, BaseModel)):
        raise ValueError(f"{cls.__name__} has no pydantic config_cls: give it one, or give an instance.")
    try:
        config = config_cls.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        told = f"{place} {explain(dict(first))}" if place else explain(dict(first))
        title = name_of(component).removeprefix(f"{kind}:")
        raise ValueError(
            f"{kind} {title!r} cannot be made with these settings: {told} Give an instance, or settings as in "
            "'NAME,key=value'."
        ) from error
    return cls(config)


def _run(kind: str, component: Any) -> None:
    instance = resolve(kind, component)
    checks = checks_of(kind)
    failed: list[CheckFailed] = []
    for one in checks:
        try:
            one(instance)
        except SkipTest:
            continue
        except CheckFailed as failure:
            failed.append(failure)
    if failed:
        lines = "\n".join(f"  {failure}" for failure in failed)
        names = tuple(name for failure in failed for name in failure.checks)
        head = f"{name_of(component)} fails {len(failed)} of the {len(checks)} checks of a {kind}:"
        raise CheckFailed(f"{head}\n{lines}", names) from failed[0]


def check_solver(solver: Any) -> None:
    """Run every check of a solver.

    Args:
        solver: an instance, a class or the name of an installed one; its settings but the tolerance are kept.

    Raises:
        CheckFailed: all that failed, a line each.
    """
    _run("solver", solver)


def check_stepper(stepper: Any) -> None:
    """Run every check of a stepper; arguments and errors as in :func:`check_solver`."""
    _run("stepper", stepper)


def check_model(model: Any) -> None:
    """Run every check of a model; arguments and errors as in :func:`check_solver`."""
    _run("model", model)


def check_window(window: Any) -> None:
    """Run every check of a window policy; arguments and errors as in :func:`check_solver`."""
    _run("window", window)


def check_component(component: Any) -> None:
    """Run every check of a component of any kind, named as ``KIND:NAME``; errors as in :func:`check_solver`."""
    _run(kind_of(component), component)
