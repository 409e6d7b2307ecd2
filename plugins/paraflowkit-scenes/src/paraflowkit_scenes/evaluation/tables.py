"""Markdown tables of the rows; the same rows, in whatever order, make the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from paraflowkit.errors import ParaflowkitError

from paraflowkit_scenes.evaluation.cells import SOLVERS, Row, identity, read_rows

_FIELDS = ("count", "things", "details", "arrangement", "background", "right")
_NUMBERS = {"1": "one thing", "2": "two things", "3": "three things", "all": "all"}
_BOUNDS = {"drawn": "drawn pictures", "autoencoder": "drawn pictures through the autoencoder"}
#: Rows of one table agree in these.
_SHARED = ("weights", "references", "max_sequence_length", "prompts")


def tables(folder: Path) -> str:
    """Everything that the rows of ``folder`` say.

    Raises:
        ParaflowkitError: there are no rows.
    """
    path = folder / "rows.jsonl"
    newest = {identity(row, row["key"]): row for row in read_rows(path)}
    rows = [newest[name] for name in sorted(newest)]
    if not rows:
        raise ParaflowkitError(f"{path}: there are no rows yet; run the evaluation first.")
    parts = [
        *_sections([row for row in rows if row["part"] == "guidance"], rows, _guidance, ("steps",)),
        *_sections([row for row in rows if row["part"] == "solvers"], rows, _solvers, ("guidance", "steps")),
        *_sections([row for row in rows if row["part"] == "exact"], rows, _exact, ("guidance", "steps")),
    ]
    return "\n".join([*parts, _made(rows)])


def _sections(
    own: list[Row], rows: list[Row], make: Callable[[list[Row], list[Row]], str], names: tuple[str, ...]
) -> Iterator[str]:
    """A text for each group of rows that agree in what is shared and in ``names``, numbers."""
    groups: dict[tuple[tuple[str, ...], tuple[float, ...]], list[Row]] = {}
    for row in own:
        shared = tuple(str(row.get(name)) for name in _SHARED)
        groups.setdefault((shared, tuple(float(row[name]) for name in names)), []).append(row)
    for _, group in sorted(groups.items()):
        same = [row for row in rows if all(row.get(name) == group[0].get(name) for name in _SHARED)]
        yield make(group, [row for row in same if row["part"] == "bounds"])


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown, the first column to the left and the others to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines)) + "\n"


def _percent(row: Row, number: str, field: str = "right") -> str:
    found = row["accuracy"].get(number)
    return f"{100 * found[field]:.1f} %" if found else ""


def _bounds(rows: list[Row]) -> list[tuple[str, Row]]:
    return [(said, row) for name, said in _BOUNDS.items() for row in rows if row["solver"] == name]


def _fid(row: Row) -> str:
    return (
        f"FID compares the detector's 128 features of {row['images']} images with those of {row['references']} "
        "pictures drawn for the held-out captions. From few images it comes out too large, by more the fewer they are, "
        "so it is to be compared within this table only; drawn pictures show how much of it is that."
    )


def _guidance(own: list[Row], bounds: list[Row]) -> str:
    own = sorted(own, key=lambda row: row["guidance"])
    named = [*((f"guidance {row['guidance']:g}", row) for row in own), *_bounds(bounds)]
    counts = own[0]["accuracy"]
    said = ", ".join(f"{counts[n]['prompts']} of {_NUMBERS[n]}" for n in ("1", "2", "3") if n in counts)
    head = ["images", *_NUMBERS.values(), "CLIP score", "FID"]
    lines = [
        [name, *(_percent(row, n) for n in _NUMBERS), f"{row['clip_score']:.2f}", f"{row['fid']:.2f}"]
        for name, row in named
    ]
    asked = [
        [f"{name}, {_NUMBERS[n]}", *(_percent(row, n, field) for field in _FIELDS)]
        for name, row in named
        for n in ("1", "2", "3")
        if n in row["accuracy"]
    ]
    return (
        f"### Guidance: the sequential sampler, N = {own[0]['steps']}, {own[0]['prompts']} held-out captions\n\n"
        f"Captions of which everything is right, by the number of things that they name: {said}.\n\n"
        f"{table(head, lines)}\n{_fid(own[0])}\n\n"
        "What is right of the captions: as many things as named; each there in its kind and colour; size and texture "
        f"too; relation or place; background; all of it.\n\n{table(['images', *_FIELDS], asked)}"
    )


def _order(row: Row) -> int:
    return list(SOLVERS).index(row["solver"]) if row["solver"] in SOLVERS else len(SOLVERS)


def _tolerance(row: Row) -> str:
    if row["solver"] == "sequential":
        return ""
    asked = row["settings"].get("error")
    return f"error {asked:g}" if asked else f"{row['settings']['tolerance']:g} {row['settings']['norm']}"


def _window(row: Row) -> str:
    degree = row["settings"].get("degree")
    return f"{degree} of {row['window']}" if degree else f"{row['window']}"


def _solvers(own: list[Row], bounds: list[Row]) -> str:
    head = ["sampler", "tolerance", "window", "iterations", "evaluations", "error", "worst error"]
    head += [*_NUMBERS.values(), "CLIP score", "FID"]
    lines: list[list[str]] = []
    named = [(row["solver"], row) for row in sorted(own, key=lambda row: (_order(row), row["solver"]))]
    for name, row in [*named, *_bounds(bounds)]:
        cost = ["", "", "", "", "", ""]
        if "window" in row:
            errors = [f"{row['rmse']:.1e}", f"{row['worst_rmse']:.1e}"] if "rmse" in row else ["", ""]
            cost = [_tolerance(row), _window(row), f"{row['iterations']:.1f}", f"{row['evaluations']:.1f}", *errors]
        accuracy = [_percent(row, n) for n in _NUMBERS]
        lines.append([name, *cost, *accuracy, f"{row['clip_score']:.2f}", f"{row['fid']:.2f}"])
    one = own[0]
    failed = sum(row["failed"] for row in own)
    return (
        f"### Solvers: N = {one['steps']}, guidance {one['guidance']:g}, {one['prompts']} held-out captions\n\n"
        "Iterations are sequential network calls and evaluations are steps at which the network was evaluated, of a "
        "sample, in the mean; errors are RMSE of the final latents to the sequential ones, "
        "relative to the deviation of all latents. Windows are steps; "
        f"'8 of 24' evaluates 8 of them a sweep.{f' {failed} samples failed.' if failed else ''}\n\n"
        f"{table(head, lines)}\n{_fid(one)}\n"
    )


def _exact(own: list[Row], _: list[Row]) -> str:
    head = ["solver", "iterations", "evaluations", "largest error", "same images", "largest difference of a pixel"]
    lines = [
        [
            row["solver"],
            f"{row['iterations']:.1f}",
            f"{row['evaluations']:.1f}",
            f"{row['worst_rmse']:.1e}",
            f"{row['same_images']} of {row['prompts']}",
            f"{row['largest_level']} of 255",
        ]
        for row in sorted(own, key=lambda row: (_order(row), row["solver"]))
    ]
    one = own[0]
    return (
        f"### Tolerance 0: N = {one['steps']}, guidance {one['guidance']:g}, {one['prompts']} held-out captions\n\n"
        "The largest relative RMSE of the final latents to the sequential ones, in float32, and how many decoded "
        f"images are the same in each 8-bit value.\n\n{table(head, lines)}"
    )


def _made(rows: list[Row]) -> str:
    """On what the rows were measured."""
    devices = "; ".join(sorted({row["device"] for row in rows}))
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(row["versions"].items())) for row in rows})
    weights = ", ".join(sorted({row["weights"] for row in rows}))
    return f"Measured on {devices} with {'; '.join(versions)}; weights {weights}; float32.\n"
