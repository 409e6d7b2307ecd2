"""Errors that are a user's to mend: each is one clear sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


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
