"""The folder of a bench: its plan, a line a row as they are measured, and the samples that later rows need."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from paraflowkit.errors import ParaflowkitError
from paraflowkit.fabric.folder import write

Row = dict[str, Any]


def identity(what: Any) -> str:
    """Twelve hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def finite(value: Any) -> Any:
    """Plain data whose numbers that are not finite, which JSON does not have, are None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class BenchFolder:
    """A bench's folder.

    Attributes:
        path: of the folder. plan: title, paper, order of the rows … as ``bench.json`` has them. rows: by their keys.
    """

    path: Path
    plan: dict[str, Any] = field(default_factory=dict[str, Any])
    rows: dict[str, Row] = field(default_factory=dict[str, Row])

    @classmethod
    def make(cls, wanted: Path, resume: bool) -> BenchFolder:
        """The folder, made; one that is taken is gone on with, or gets a number appended.

        Raises:
            ParaflowkitError: it cannot be made, or what is in it is no bench.
        """
        path, number = wanted, 1
        while not resume and path.exists() and any(path.iterdir() if path.is_dir() else [path]):
            number += 1
            path = wanted.with_name(f"{wanted.name}-{number}")
        try:
            (path / "samples").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ParaflowkitError(f"{path}: cannot be made ({error.strerror}): choose another --output.") from error
        return cls(path, rows=cls._read(path / "rows.jsonl"))

    @classmethod
    def open(cls, path: Path) -> BenchFolder:
        """A folder that a bench has written.

        Raises:
            ParaflowkitError: it is none.
        """
        try:
            plan = json.loads((path / "bench.json").read_text())
        except (OSError, ValueError) as error:
            raise ParaflowkitError(f"{path}: holds no bench.json: give the folder of a bench.") from error
        return cls(path, plan, cls._read(path / "rows.jsonl"))

    @staticmethod
    def _read(path: Path) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        lines = path.read_text().split("\n") if path.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows[row["key"]] = row
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # a line that a killed bench had begun
                    continue
                raise ParaflowkitError(f"{path}:{number}: this is no row of a bench: delete the line.") from error
        return rows

    def describe(self, plan: dict[str, Any]) -> None:
        """Write ``bench.json``."""
        self.plan = plan
        write(self.path / "bench.json", json.dumps(plan, indent=1, default=str))

    def add(self, row: Row) -> None:
        """Append a row; from now on it counts as measured."""
        row = self.rows[row["key"]] = finite(row)
        file = self.path / "rows.jsonl"
        try:
            kept = file.read_bytes() if file.exists() else b""
            with file.open("ab") as lines:
                lines.truncate(kept.rfind(b"\n") + 1)  # a line that a killed bench had begun
                lines.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise ParaflowkitError(
                f"{file}: cannot be written ({error.strerror}): what was measured is kept."
            ) from error

    def save(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep what later rows need."""
        data = save({name: value.contiguous() for name, value in tensors.items()})
        write(self.path / "samples" / f"{key}.safetensors", data)

    def load(self, key: str) -> dict[str, Tensor] | None:
        """What :meth:`save` kept, if it is there."""
        try:
            return load_file(self.path / "samples" / f"{key}.safetensors")
        except (OSError, SafetensorError):
            return None
