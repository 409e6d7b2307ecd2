"""The interface of window policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic

from paraflowkit.core import API_VERSION
from paraflowkit.core.config import ComponentConfig
from paraflowkit.core.problem import Problem
from paraflowkit.core.stepper import ConfigT


@dataclass(frozen=True)
class Window:
    """Nodes ``[lo, hi)`` of one sample: x[lo] is accepted, x[lo+1] … x[hi] are unknown."""

    lo: int
    hi: int


class WindowPolicy(ABC, Generic[ConfigT]):
    """Decides which nodes of a sample are solved together. Immutable."""

    api_version = API_VERSION
    config_cls: type[ComponentConfig] = ComponentConfig

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def fit(self, problem: Problem, max_rows: int | None) -> WindowPolicy[ConfigT]:
        """The policy for one problem: itself, unless it depends on the device or the rows.

        Args:
            problem: about to be solved. max_rows: the caller's limit on the rows of one network call.

        Raises:
            ValueError: nothing fits; the message names the remedy.
        """
        return self

    @abstractmethod
    def limit(self, steps: int) -> int:
        """The longest window that :meth:`initial` and :meth:`advance` will ever ask for, 1 … steps."""

    @abstractmethod
    def initial(self, steps: int) -> Window:
        """The first window of a sample of so many steps; it starts at node 0."""

    @abstractmethod
    def advance(self, window: Window, stride: int, steps: int) -> Window:
        """The next window, after ``stride`` states were accepted: it starts at ``window.lo + stride``.

        Its end may not fall behind ``window.hi`` (states already worked on would be lost) nor pass ``steps``.
        """
