"""What classic and modular pipelines share as programs that can be run again."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from paraflowkit.pipelines.engine import Engine
from paraflowkit.pipelines.preview import Preview
from paraflowkit.pipelines.rewind import Attributes, Processors, Randomness


class Bar:
    """The pipeline's own progress bar, drawn once over all its runs."""

    def __init__(self, owner: Any) -> None:
        self.owner, self.make = owner, owner.progress_bar
        self.total, self.bar = 0, None

    def __call__(self, iterable: Any = None, total: int | None = None, **kwargs: Any) -> Any:
        from tqdm.auto import tqdm

        if self.bar is None and (total is not None or hasattr(iterable, "__len__")):
            self.total = total if total is not None else len(iterable)
            self.bar = self.make(total=self.total, **kwargs)
        return tqdm(iterable, total=total, disable=True)

    def show(self, share: float) -> None:
        if self.bar is not None:
            self.bar.update(int(share * self.total) - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Rerun(ABC):
    """One call of something that runs networks and steps a scheduler; it can be run again from its start.

    Args:
        parts: networks, schedulers, guiders and whatever else it is made of, by name. arguments: of the call.
        holder: has the attribute ``_interrupt``. loop: has ``progress_bar``. changed: objects besides schedulers and
            guiders whose attributes a run changes. hooks: attributes that are ours. watch: called after each sweep
            with a :class:`Preview`, or None.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        arguments: Any,
        holder: Any,
        loop: Any,
        changed: list[Any],
        hooks: tuple[str, ...],
        watch: Any,
    ) -> None:
        self.holder, self.watch = holder, watch
        self.modules = {k: v for k, v in parts.items() if isinstance(v, torch.nn.Module)}
        every = list({id(v): v for v in parts.values()}.values())
        self.schedulers = [v for v in every if hasattr(v, "step") and hasattr(v, "set_timesteps")]
        guiders = [v for v in every if hasattr(v, "prepare_inputs") and hasattr(v, "__dict__")]
        self.randomness = Randomness(arguments, self.schedulers)
        self.attributes = Attributes([*changed, *self.schedulers, *guiders], hooks)
        self.processors = Processors(self.modules.values())
        self.bar = Bar(loop)

    @abstractmethod
    def call_plainly(self) -> Any:
        """The call as it is."""

    def plain(self) -> Any:
        """The call as it is, after a refusal; where it fails everything is put back."""
        try:
            return self.call_plainly()
        except BaseException:
            self.rewind()
            raise

    def rewind(self) -> None:
        self.attributes.restore()
        self.processors.restore()
        self.randomness.restore()

    def progress(self, share: float) -> None:
        self.bar.show(share)

    def interrupted(self) -> bool:
        return bool(vars(self.holder).get("_interrupt", False))

    def stop_early(self) -> None:
        self.holder._interrupt = True

    def sweep_done(self, engine: Engine, x: Tensor | None, output: Tensor | None) -> None:
        if self.watch is not None and x is not None and output is not None:
            self.watch(preview_of(engine, x, output))


def preview_of(engine: Engine, x: Tensor, output: Tensor) -> Preview:
    """What the caller may look at after a sweep."""
    clean = engine.levels.clean(engine.n - 1, x, output) if engine.levels is not None else None
    accepted = tuple(int(lo) for lo in engine.lo)
    return Preview(engine.stats.sweeps, accepted, engine.steps, (x if clean is None else clean).clone())


@contextmanager
def quiet() -> Generator[None]:
    """What the first run has told is not told again by the next."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
