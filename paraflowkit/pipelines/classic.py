"""A call of a classic diffusers pipeline as a program that can be run again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from paraflowkit.pipelines.engine import Engine
from paraflowkit.pipelines.hooks import instead, networks, steps
from paraflowkit.pipelines.rerun import Rerun, quiet
from paraflowkit.pipelines.rows import clone
from paraflowkit.pipelines.state import token

CALLBACKS = ("callback_on_step_end", "callback", "callback_on_step_begin")
#: What offloading keeps on a pipeline, and replaces at the end of a call.
OFFLOAD = ("_all_hooks", "_offload_gpu_id", "_offload_device")
#: Methods that only prepare: their results are remembered in the order of their calls.
PREPARE = ("encode_prompt", "encode_image")


class Classic(Rerun):
    """One call of a pipeline.

    Args:
        pipe: the pipeline. call: its class's own call. args, kwargs: as the caller gave them.
        watch: called after each sweep with a :class:`Preview`, or None.
    """

    def __init__(
        self, pipe: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], watch: Any = None
    ) -> None:
        self.pipe, self.call = pipe, call
        self.bound = inspect.signature(call).bind(pipe, *args, **kwargs)
        own = {k: v for k, v in vars(pipe).items() if not k.startswith("_")}  # optional ones are no components
        hooks = ("step", "progress_bar", *PREPARE, *OFFLOAD)
        super().__init__({**pipe.components, **own}, (args, kwargs), pipe, pipe, [pipe], hooks, watch)
        self.prepared: dict[str, list[Any]] = {}
        self.counts: dict[str, int] = {}
        kinds = self.bound.signature.parameters.values()
        self.more = next((p.name for p in kinds if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        given = {**self.bound.arguments, **self.bound.arguments.get(self.more or "", {})}
        self.has_callbacks = any(given.get(k) is not None for k in CALLBACKS)

    def run(self, engine: Engine, live: bool) -> Any:
        self.counts.clear()
        if engine.stats.sweeps == 1:
            self.stack.enter_context(quiet())
        bound = self._watched(engine) if live else self._silent()
        return self.call(*bound.args, **bound.kwargs)

    @contextmanager
    def hooked(self, engine: Engine) -> Generator[None]:
        with ExitStack() as self.stack:
            self.stack.enter_context(networks(engine, self.modules))
            self.stack.enter_context(steps(engine, self.schedulers))
            self.stack.enter_context(self._members(engine))
            try:
                yield
            finally:
                self.bar.close()
                engine.close()

    def call_plainly(self) -> Any:
        return self.call(*self.bound.args, **self.bound.kwargs)

    def _silent(self) -> inspect.BoundArguments:
        """The arguments, copied, without callbacks."""
        return self._with(lambda name, value: None if name in CALLBACKS else clone(value))

    def _watched(self, engine: Engine) -> inspect.BoundArguments:
        """The arguments, with callbacks that the engine watches: one may make the networks other ones."""

        def watched(name: str, value: Any) -> Any:
            if name not in CALLBACKS or value is None:
                return value

            @functools.wraps(value, updated=())
            def call(*args: Any, **kwargs: Any) -> Any:
                before = token(self.modules.values())
                result = value(*args, **kwargs)
                engine.real |= token(self.modules.values()) != before
                return result

            return value if hasattr(value, "tensor_inputs") else call  # diffusers asks what its own kinds want to see

        return self._with(watched)

    def _with(self, change: Callable[[str, Any], Any]) -> inspect.BoundArguments:
        """The arguments, each changed but for the pipeline itself."""
        first = next(iter(self.bound.arguments))
        made: Any = {}
        for name, value in self.bound.arguments.items():
            if name == first:
                made[name] = value
            elif name == self.more:
                made[name] = {k: change(k, v) for k, v in value.items()}
            else:
                made[name] = change(name, value)
        return inspect.BoundArguments(self.bound.signature, made)

    @contextmanager
    def _members(self, engine: Engine) -> Generator[None]:
        """A silent progress bar, and prompts that are encoded once."""
        with ExitStack() as stack:
            stack.enter_context(instead(self.pipe, "progress_bar", self.bar))
            for name in PREPARE:
                original = getattr(self.pipe, name, None)
                if callable(original):
                    stack.enter_context(instead(self.pipe, name, self._remembered(engine, name, original)))
            yield

    def _remembered(self, engine: Engine, name: str, original: Any) -> Callable[..., Any]:
        counts, known = self.counts, self.prepared.setdefault(name, [])

        def remembered(*args: Any, **kwargs: Any) -> Any:
            if engine.inside:
                return original(*args, **kwargs)
            k = counts[name] = counts.get(name, -1) + 1
            if k >= len(known):
                before = self.randomness.state()
                engine.inside = True
                try:
                    found = original(*args, **kwargs)
                finally:
                    engine.inside = False
                known.append((found, self.randomness.state() if self.randomness.moved(before) else None))
            found, after = known[k]
            if after is not None:
                self.randomness.restore(after)
            return clone(found)

        return functools.wraps(original)(remembered)  # pipelines look at its parameters
