"""What the local files that settings name hold, so that rows of other weights are other rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def contents(settings: Any) -> dict[str, Any]:
    """Sizes and times of change of the files that plain settings name, and of those in the folders.

    Args:
        settings: nested dictionaries and lists. A text is a path where it has a separator or belongs to the setting
            ``folder``, and exists.

    Returns:
        ``{"files": {path: [[name, bytes, nanoseconds], …]}}``, or nothing where no file is named.
    """
    found = {text: _listed(Path(text)) for text in sorted(set(_paths(settings, ""))) if Path(text).exists()}
    return {"files": found} if found else {}


def _paths(settings: Any, name: str) -> Iterator[str]:
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _paths(value, str(key))
    elif isinstance(settings, list):
        for value in settings:
            yield from _paths(value, name)
    elif isinstance(settings, str) and (name == "folder" or os.sep in settings):
        yield settings


def _listed(path: Path) -> list[list[Any]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [[p.relative_to(path).as_posix(), (s := p.stat()).st_size, s.st_mtime_ns] for p in files]
