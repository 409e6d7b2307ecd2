"""Objects that a setting names as ``package.module:name``."""

from __future__ import annotations

import importlib
from typing import Any

from paraflowkit.errors import ParaflowkitError


def load_object(setting: str, value: str) -> Any:
    """What ``value`` names.

    Args:
        setting: dotted name of the setting, for messages. value: ``package.module:name``.

    Raises:
        ParaflowkitError: it cannot be imported.
    """
    module, _, path = value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever a module raises while it is imported is the module's fault
        raise ParaflowkitError(
            f"{setting}: {value!r} cannot be imported ({type(error).__name__}: {error}): install its package, or run "
            "`python -m paraflowkit` in its folder."
        ) from error
    return found
