"""Unpacks docstring sections in which a line describes several names, before napoleon reads them.

The docstrings of the package write ``x: the states. node, sample: int64.`` on one line; napoleon wants a line a name.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

HEADING = re.compile(r"^(Args|Attributes|Raises|Returns):$")
NEXT = re.compile(r"(?<=[.)]) (?=[A-Za-z_]\w*(?:, [A-Za-z_]\w*)*: )")
NAMES = re.compile(r"^([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): (.*)$", re.DOTALL)


def entries(block: list[str]) -> list[str]:
    """The entries of a section, each joined into one line, several names apart."""
    joined: list[str] = []
    for line in block:
        if line.startswith(" ") and joined:
            joined[-1] += " " + line.strip()
        elif line.strip():
            joined.append(line.strip())
    apart: list[str] = []
    for text in (part for entry in joined for part in NEXT.split(entry)):
        match = NAMES.match(text)
        apart += [f"{name}: {match[2]}" for name in match[1].split(", ")] if match else [text]
    return apart


def unpack(lines: list[str]) -> list[str]:
    """The docstring with its sections unpacked."""
    out: list[str] = []
    at = 0
    while at < len(lines):
        out.append(lines[at])
        heading = HEADING.match(lines[at])
        at += 1
        if not heading:
            continue
        block: list[str] = []
        while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
            block.append(lines[at][4:])
            at += 1
        if heading[1] == "Returns":
            # napoleon takes what stands before a colon for a type; the annotation already says that.
            new = [re.sub(r": ", " – ", " ".join(line.strip() for line in block if line.strip()), count=1)]
        else:
            new = entries(block)
        out += ["    " + line for line in new] + [""]
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change the docstring in place, as autodoc asks."""
    lines[:] = unpack(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Run ahead of napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
