"""What differs between the settings of two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: Sections that say which equation is solved, and what is asked for and written.
_SAMPLER, _ASIDE = ("model", "stepper", "grid", "prediction"), ("output", "requests", "run.compare")
#: What only changes how sums are rounded, and what of that is more than rounding.
_ROUNDING, _MORE = ("fabric", "mesh", "run.batch", "run.max_rows"), ("fabric.precision",)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the settings that differ, with both values; None of what a component does not have.

    A setting that one of two runs of the same component does not know, as those of an older version, is left out.
    """
    ours, theirs = dict(_flat(a)), dict(_flat(b))
    swapped = {_section(name) for name in ours if name.endswith(".name") and ours[name] != theirs.get(name)}
    names = [name for name in [*ours, *theirs] if _section(name) in swapped or (name in ours and name in theirs)]
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def show(value: Any) -> str:
    """A setting as a run file has it; None as a dash."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def explain(differences: Mapping[str, tuple[Any, Any]], identical: bool) -> str:
    """What differs, of that which could matter to samples, and what follows from it, in words.

    Args:
        identical: the samples are the same.
    """
    found = {name: both for name, both in differences.items() if not _is_of(name, _ASIDE)}
    if not found:
        reason = "" if identical else ": what differs is rounding, or the model's weights, which are not compared"
        return f"The runs had the same settings{reason}."
    # A component with another name has other settings: the name says enough.
    swapped = {_section(name) for name in found if name.endswith(".name")}
    told = [name for name in found if name.endswith(".name") or _section(name) not in swapped]
    words = ", ".join(f"{name} ({show(found[name][0])} → {show(found[name][1])})" for name in told[:4])
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    said = f"Settings that differ: {words}{more}."
    if identical:
        return said
    if any(_is_of(name, _SAMPLER) for name in found):
        return f"{said} Another sampler makes other samples."
    if all(_is_of(name, _ROUNDING) and name not in _MORE for name in found):
        return f"{said} These only change how sums are rounded."
    if not any(name in (*_MORE, "run.dtype") for name in found):
        return f"{said} The sampler is the same: the difference is of how it was solved."
    return said


def _is_of(name: str, places: tuple[str, ...]) -> bool:
    return name in places or _section(name) in places


def _section(name: str) -> str:
    return name.split(".")[0]


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
