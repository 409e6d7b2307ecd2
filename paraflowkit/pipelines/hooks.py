"""Hooks on networks and schedulers that leave no trace when they are taken off."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from paraflowkit.pipelines.engine import Engine
from paraflowkit.pipelines.record import Callee

#: Attribute of a pipeline that is enabled.
HANDLE = "_paraflow"
#: Methods of encoders and decoders, beside the call itself, that pipelines use.
METHODS = ("encode", "decode", "generate", "get_text_features", "get_image_features", "get_image_embeds")


def subclass(thing: Any, **members: Any) -> type:
    """A class of the same name that only adds members: the object may take it as its own, and give it back.

    Copies and pickles of the object are of the class that it had.
    """
    cls = type(thing)

    def reduce(self: Any, protocol: Any) -> Any:
        made: list[Any] = list(cls.__reduce_ex__(self, protocol))  # pyright: ignore[reportCallIssue]
        made[0] = _new  # pickle insists on the very class in its own
        made[1] = tuple(cls if part is type(self) else part for part in made[1])
        if len(made) > 2 and isinstance(made[2], dict):
            made[2] = {k: v for k, v in made[2].items() if k != HANDLE}
        return tuple(made)

    kept: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    kept["__reduce_ex__"] = reduce
    meta: Any = type(cls)
    return meta(cls.__name__, (cls,), {**kept, **members})


def _new(cls: type, *args: Any) -> Any:
    return cls.__new__(cls, *args)


@contextmanager
def networks(engine: Engine, modules: dict[str, torch.nn.Module]) -> Generator[None]:
    """Answer the calls of these modules by the engine.

    A module's class is exchanged for one that differs in the call alone, so that its type, configuration and attributes
    are what they were for whoever asks, and put back while the module runs for real, so that what was compiled for it
    stays valid.
    """
    originals: list[tuple[torch.nn.Module, type]] = []
    try:
        for name, module in {id(m): (n, m) for n, m in reversed(list(modules.items()))}.values():
            cls = type(module)
            parts = tuple(module.modules())
            members = {
                m: _asked(engine, name, module, m, cls, parts) for m in ("__call__", *METHODS) if hasattr(cls, m)
            }
            originals.append((module, cls))
            module.__class__ = subclass(module, **members)
        yield
    finally:
        for module, cls in reversed(originals):
            module.__class__ = cls


def _asked(
    engine: Engine, name: str, module: torch.nn.Module, method: str, cls: type, parts: tuple[Any, ...]
) -> Callable[..., Any]:
    def real(*args: Any, **kwargs: Any) -> Any:
        hooked = module.__class__
        module.__class__ = cls
        try:
            return getattr(cls, method)(module, *args, **kwargs)
        finally:
            module.__class__ = hooked

    callee = Callee(name, method, real, module, parts)

    @functools.wraps(getattr(cls, method))
    def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not module:  # a copy that took the class along
            return getattr(cls, method)(self, *args, **kwargs)
        return engine.call(callee, args, kwargs)

    return asked


class Step:
    """Stands in a scheduler's attributes in place of its ``step``; a deep copy of the scheduler takes it along."""

    def __init__(self, engine: Engine, scheduler: Any) -> None:
        self.engine, self.scheduler = engine, scheduler
        # One of its own that the caller gave it, or that of its class.
        self.given = vars(scheduler).get("step")
        original = self.given or type(scheduler).step
        functools.update_wrapper(self, original)
        self.__signature__ = inspect.signature(self.given or functools.partial(type(scheduler).step, scheduler))
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        parameters = list(inspect.signature(type(scheduler).step).parameters.values())[1:]
        self.names = [p.name for p in parameters if p.kind in named]

    def __deepcopy__(self, memo: dict[int, Any]) -> Step:
        made = Step.__new__(Step)
        vars(made).update(vars(self), scheduler=memo.get(id(self.scheduler), self.scheduler))
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        original = self.given or functools.partial(type(self.scheduler).step, self.scheduler)
        if self.engine.closed or self.engine.inside:
            return original(*args, **kwargs)
        given = dict(zip(self.names, args, strict=False)) | kwargs
        if len(args) > len(self.names) or "sample" not in given or "model_output" not in given:
            return original(*args, **kwargs)

        def take(output: torch.Tensor, x: torch.Tensor) -> Any:
            new: dict[str, Any] = {"model_output": output, "sample": x}
            values = [new.get(name, value) for name, value in zip(self.names, args, strict=False)]
            return original(*values, **{name: new.get(name, value) for name, value in kwargs.items()})

        return self.engine.step(self.scheduler, take, given["model_output"], given["sample"], given.get("timestep"))


@contextmanager
def steps(engine: Engine, schedulers: list[Any]) -> Generator[None]:
    """Answer ``step`` of these schedulers by the engine. Their type stays what it is."""
    with ExitStack() as stack:
        for scheduler in schedulers:
            if hasattr(type(scheduler), "step"):
                stack.enter_context(instead(scheduler, "step", Step(engine, scheduler)))
        yield


@contextmanager
def instead(thing: Any, name: str, value: Any) -> Generator[None]:
    """Give an object an attribute of its own, past any ``__setattr__``; afterwards it has what it had."""
    here, nothing = vars(thing), object()
    before = here.get(name, nothing)
    here[name] = value
    try:
        yield
    finally:
        if before is nothing:
            here.pop(name, None)
        else:
            here[name] = before
