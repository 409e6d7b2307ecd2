"""Discovery of models, steppers, solvers and windows; the only file that touches importlib.metadata."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel

from paraflowkit.core import API_VERSION
from paraflowkit.errors import PluginError, did_you_mean

#: The kinds of component, and the interface of each.
KINDS = {
    "model": "paraflowkit.core.model:VelocityModel",
    "stepper": "paraflowkit.core.stepper:BaseStepper",
    "solver": "paraflowkit.core.solver:ParallelSolver",
    "window": "paraflowkit.core.window:WindowPolicy",
}
_CONFIGS = "paraflowkit.configs"


@dataclass(frozen=True)
class Entry:
    """One registered component: nothing of it has been imported."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    @property
    def group(self) -> str:
        """The entry-point group."""
        return f"paraflowkit.{self.kind}s"

    @property
    def origin(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Status:
    """An entry and ``ok``, or what is wrong with it in one sentence."""

    entry: Entry
    status: str


@cache
def _scan(group: str, search_path: tuple[str, ...]) -> tuple[Entry, ...]:
    """The entries of a group. A scan reads the metadata of every installed distribution, so it is made once for a
    search path."""
    found: dict[tuple[str, str, str], Entry] = {}
    for point in entry_points(group=group):
        name = (point.dist.name if point.dist else "") or "?"  # a left-over folder may lack its METADATA
        version = (point.dist.version if point.dist else "") or ""
        kind = group.removeprefix("paraflowkit.").removesuffix("s")
        # An editable install can list the same entry point twice.
        value = point.value.partition("[")[0].strip()  # "module:Class [extra]"
        found.setdefault((point.name, name, value), Entry(kind, point.name, value, name, version))
    return tuple(sorted(found.values(), key=lambda entry: (entry.name, entry.distribution)))


def _read(group: str) -> tuple[Entry, ...]:
    return _scan(group, tuple(sys.path))


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise PluginError(f"Unknown kind {kind!r}: use {', '.join(KINDS)}.")


def entries(kind: str) -> list[Entry]:
    """The registered components of a kind, sorted by name. Raises PluginError for an unknown kind."""
    _known(kind)
    return list(_read(f"paraflowkit.{kind}s"))


def names(kind: str) -> list[str]:
    """Their names, each once."""
    return sorted({entry.name for entry in entries(kind)})


def find(kind: str, name: str) -> Entry:
    """The entry of a name; ``package.module:Class`` always works.

    Raises:
        PluginError: nothing has that name, or several distributions do.
    """
    if ":" in name:
        _known(kind)
        if not all(name.split(":", 1)):
            raise PluginError(f"{kind} {name!r}: write it as package.module:Class.")
        return Entry(kind, name, name, name.split(".")[0].split(":")[0], "")
    same = [entry for entry in entries(kind) if entry.name == name]
    if not same:
        known = names(kind)
        raise PluginError(
            f"unknown {kind} {name!r}.{did_you_mean(name, known)} Installed: {', '.join(known) or 'none'}."
        )
    if len(same) > 1:
        both = " and ".join(entry.origin for entry in same)
        raise PluginError(
            f"{kind} {name!r} is offered by {both}: uninstall one, or name the class as package.module:Class."
        )
    return same[0]


def _load(value: str, what: str, installed: bool = True) -> Any:
    module, _, path = value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever a plugin raises while it is imported is the plugin's fault
        cause = f"{type(error).__name__}: {error}"
        remedy = "Reinstall or remove it." if installed else "Run `python -m paraflowkit` in its folder, or install it."
        raise PluginError(f"{what} cannot be imported ({cause}). {remedy}") from error
    return found


def _get(entry: Entry) -> type:
    what = f"{entry.kind} {entry.name!r} of {entry.origin}"
    found = _load(entry.value, what, installed=bool(entry.version))
    interface = _load(KINDS[entry.kind], "paraflowkit")
    if not (isinstance(found, type) and issubclass(found, interface)):
        raise PluginError(f"{what} is not a {interface.__name__}: {entry.value} must name a subclass of it.")
    version = getattr(found, "api_version", None)
    if version != API_VERSION:
        raise PluginError(
            f"{what} is written for interface version {version}, this paraflowkit has version {API_VERSION}: "
            f"upgrade {entry.distribution} or paraflowkit."
        )
    return found


def get(kind: str, name: str) -> type:
    """The class of a component; only its own plugin is imported.

    Raises:
        PluginError: unknown or ambiguous name, failing import, not of the interface, or of another interface version.
    """
    return _get(find(kind, name))


def _config_class(entry: Entry) -> type[BaseModel]:
    for point in _read(_CONFIGS):
        if point.name == f"{entry.kind}.{entry.name}" and point.distribution == entry.distribution:
            found = _load(point.value, f"settings of {entry.kind} {entry.name!r} of {entry.origin}")
            break
    else:
        found = getattr(_get(entry), "config_cls", None)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise PluginError(f"{entry.kind} {entry.name!r} of {entry.origin} has no pydantic config_cls.")
    return found


def config_class(kind: str, name: str) -> type[BaseModel]:
    """The pydantic class of a component's settings.

    A distribution that registers it as ``kind.name`` in the group ``paraflowkit.configs`` is spared the import of the
    component, and so of torch, while a run file is checked.

    Raises:
        PluginError: as :func:`get`, or the class is no pydantic model.
    """
    return _config_class(find(kind, name))


def check() -> list[Status]:
    """Import every registered component and say what is wrong with each; one that fails disturbs no other."""
    result: list[Status] = []
    for kind in KINDS:
        for entry in entries(kind):
            try:
                find(kind, entry.name)
                _get(entry)
                _config_class(entry)
                result.append(Status(entry, "ok"))
            except PluginError as error:
                result.append(Status(entry, str(error)))
    return result
