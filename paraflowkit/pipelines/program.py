"""What the engine runs again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from paraflowkit.pipelines.rewind import Randomness

if TYPE_CHECKING:
    from paraflowkit.pipelines.engine import Engine


class Program(Protocol):
    """Something that calls networks and steps a sampler, and can be run again from its start.

    Attributes:
        randomness: the generators that it draws from.
    """

    randomness: Randomness

    def run(self, engine: Engine, live: bool) -> Any:
        """Run once with the engine's hooks in place; ``live`` runs are with the caller's callbacks and arguments."""
        ...

    def rewind(self) -> None:
        """Put back everything that a run changes."""
        ...

    def progress(self, share: float) -> None:
        """Show how much of the trajectory is done."""
        ...

    def interrupted(self) -> bool:
        """Whether the caller has asked for an early end, from a preview or another thread."""
        ...

    def stop_early(self) -> None:
        """Make the run end with the state that it has."""
        ...

    def sweep_done(self, engine: Engine, x: Tensor | None, output: Tensor | None) -> None:
        """Called after each sweep with the state and output of the last step that was marched."""
        ...
