"""A finished batch of a predict run, as it travels between processes and to the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from paraflowkit.solution import Solution, Stats


@dataclass(frozen=True)
class Part:
    """A finished batch.

    Attributes:
        rows: one a sample, as in ``results.jsonl``. samples: ``(n, *shape)`` on the CPU. stats: of the solve.
        sequential: calls and seconds of the sequential solve, and apart from them those of compilation; empty without
            ``compare``.
        trajectory: ``(n, N + 1, *shape)``, or None.
    """

    rows: list[dict[str, Any]]
    samples: Tensor
    stats: Stats
    sequential: dict[str, float]
    trajectory: Tensor | None = None

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        s = self.stats
        tensors = {"samples": self.samples, "sample_iterations": s.sample_iterations, "evaluations": s.evaluations}
        for name in ("fronts", "strides", "residuals"):
            tensors[name] = torch.stack(getattr(s, name))
        if self.trajectory is not None:
            tensors["trajectory"] = self.trajectory
        stats = {f.name: value for f in fields(s) if isinstance(value := getattr(s, f.name), (int, float))}
        notes = {"rows": self.rows, "sequential": self.sequential, "stats": stats}
        return save(
            {name: value.contiguous() for name, value in tensors.items()}, {k: json.dumps(v) for k, v in notes.items()}
        )

    @classmethod
    def of(cls, rows: list[dict[str, Any]], solution: Solution, plain: Solution | None) -> Part:
        """Of a solution and the sequential one."""
        cost: dict[str, float] = {}
        if plain is not None:
            compiled = plain.stats.compile_seconds
            seconds = plain.stats.seconds - compiled
            cost = {"calls": float(plain.stats.calls), "seconds": seconds, "compile_seconds": compiled}
        trajectory = None if solution.trajectory is None else solution.trajectory.cpu()
        return cls(rows, solution.x.cpu(), solution.stats, cost, trajectory)

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """Read what :meth:`to_bytes` made."""
        length = int.from_bytes(data[:8], "little")
        notes = {name: json.loads(text) for name, text in json.loads(data[8 : 8 + length])["__metadata__"].items()}
        found = load(data)
        stats = Stats(**notes["stats"])
        stats.sample_iterations, stats.evaluations = found["sample_iterations"], found["evaluations"]
        stats.fronts, stats.strides, stats.residuals = (
            list(found[name]) for name in ("fronts", "strides", "residuals")
        )
        return cls(notes["rows"], found["samples"], stats, notes["sequential"], found.get("trajectory"))
