"""Requests in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What makes two samples the same request.
KEYS = ("class", "prompt", "negative_prompt", "seed", "guidance")


def label(request: Mapping[str, Any]) -> str:
    """A request, or a row of ``results.jsonl``, as people call it: ``class 3, seed 0, guidance 2``."""
    words = [] if request.get("class") is None else [f"class {request['class']}"]
    words += [] if request.get("prompt") is None else [f"“{request['prompt']}”"]
    words += [] if request.get("negative_prompt") is None else [f"not “{request['negative_prompt']}”"]
    words.append(f"seed {request.get('seed', 0)}")
    guidance = request.get("guidance", 1.0)
    return ", ".join(words if guidance == 1 else [*words, f"guidance {guidance:g}"])
