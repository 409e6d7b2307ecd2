"""One reversible line that makes a diffusers pipeline parallel in time."""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from paraflowkit import registry
from paraflowkit.core.solver import ParallelSolver
from paraflowkit.core.surrogate import Surrogate
from paraflowkit.core.window import WindowPolicy
from paraflowkit.errors import ParaflowkitError, PluginError, did_you_mean, explain
from paraflowkit.pipelines import modular
from paraflowkit.pipelines.answers import Refuse
from paraflowkit.pipelines.classic import Classic
from paraflowkit.pipelines.engine import Engine
from paraflowkit.pipelines.evaluate import Evaluator
from paraflowkit.pipelines.hooks import HANDLE, subclass
from paraflowkit.pipelines.preview import Preview
from paraflowkit.pipelines.program import Program
from paraflowkit.pipelines.state import hidden_state
from paraflowkit.pipelines.stats import PipelineStats

PipeT = TypeVar("PipeT")


@dataclass(repr=False)
class Enabled:
    """What :func:`enable` returns: a context manager that disables at its end.

    Attributes:
        pipe: the pipeline. solver, surrogate, window: components. names: of solver and window, to be shown.
        max_rows, pad, preview: as given to :func:`enable`. stats: of the last call, also ``pipe.paraflow_stats``.
        undo: takes the hooks off. device, thread: of the call that is running. warned: a refusal was told.
    """

    pipe: Any
    solver: ParallelSolver[Any, Any]
    surrogate: Surrogate
    window: WindowPolicy[Any]
    names: tuple[str, str]
    max_rows: int | None = None
    pad: bool = True
    preview: Callable[[Preview], None] | None = None
    stats: PipelineStats | None = None
    undo: Callable[[], None] | None = None
    device: Any = None
    warned: bool = False
    thread: int | None = None

    def __repr__(self) -> str:
        tolerance = self.solver.config.tolerance
        return f"<{type(self.pipe).__name__} with {self.names[0]}, {self.names[1]}, tolerance {tolerance:g}>"

    def busy(self) -> bool:
        """Whether a call is running, of which this one is a part: it is then made plainly.

        Raises:
            ParaflowkitError: it is running in another thread.
        """
        if self.thread is not None and self.thread != threading.get_ident():
            raise ParaflowkitError(
                f"{type(self.pipe).__name__} is running in another thread: give each thread a pipeline of its own "
                "(from_pipe shares the weights), or let one wait for the other."
            )
        return self.thread is not None

    def __enter__(self) -> Any:
        return self.pipe

    def __exit__(self, *_: object) -> None:
        disable(self.pipe)

    def engine(self, program: Program, live_needed: bool) -> Engine:
        """For one call."""
        config = self.solver.config
        length = self.window.limit(10**6)
        stats = PipelineStats(solver=self.names[0], window=self.names[1], tolerance=config.tolerance)
        return Engine(
            program=program,
            surrogate=self.surrogate,
            window=self.window,
            randomness=program.randomness,
            evaluator=Evaluator(max_rows=self.max_rows, pad=length if self.pad else 0),
            stats=stats,
            tolerance=config.tolerance,
            norm=config.norm,
            precondition=max(1, config.precondition),
            live_needed=live_needed,
        )

    def run(self, program: Any, modules: Mapping[str, Any], live_needed: bool) -> Any:
        """One call, parallel, or plainly where that is refused."""
        engine = self.engine(program, live_needed)
        self.stats, self.thread = engine.stats, threading.get_ident()
        began = time.perf_counter()
        try:
            reason = hidden_state(modules)
            if reason is not None:
                raise Refuse(reason)
            with program.hooked(engine):
                try:
                    result = engine.solve()
                    if not engine.denoisers and engine.stats.steps > 1:
                        engine.stats.refused = "no network of its components is asked at every step"
                        self._warn(engine.stats.refused)
                    return result
                except BaseException:
                    program.rewind()
                    raise
        except Refuse as why:
            engine.stats.refused = str(why)
            self._warn(str(why))
            result = program.plain()
            engine.stats.seconds = time.perf_counter() - began
            return result
        finally:
            self.thread = None

    def _warn(self, why: str) -> None:
        if not self.warned:
            warnings.warn(
                f"{type(self.pipe).__name__} ran plainly, not parallel in time: {why}. The result is that of the "
                "pipeline itself.",
                stacklevel=4,
            )
            self.warned = True


