"""Modular diffusers: only the block that loops over the steps is run again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from paraflowkit.errors import ParaflowkitError
from paraflowkit.pipelines.engine import Engine
from paraflowkit.pipelines.hooks import instead, networks, steps, subclass
from paraflowkit.pipelines.rerun import Rerun, quiet
from paraflowkit.pipelines.rows import clone


def is_modular(pipe: Any) -> bool:
    """Whether it is a pipeline of blocks."""
    return hasattr(pipe, "blocks") and hasattr(pipe, "_blocks")


def loops(block: Any) -> Iterator[Any]:
    """The blocks under this one that loop over steps."""
    if hasattr(block, "loop_step"):
        yield block
        return
    for each in (getattr(block, "sub_blocks", None) or {}).values():
        yield from loops(each)


def install(handle: Any) -> Callable[[], None]:
    """Exchange the class of each loop block for one whose call is ours.

    Raises:
        ParaflowkitError: there is no such block.
    """
    pipe, cls = handle.pipe, type(handle.pipe)
    found = list(loops(pipe._blocks))
    if not found:
        raise ParaflowkitError(f"enable: {cls.__name__} has no block that loops over steps.")
    classes = [type(block) for block in found]
    for block, kind in zip(found, classes, strict=True):

        @functools.wraps(kind.__call__)
        def call(self: Any, components: Any, state: Any, kind: Any = kind, block: Any = block) -> Any:
            if self is not block or handle.busy():
                return kind.__call__(self, components, state)
            program = Loop(block, kind.__call__, components, state, handle.preview)
            return handle.run(program, program.modules, True)

        block.__class__ = subclass(block, __call__=call)
    pipe.__class__ = subclass(pipe, paraflow_stats=property(lambda self: handle.stats))

    def undo() -> None:
        pipe.__class__ = cls
        for block, kind in zip(found, classes, strict=True):
            block.__class__ = kind

    return undo


class Loop(Rerun):
    """One run of a loop block. The last run is on the caller's own state."""

    def __init__(self, block: Any, call: Callable[..., Any], components: Any, state: Any, watch: Any) -> None:
        self.block, self.call, self.components, self.state = block, call, components, state
        super().__init__(dict(components.components), dict(state.values), components, block, [], ("step",), watch)

    def run(self, engine: Engine, live: bool) -> Any:
        return self.call(self.block, self.components, self.state if live else self._copy())

    @contextmanager
    def hooked(self, engine: Engine) -> Generator[None]:
        with ExitStack() as stack:
            stack.enter_context(networks(engine, self.modules))
            stack.enter_context(steps(engine, self.schedulers))
            stack.enter_context(instead(self.block, "progress_bar", self.bar))
            stack.enter_context(quiet())
            try:
                yield
            finally:
                self.bar.close()
                engine.close()

    def _copy(self) -> Any:
        mapping = {k: list(v) for k, v in self.state.kwargs_mapping.items()}
        return type(self.state)(values=clone(dict(self.state.values)), kwargs_mapping=mapping)

    def call_plainly(self) -> Any:
        return self.call(self.block, self.components, self.state)
