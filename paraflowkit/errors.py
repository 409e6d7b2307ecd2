"""Errors that are a user's to mend: each is one clear sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class ParaflowkitError(Exception):
    """Something the user can mend; the message names the place and the remedy."""


class ConfigError(ParaflowkitError):
    """Everything that is wrong with a run file, a line each."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))


class PluginError(ParaflowkitError):
    """A plugin that is unknown, ambiguous, broken or not of its interface."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest of the choices or one that begins so, or nothing."""
    known = list(choices)
    near = difflib.get_close_matches(word, known, n=1) or [c for c in known if len(word) > 1 and c.startswith(word)]
    return f" Did you mean {near[0]!r}?" if near else ""


def explain(error: dict[str, Any]) -> str:
    """A pydantic error in plain English."""
    kind, got, context = error["type"], error["input"], error.get("ctx", {})
    shown = "nothing" if got is None else str(got).lower() if isinstance(got, bool) else repr(got)
    expects = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "text",
        "list": "a list",
        "tuple": "a list",
        "finite": "a finite number",
        "dict": "a mapping",
    }
    if kind == "missing":
        return "is missing."
    if kind == "literal_error":
        return f"expects {context['expected']}, got {shown}.{_suggest_value(got, context['expected'])}"
    limits = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    limits |= {"greater_than": ("more than", "gt"), "less_than": ("less than", "lt")}
    if kind in limits:
        words, key = limits[kind]
        return f"must be {words} {context[key]:g}, got {shown}."
    if kind in ("too_short", "string_too_short"):
        return "must not be empty."
    if kind == "value_error":  # a check of the class's own, which says all that is to be said
        return f"{error['msg'].removeprefix('Value error, ')}."
    word = kind.split("_")[0]
    told = word in expects and (word != "string" or kind == "string_type")  # not of string_too_long
    return f"expects {expects[word]}, got {shown}." if told else f"{error['msg']} (got {shown})."


def _suggest_value(got: Any, expected: str) -> str:
    return did_you_mean(str(got), [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")])
