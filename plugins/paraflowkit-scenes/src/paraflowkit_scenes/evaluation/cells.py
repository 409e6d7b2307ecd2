"""What is measured: cells, the published settings of the solvers, and the file of rows that makes a run resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paraflowkit import registry
from paraflowkit.errors import ParaflowkitError

Row = dict[str, Any]

#: Prompts of each solver that are solved at tolerance 0, and that the picture of the solvers shows.
FEW = 6
_PRESET = {"preset": "sd2-ddim"}
#: Label → solver, settings, window. The tolerances are the published ones for deterministic text-to-image sampling:
#: Stable Diffusion 3 for ParaFlow (its table 1), Stable Diffusion 2 with DDIM for ParaDiGMS, ParaSolver and Turbo, and
#: ParaTAA's own default. Each evaluates up to 8 steps a sweep, ParaFlow's window and Turbo's degree; Turbo's window is
#: 24 (its table 2). The other papers sweep their windows and name no single one. Ours are asked for an error, the
#: usual one and others on either side, so that each published solver has a row of about its own error beside it.
SOLVERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "sequential": ("sequential", {}, 1),
    "paradigms": ("paradigms", _PRESET, 8),
    "parataa": ("parataa", {}, 8),
    "parasolver": ("parasolver", _PRESET, 8),
    "parasolver-turbo": ("parasolver-turbo", {**_PRESET, "degree": 8}, 24),
    "parasolver-turbo, accept all": ("parasolver-turbo", {**_PRESET, "degree": 8, "accept": "all"}, 24),
    "paraflow": ("paraflow", {"preset": "sd3"}, 8),
    "secant": ("secant", {"error": 1e-2}, 8),
    "secant, looser": ("secant", {"error": 3e-2}, 8),
    "secant, tighter": ("secant", {"error": 3e-3}, 8),
    "secant, tightest": ("secant", {"error": 2e-4}, 8),
    "secant, no step first": ("secant", {"error": 1e-2, "precondition": 0}, 8),
    "lattice": ("lattice", {"error": 1e-2}, 8),
}


def spread(count: int, total: int) -> list[int]:
    """``count`` indices of ``total``, evenly spaced from 0 on; all of them where there are no more."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


@dataclass(frozen=True)
class Cell:
    """One set of samples that is made and measured.

    Attributes:
        part: guidance, solvers or exact. solver: a label of :data:`SOLVERS`. steps, guidance: of the sampler.
        prompts: how many. of: evenly spaced among so many, which are evenly spaced among all that are held out.
    """

    part: str
    solver: str
    steps: int
    guidance: float
    prompts: int
    of: int

    @property
    def settings(self) -> Row:
        """All settings of the solver, its defaults written out; ``exact`` cells have tolerance 0."""
        name, given, _ = SOLVERS[self.solver]
        if self.part == "exact":  # a tolerance takes the place of a wanted error
            given = {**{key: value for key, value in given.items() if key != "error"}, "tolerance": 0.0}
        return {"name": name, **registry.config_class("solver", name)(**given).model_dump(mode="json")}

    @property
    def window(self) -> int:
        """Size of the sliding window."""
        return SOLVERS[self.solver][2]

    @property
    def key(self) -> Row:
        """What the samples depend on, beside the weights."""
        own = ("part", "solver", "steps", "guidance", "prompts", "of")
        return {**{name: getattr(self, name) for name in own}, "window": self.window, "settings": self.settings}

    @property
    def title(self) -> str:
        """For people."""
        how = "" if self.solver == "sequential" else f", {self.solver}" + (" exact" if self.part == "exact" else "")
        return f"{self.part}: guidance {self.guidance:g}, N = {self.steps}{how}, {self.prompts} prompts"

    @property
    def work(self) -> float:
        """About how many network rows it takes, for the time that is left."""
        rows = self.prompts * self.steps * (1 if self.guidance == 1 else 2)
        return rows * (1.0 if self.solver == "sequential" else 6.0 if self.part == "exact" else 1.8)

    def indices(self, total: int) -> list[int]:
        """Numbers of its prompts among the ``total`` held-out ones."""
        outer = spread(self.of, total)
        return [outer[i] for i in spread(self.prompts, len(outer))]


