"""What :func:`paraflowkit.fabric.tune.tune` found out: trials, and the fastest of them by the cost of calls.

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from paraflowkit import registry
from paraflowkit.config import Component, RunConfig
from paraflowkit.errors import ParaflowkitError

if TYPE_CHECKING:
    from paraflowkit.core.cost import CostCurve

#: For so many times the present devices the speedup is foretold, and solvers are tried.
DEVICES = (1, 2, 4, 8)


def check_wanted(error: float, solvers: Sequence[str]) -> None:
    """Refuse an error that is none, and solvers that there are not.

    Raises:
        ParaflowkitError: one of them.
    """
    if not 0 < error < inf:
        raise ParaflowkitError(
            f"The wanted error must be more than 0 and finite, got {error:g}: 0.01, for instance, is one per cent of "
            "the data's standard deviation."
        )
    for name in solvers:
        registry.find("solver", name)
        if name == "sequential":
            raise ParaflowkitError("The sequential sampler is what solvers are compared with: name others, or none.")


@dataclass(frozen=True)
class Trial:
    """A solver with its loosest tolerance, of those tried, that meets the error, and what a batch costs with it.

    Attributes:
        solver, window: names and settings, as in the run file.
        error, worst: mean and largest relative RMSE of the samples to the sequential ones.
        iterations, evaluations: mean of a sample. rows: network rows of each sweep, those included by which calls of a
            compiled network were filled up.
        rest: seconds outside the network. seconds: of the whole solve, as it was measured once.
    """

    solver: Component
    window: Component
    error: float
    worst: float
    iterations: float
    evaluations: float
    rows: tuple[int, ...]
    rest: float
    seconds: float

    @property
    def tolerance(self) -> float:
        """Of the solver."""
        return getattr(self.solver.settings, "tolerance", 0.0)

    @property
    def size(self) -> int:
        """Of the window."""
        return getattr(self.window.settings, "size")  # noqa: B009  the settings of a window are any class to pyright

    @property
    def degree(self) -> int | None:
        """Steps of the window that are evaluated, where the solver has a setting for them."""
        return getattr(self.solver.settings, "degree", None)

    @property
    def name(self) -> str:
        """Solver and window in words, such as ``paraflow with a window of 8``."""
        return f"{self.solver.name} {in_words(self.size, self.degree)}"

    def predicted(self, curve: CostCurve) -> float:
        """Seconds of the solve by the cost curve, which is less noisy than a single measurement."""
        return self.rest + sum(curve(rows) for rows in self.rows)


def in_words(window: int, degree: int | None) -> str:
    """A window; ``degree`` is the steps of it that are evaluated, None for all."""
    return f"with a window of {window}" + ("" if degree is None else f" ({degree} evaluated)")


@dataclass(frozen=True)
class Tuning:
    """What was found out.

    Attributes:
        config: with the fastest settings, the sequential sampler's where nothing is faster. wanted: the error.
        batch: samples of the batch that was solved. curve: seconds of network calls. sequential: the sampler compared
            with. trials: of the parallel solvers, the fastest first. left_out: solvers that have no trial, or none with
            larger windows, and why, as what follows on the name in a sentence.
    """

    config: RunConfig
    wanted: float
    batch: int
    curve: CostCurve
    sequential: Trial
    trials: tuple[Trial, ...]
    left_out: dict[str, str]

    def speedup(self, devices: int = 1) -> tuple[float, Trial | None]:
        """Over the sequential sampler on so many times the present devices, by the cost curve; the best, and its trial.

        All calls are shared between the devices, those of a sequentially sampled batch too. The exchange of outputs is
        left out.
        """
        curve = self.curve.shared(devices)
        whole = self.sequential.predicted(curve)
        found = [(whole / trial.predicted(curve), trial) for trial in self.trials]
        return max(found, key=lambda each: each[0], default=(0.0, None))

    def promised(self) -> Iterator[tuple[int, float, Trial]]:
        """:meth:`speedup` on 2, 4 and 8 times the present devices."""
        for devices in DEVICES[1:]:
            speedup, trial = self.speedup(devices)
            if trial is not None:
                yield devices, speedup, trial

    def verdict(self) -> str:
        """Whether a parallel solver is faster here, with the numbers."""
        speedup, best = self.speedup()
        whole = self.sequential.predicted(self.curve)
        if best is None:
            return f"No solver met the error {self.wanted:g}, or none could be tried: sample sequentially."
        name = f"{best.name} and tolerance {best.tolerance:.3g}"
        if speedup > 1:
            return (
                f"Fastest here: {name}, {best.predicted(self.curve):.3g} s a batch in place of {whole:.3g} s "
                f"(sequential sampling), which is {speedup:.2f} times as fast. Its error is {best.error:.2g}, at worst "
                f"{best.worst:.2g}."
            )
        step, most = self.sequential.rows[0], max(best.rows)
        return (
            f"Parallel sampling is slower here: the best is {name}, {best.predicted(self.curve):.3g} s a batch, and "
            f"sequential sampling takes {whole:.3g} s. A call of {most} rows takes "
            f"{self.curve(most) / self.curve(step):.1f} times as long as one of {step}, and there are only "
            f"{len(self.sequential.rows) / len(best.rows):.1f} times fewer."
        )
