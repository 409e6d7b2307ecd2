"""Requests: one a sample, from the groups of a run file or from a JSONL or CSV file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from paraflowkit.config import RunConfig
from paraflowkit.core.config import ComponentConfig
from paraflowkit.errors import ConfigError, did_you_mean, explain
from paraflowkit.yaml_source import read_file


class Request(ComponentConfig):
    """One sample that is wanted."""

    model_config = ConfigDict(populate_by_name=True)

    class_id: int | None = Field(default=None, alias="class")
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int = 0
    guidance: float = Field(default=1.0, ge=0, allow_inf_nan=False)


_COLUMNS = ("class", "prompt", "negative_prompt", "seed", "guidance")


def read_requests(config: RunConfig) -> list[Request]:
    """Every sample of a run, in order: of a group, the classes or prompts of its first seed come first.

    Raises:
        ConfigError: lines of a request file that are wrong, all of them, each with its number.
    """
    if isinstance(config.requests, Path):
        return _from_file(config.requests)
    result: list[Request] = []
    for group in config.requests:
        for seed in (first + k for first in group.seeds for k in range(group.count)):
            common: dict[str, Any] = {
                "seed": seed,
                "guidance": group.guidance,
                "negative_prompt": group.negative_prompt,
            }
            if group.prompts is not None:
                result += [Request(prompt=prompt, **common) for prompt in group.prompts]
            else:
                result += [Request.model_validate({"class": wanted, **common}) for wanted in group.classes or [None]]
    return result


def _csv_rows(reader: csv.DictReader[str], path: Path, problems: list[str]) -> Iterator[dict[Any, Any]]:
    try:
        yield from reader
    except csv.Error as error:
        problems.append(f"{path}:{reader.line_num}: this is not valid CSV: {error}.")


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_file(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        header = reader.fieldnames or ()
        for key in sorted({key for key in header if list(header).count(key) > 1}):
            problems.append(f"{path}:1: {key}: the column stands twice: remove one.")
        for row in _csv_rows(reader, path, problems):
            # A column too many is kept under None by the reader; an empty cell means the default.
            if None in row:
                problems.append(f"{path}:{reader.line_num}: the line has more cells than the header.")
                continue
            yield reader.line_num, {key: cell for key, cell in row.items() if cell not in (None, "")}
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{number}:{error.colno}: this is not valid JSON: {error.msg}.")
            continue
        except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
            problems.append(f"{path}:{number}: this is too large or nested too deeply.")
            continue
        if not isinstance(row, dict):
            problems.append(f'{path}:{number}: expects an object such as {{"class": 3, "seed": 0}}.')
            continue
        yield number, row


def _from_file(path: Path) -> list[Request]:
    problems: list[str] = []
    result: list[Request] = []
    for number, row in _rows(path, problems):
        strange = [key for key in row if key not in _COLUMNS]
        problems += [
            f"{path}:{number}: {key}: unknown setting.{did_you_mean(key, _COLUMNS) or ' Known: ' + ', '.join(_COLUMNS)}"
            for key in strange
        ]
        truths = [key for key, cell in row.items() if isinstance(cell, bool)]
        problems += [f"{path}:{number}: {key}: expects a value, got {str(row[key]).lower()}." for key in truths]
        if strange or truths:
            continue
        try:
            result.append(Request.model_validate(row))
        except ValidationError as error:
            for item in error.errors(include_url=False):
                problems.append(f"{path}:{number}: {item['loc'][0]}: {explain(dict(item))}")
    if not result and not problems:
        problems.append(f"{path}: the file holds no requests.")
    if problems:
        raise ConfigError(problems)
    return result
