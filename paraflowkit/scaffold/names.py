"""The names of a new plugin: of the component, its distribution, its import package and its class."""

from __future__ import annotations

import builtins
import keyword
import re
from dataclasses import dataclass

from paraflowkit.errors import ParaflowkitError

#: With a longer one, lines of the package would not fit into 120 characters.
LONGEST = 32
_PREFIX = "paraflowkit-"


class ScaffoldError(ParaflowkitError):
    """A package that cannot be written; the message says why and what to do."""


@dataclass(frozen=True)
class Names:
    """What a plugin is called.

    Attributes:
        component: as run files name it, ``my-solver``. distribution: as pip names it, ``paraflowkit-my-solver``.
        package: as Python imports it, ``paraflowkit_my_solver``. class_name: ``MySolver``.
    """

    component: str

    @property
    def distribution(self) -> str:
        return _PREFIX + self.component

    @property
    def package(self) -> str:
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        return "".join(word.capitalize() for word in self.component.split("-"))


def make_names(given: str, kind: str, used: frozenset[str]) -> Names:
    """The names for what the user has typed.

    Args:
        given: letters, digits, dashes and underscores, in any case, with or without ``paraflowkit-`` before them.
        kind: of component. used: names that the package's modules import, with which its classes may not clash.

    Raises:
        ScaffoldError: it makes no name, or one that is taken by Python, by the package or by something installed.
    """
    component = re.sub("[-_]+", "-", given.lower())
    while component.startswith(_PREFIX):
        component = component.removeprefix(_PREFIX)
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", component) or component == _PREFIX.rstrip("-"):
        raise ScaffoldError(
            f"{given!r} is no name for a {kind}: use letters, digits and dashes, beginning with a letter, as in "
            f"{_suggest(component, kind)!r}."
        )
    if len(component) > LONGEST:
        raise ScaffoldError(
            f"{given!r} is too long for a name: use at most {LONGEST} characters, this has {len(component)}."
        )
    names = Names(component)
    word = component.replace("-", "_")
    own = {word, names.class_name}
    if any(keyword.iskeyword(w) or hasattr(builtins, w) for w in own):
        raise ScaffoldError(f"{component!r} is a word of Python's own: choose another name, as in 'my-{component}'.")
    for made in (names.class_name, f"{names.class_name}Config"):
        if made in used:
            raise ScaffoldError(
                f"{component!r} would make a class {made}, and paraflowkit's {made} is needed beside it: choose "
                f"another name, as in 'my-{component}'."
            )
    _refuse_installed(names, kind)
    return names


def _suggest(component: str, kind: str) -> str:
    """The nearest name that would do."""
    clean = re.sub("[^a-z0-9]+", "-", component).strip("-").lstrip("-0123456789")
    return clean if clean and clean != _PREFIX.rstrip("-") else f"my-{kind}"


def _refuse_installed(names: Names, kind: str) -> None:
    from paraflowkit import registry

    for entry in (entry for each in registry.KINDS for entry in registry.entries(each)):
        if (entry.kind, entry.name) == (kind, names.component):
            raise ScaffoldError(
                f"A {kind} {entry.name!r} is already installed, by {entry.origin}: choose another name, or "
                "uninstall it."
            )
        if re.sub("[-_.]+", "-", entry.distribution.lower()) == names.distribution:
            raise ScaffoldError(
                f"A distribution {names.distribution!r} is already installed, with the {entry.kind} {entry.name!r}: "
                "choose another name, or uninstall it."
            )
