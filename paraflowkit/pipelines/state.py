"""Networks whose answers depend on more than what they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def hidden_state(modules: Mapping[str, Any]) -> str | None:
    """Why these networks cannot be re-ordered, or None: diffusers' caches keep features from one step to the next."""
    for name, network in modules.items():
        for module in network.modules():
            hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", None) or {}
            for hook in hooks.values():
                if getattr(hook, "_is_stateful", False):
                    return f"{name} has a feature cache ({type(hook).__name__}), which keeps a state between steps"
    return None