def guidance_cells(guidances: Sequence[float], steps: int, prompts: int) -> list[Cell]:
    """The sequential sampler at each guidance."""
    return [Cell("guidance", "sequential", steps, g, prompts, prompts) for g in guidances]


def solver_cells(
    solvers: Sequence[str], steps: Sequence[int], guidance: float, prompts: int, exact: bool = True
) -> list[Cell]:
    """Each solver for each N, the sequential one first; then a few prompts at tolerance 0 for N = 50 or the first."""
    rivals = [name for name in solvers if name != "sequential"]
    cells = [Cell("solvers", s, n, guidance, prompts, prompts) for n in steps for s in ["sequential", *rivals]]
    one = 50 if 50 in steps else steps[0]
    few = min(FEW, prompts)
    if not exact:
        return cells
    # To accept all states is the paper's rule, which tolerance 0 does not make exact.
    named = {SOLVERS[s][0]: s for s in reversed(rivals) if SOLVERS[s][1].get("accept") != "all"}
    return cells + [Cell("exact", s, one, guidance, few, prompts) for s in rivals if s in named.values()]


def digest(weights: Path) -> str:
    """Twelve hexadecimal digits of the networks in ``weights``: rows of other networks are other rows."""
    made = hashlib.sha256()
    for path in sorted(weights.rglob("*")):
        if path.name.endswith((".safetensors", "config.json")):
            made.update(path.relative_to(weights).as_posix().encode() + path.read_bytes())
    return made.hexdigest()[:12]


def identity(row: Row, names: Iterable[str]) -> str:
    """The settings of a row in one string."""
    return json.dumps({name: row.get(name) for name in sorted(names)}, sort_keys=True)


class Rows:
    """The rows of a folder: ``rows.jsonl``, a line a row; a later one replaces one of the same settings.

    Args:
        folder: of the evaluation. base: settings that all rows of this run share.

    Raises:
        ParaflowkitError: a line of the file is no row.
    """

    def __init__(self, folder: Path, base: Row) -> None:
        self.folder, self.base = folder, base
        self.rows: dict[str, Row] = {}
        for row in read_rows(folder / "rows.jsonl") if (folder / "rows.jsonl").exists() else []:
            self.rows[identity(row, row["key"])] = row

    def find(self, settings: Row) -> Row | None:
        """The row with these settings, if there is one and its samples are still there."""
        key = {**self.base, **settings}
        row = self.rows.get(identity(key, key))
        kept = row is not None and ("samples" not in row or (self.folder / row["samples"]).is_file())
        return row if kept else None

    def file(self, settings: Row) -> str:
        """The name of the samples' file of a row, below the folder."""
        key = {**self.base, **settings}
        mark = hashlib.sha256(identity(key, key).encode()).hexdigest()[:10]
        return (
            f"samples/{settings['part']}-{settings['solver'].replace(', ', '-').replace(' ', '-')}-{mark}.safetensors"
        )

    def add(self, settings: Row, measured: Row) -> Row:
        """Append a row, which from now on counts as measured."""
        key = {**self.base, **settings}
        row = {**key, **measured, "key": sorted(key)}
        self.rows[identity(key, key)] = row
        with (self.folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row


def read_rows(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        ParaflowkitError: there is no such file, or a line of it is no row.
    """
    try:
        lines = path.read_text().split("\n")
    except OSError as error:
        raise ParaflowkitError(
            f"{path}: cannot be read ({error.strerror}); give the --out folder of an evaluation that has run."
        ) from error
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            identity(row, row["key"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParaflowkitError(f"{path}:{number}: this is no row of an evaluation; delete the line.") from error
        rows.append(row)
    return rows
