"""What a run is, in plain data, so that two of them can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paraflowkit.config import RunConfig, to_data
from paraflowkit.requests import Request

#: Sections and settings that a resumed run may change: where and how it is computed and shown, not what.
_FREE = {"fabric", "mesh", "output", "run.max_rows"}
#: Of those, what the parts depend on all the same.
_BOUND = {"output.trajectory", "output.images"}


def make_manifest(config: RunConfig, requests: Sequence[Request]) -> dict[str, Any]:
    """A run in plain data."""
    made = {"config": to_data(config), "requests": [request.model_dump(mode="json") for request in requests]}
    return json.loads(json.dumps(made))


def differences(before: dict[str, Any], now: dict[str, Any], counts: Callable[[str], bool]) -> list[str]:
    """What differs between two manifests, of the settings that count."""
    old, new = _flat(before["config"]), _flat(now["config"])
    changed = [
        f"{name} was {json.dumps(old.get(name))}, is {json.dumps(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) and not name.startswith("requests") and counts(name)
    ]
    if before["requests"] != now["requests"]:
        pairs = enumerate(zip(before["requests"], now["requests"], strict=False))
        first = next((i for i, (a, b) in pairs if a != b), None)
        counted = f"{len(before['requests'])} samples were asked for, now {len(now['requests'])}"
        changed.append(counted if first is None else f"sample {first} is another one")
    return changed


def is_free(name: str) -> bool:
    """Whether a resumed run may change this setting."""
    return name not in _BOUND and (name in _FREE or name.split(".")[0] in _FREE)


def _flat(data: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    made: dict[str, Any] = {}
    for key, value in data.items():
        made |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return made