def enable(
    pipe: Any,
    solver: str | ParallelSolver[Any, Any] = "secant",
    *,
    window: int | str | WindowPolicy[Any] = 8,
    max_rows: int | None = None,
    pad: bool = True,
    preview: Callable[[Preview], None] | None = None,
    **settings: Any,
) -> Enabled:
    """Make the calls of a diffusers pipeline parallel in time, until :func:`disable`.

    A sweep runs the pipeline's own ``__call__`` with its networks answered from memory, and then evaluates in one batch
    all that it asked of them in a window of steps; when the inputs stop moving, the result is the pipeline's. Guidance,
    schedulers, ControlNets, masks and callbacks are the pipeline's own code. Where that cannot work the call is run
    plainly, with one warning that says why.

    Args:
        pipe: a ``DiffusionPipeline`` or ``ModularPipeline``; it is changed in place, and stays of its class.
        solver: a name, ``package.module:Class``, or a solver. settings: of the solver, such as ``tolerance``.
        window: steps that are solved together, or the name of a window policy, or one.
        max_rows: network rows of one call at most. pad: fill batches of compiled networks to one shape.
        preview: called after each sweep with a :class:`Preview`.

    Returns:
        A context manager whose end disables; it holds the settings and the last call's ``stats``.

    Raises:
        ParaflowkitError: settings that are wrong, or a solver that cannot march through a pipeline's loop.
    """
    if isinstance(pipe, type) or not callable(pipe) or not hasattr(pipe, "components"):
        got = f"the class {pipe.__name__}" if isinstance(pipe, type) else type(pipe).__name__
        raise ParaflowkitError(
            f"enable takes a pipeline of diffusers, got {got}: load one with DiffusionPipeline.from_pretrained."
        )
    if max_rows is not None and not _is_count(max_rows):
        raise ParaflowkitError(f"enable: max_rows must be a whole number of at least 1, got {max_rows!r}.")
    if preview is not None and not callable(preview):
        raise ParaflowkitError(f"enable: preview must be a function of one argument, a Preview, got {preview!r}.")
    made = _solver(solver, settings)
    policy, policy_name = _window(window)
    surrogate = _surrogate(made)
    name = solver if isinstance(solver, str) else type(solver).__name__
    if surrogate is None:
        raise ParaflowkitError(
            f"enable: solver {name!r} cannot march through a pipeline's own loop: use secant, paraflow, paradigms, "
            "parasolver or parasolver-turbo, or the model diffusers-pipeline, whose samplers are ours."
        )
    if not isinstance(pad, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ParaflowkitError(f"enable: pad must be True or False, got {pad!r}.")
    disable(pipe)
    handle = Enabled(pipe, made, surrogate, policy, (name, policy_name), max_rows, pad, preview)
    return install(handle)


def install(handle: Enabled) -> Enabled:
    """Put a handle's hooks on its pipeline, which has none."""
    handle.undo = modular.install(handle) if modular.is_modular(handle.pipe) else _install(handle)
    vars(handle.pipe)[HANDLE] = handle
    return handle


def disable(pipe: PipeT) -> PipeT:
    """Undo :func:`enable`: the pipeline is what it was; one that is not enabled stays as it is. Returns it."""
    if enabled(pipe):
        handle = vars(pipe).pop(HANDLE)
        if handle.undo is not None:
            handle.undo()
    return pipe


def enabled(pipe: Any) -> bool:
    """Whether the pipeline's calls are parallel in time."""
    handle = None if isinstance(pipe, type) or not hasattr(pipe, "__dict__") else vars(pipe).get(HANDLE)
    return handle is not None and handle.pipe is pipe


def _install(handle: Enabled) -> Callable[[], None]:
    """Exchange the class of a classic pipeline for one whose call is ours."""
    pipe, cls = handle.pipe, type(handle.pipe)

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe or handle.busy():
            return cls.__call__(self, *args, **kwargs)
        try:
            program = Classic(pipe, cls.__call__, args, kwargs, handle.preview)
        except TypeError:  # arguments that it does not take: its own error says so
            return cls.__call__(self, *args, **kwargs)
        handle.device = getattr(self, "_execution_device", None)
        try:
            return handle.run(program, program.modules, program.has_callbacks)
        finally:
            handle.device = None

    members: dict[str, Any] = {"__call__": call, "paraflow_stats": property(lambda self: handle.stats)}
    slow = getattr(cls, "_execution_device", None)
    if isinstance(slow, property):  # it looks at every module, in every run: within a call it stays the same

        def device(self: Any) -> Any:
            return slow.__get__(self) if handle.device is None or self is not pipe else handle.device

        members["_execution_device"] = property(device)
    pipe.__class__ = subclass(pipe, **members)

    def undo() -> None:
        pipe.__class__ = cls

    return undo


def _solver(solver: str | ParallelSolver[Any, Any], settings: dict[str, Any]) -> ParallelSolver[Any, Any]:
    if isinstance(solver, ParallelSolver):
        if settings:
            raise ParaflowkitError(
                f"enable: {', '.join(settings)}: settings belong to a solver that is given by name; "
                "this one has its own."
            )
        return solver
    if not isinstance(solver, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ParaflowkitError(f"enable: solver: expects the name of a solver, or one, got {solver!r}.")
    try:
        config, cls = registry.config_class("solver", solver), registry.get("solver", solver)
    except PluginError as error:
        raise ParaflowkitError(f"enable: solver: {error}") from None
    for key, value in settings.items():
        if isinstance(value, bool) and key in config.model_fields and config.model_fields[key].annotation is not bool:
            raise ParaflowkitError(f"enable: {key}: expects a number or a word, got {value}.")
    try:
        return cls(config.model_validate(settings))
    except ValidationError as error:
        raise ParaflowkitError("\n".join(_explained(e, list(config.model_fields)) for e in error.errors())) from None


def _explained(error: Any, known: list[str]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        also = ["solver", "window", "max_rows", "pad", "preview"]
        return f"enable: {place}: unknown setting.{did_you_mean(place, [*known, *also])}"
    return f"enable: {place}: {explain(error)}" if place else f"enable: {explain(error)}"


def _surrogate(solver: ParallelSolver[Any, Any]) -> Surrogate | None:
    config = solver.config
    if config.stride == "printed":
        raise ParaflowkitError("enable: stride: a pipeline's steps are accepted by the exact rule: leave it out.")
    for key in ("guess", "entering"):
        if getattr(config, key) == "noise":
            raise ParaflowkitError(
                f"enable: {key}: a pipeline's states cannot be noise: use constant or clean_estimate."
            )
    try:
        return solver.surrogate()
    except ValueError as error:
        raise ParaflowkitError(f"enable: {error}.") from None


def _window(window: int | str | WindowPolicy[Any]) -> tuple[WindowPolicy[Any], str]:
    if isinstance(window, WindowPolicy):
        return _fixed_size(window), type(window).__name__
    if not isinstance(window, str) and not _is_count(window):
        raise ParaflowkitError(
            f"enable: window: expects a number of steps, at least 1, or the name of a policy, got {window!r}."
        )
    name, size = ("sliding", {"size": window}) if isinstance(window, int) else (window, {})
    try:
        config = registry.config_class("window", name).model_validate(size)
    except PluginError as error:
        raise ParaflowkitError(f"enable: window: {error}") from None
    except ValidationError as error:
        raise ParaflowkitError(f"enable: window: {explain(error.errors()[0])}") from None  # pyright: ignore[reportArgumentType]
    return _fixed_size(registry.get("window", name)(config)), f"window {window}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _fixed_size(window: WindowPolicy[Any]) -> WindowPolicy[Any]:
    if type(window).fit is not WindowPolicy.fit:
        raise ParaflowkitError(
            f"enable: window: {type(window).__name__} measures a problem of ours, which a pipeline is not: use "
            "sliding, fixed or adaptive, with max_rows."
        )
    return window
