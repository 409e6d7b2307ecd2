"""Networks whose answers depend on more than what they are asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

#: Of torch and diffusers themselves: parameters and configurations, and what was compiled so far.
_SKIPPED = {
    "_parameters",
    "_modules",
    "_buffers",
    "_internal_dict",
    "config",
    "_non_persistent_buffers_set",
    "_compile_kwargs",
    "_compiled_call_impl",
    "dynamo_ctx",
}
_DEPTH = 4
_LONGEST = 64


def hidden_state(modules: Mapping[str, Any]) -> str | None:
    """Why these networks cannot be re-ordered, or None: diffusers' caches keep features from one step to the next."""
    for name, network in modules.items():
        for module in network.modules():
            hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", None) or {}
            for hook in hooks.values():
                if getattr(hook, "_is_stateful", False):
                    return f"{name} has a feature cache ({type(hook).__name__}), which keeps a state between steps"
    return None


def hooks_of(modules: Iterable[nn.Module]) -> tuple[Any, ...]:
    """The hooks that are on modules now: guiders put some on for single calls."""
    found: list[Any] = []
    for k, module in enumerate(modules):
        here = vars(module)
        hooks = getattr(here.get("_diffusers_hook"), "hooks", None)
        if hooks or here["_forward_hooks"] or here["_forward_pre_hooks"]:
            found.append((k, *(hooks or ()), len(here["_forward_hooks"]), len(here["_forward_pre_hooks"])))
    return tuple(found)


class Fingerprint:
    """All that a network holds beside its weights: attributes, buffers, what its hooks and processors keep.

    A network that changes any of it when it is called has a hidden state.
    """

    def __init__(self, network: nn.Module) -> None:
        self.values: dict[str, Any] = {}
        self.kept: list[Any] = []  # what is compared by identity must not be replaced by something at its address
        seen: set[int] = set()
        for name, module in network.named_modules():
            for key, value in vars(module).items():
                if key not in _SKIPPED:
                    self._visit(f"{name}.{key}", value, _DEPTH, seen)
            for key, value in module.named_buffers(recurse=False):
                self._visit(f"{name}.{key}", value, 1, seen)

    def changed(self, network: nn.Module) -> str | None:
        """The name of something that differs from what ``network`` holds now, or None."""
        now = Fingerprint(network).values
        for key in self.values.keys() | now.keys():
            if self.values.get(key, self) != now.get(key, self):
                return key.strip(".")
        return None

    def _visit(self, path: str, value: Any, depth: int, seen: set[int]) -> None:
        if isinstance(value, Tensor):
            self.kept.append(value)
            self.values[path] = (id(value), 0 if value.is_inference() else value._version)
        elif value is None or isinstance(value, (bool, int, float, str, bytes)):
            self.values[path] = repr(value)  # equal to itself even if it is not a number
        elif depth and id(value) not in seen and not isinstance(value, (nn.Module, type)):
            seen.add(id(value))
            self.kept.append(value)
            for key, child in _children(value):
                self._visit(f"{path}.{key}", child, depth - 1, seen)


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield "len", len(value)
        yield from list(value.items())[:_LONGEST]
    elif isinstance(value, (list, tuple, deque, set, frozenset)):
        yield "len", len(value)
        if not isinstance(value, (set, frozenset)):
            yield from enumerate(list(value)[-_LONGEST:])
    elif isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not filled yet
                continue
    elif hasattr(value, "__dict__"):
        yield from list(vars(value).items())


def token(modules: Iterable[nn.Module]) -> list[Any]:
    """What a callback may change in networks to make them other ones: weights, processors, adapters, their scales."""
    found: list[Any] = []
    for network in modules:
        found.append(sum(0 if p.is_inference() else p._version for p in network.parameters()))
        for module in network.modules():
            here = vars(module)
            processor = here.get("processor")
            if processor is not None:
                found.append(id(processor))
            if "scaling" in here:
                found.append((str(here["scaling"]), str(here.get("_active_adapter")), here.get("_disable_adapters")))
    return found
