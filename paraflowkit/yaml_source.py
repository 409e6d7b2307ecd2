"""Run files as data that remembers where each setting stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paraflowkit.errors import ConfigError

#: The way to a setting: section, key, position in a list …
SettingPath = tuple[str | int, ...]

#: What PyYAML raises for a scalar that does not suit its tag (2026-13-45, !!int x, !!bool x, !!timestamp x).
_BAD_SCALAR = (ValueError, KeyError, AttributeError)
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def dotted(path: SettingPath) -> str:
    """``solver.tolerance`` for ("solver", "tolerance")."""
    return ".".join(str(part) for part in path)


@dataclass
class Source:
    """The data of a run file, with the place of every key and value.

    Attributes:
        filename: as it is shown. data: the top-level mapping. problems: found so far, a sentence each.
    """

    filename: str
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    problems: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    keys: dict[SettingPath, tuple[int, int]] = field(default_factory=dict[SettingPath, tuple[int, int]])
    values: dict[SettingPath, tuple[int, int]] = field(default_factory=dict[SettingPath, tuple[int, int]])
    overrides: dict[SettingPath, str] = field(default_factory=dict[SettingPath, str])

    def report(self, path: SettingPath, message: str, at_key: bool = False) -> None:
        """Note a problem of the setting at ``path``; its place is the override that set it, or else the nearest one
        that the file has."""
        lengths = range(len(path), -1, -1)
        given = [self.overrides[path[:length]] for length in lengths if path[:length] in self.overrides]
        if not given and path and path not in self.values:  # what only an override of a part of it has brought in
            given = [text for part, text in self.overrides.items() if part[: len(path)] == path]
        if given:
            self.problems.append((0, f"override {given[0]!r}: {dotted(path)}: {message}"))
            return
        for length in lengths:
            near = path[:length]
            place = (self.keys if at_key and length == len(path) else self.values).get(near)
            if place is not None:
                line, column = place
                where = f"{dotted(path)}: " if path else ""
                self.problems.append((line, f"{self.filename}:{line}:{column}: {where}{message}"))
                return
        self.problems.append((0, f"{self.filename}: {dotted(path)}: {message}"))

    def raise_problems(self) -> None:
        """Raise ConfigError with all problems in the order of the file, if there are any."""
        if self.problems:
            raise ConfigError(list(dict.fromkeys(text for _, text in sorted(self.problems, key=lambda p: p[0]))))


def read_file(path: Path) -> str:
    """The text of a file, or ConfigError in one sentence."""
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file."]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: this is not a text file in UTF-8."]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})."]) from None


def parse(text: str, filename: str) -> Source:
    """Read YAML text; only plain data is accepted.

    Raises:
        ConfigError: the text is no YAML, is empty or is no mapping. Duplicate keys and foreign tags are noted in the
            source's problems.
    """
    source = Source(filename)
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        character = f"U+{ord(text[error.position]):04X}"
        raise ConfigError([f"{filename}:{line}:{column}: the character {character} is not allowed."]) from None
    try:
        root = loader.get_single_node()
        if root is None:
            raise ConfigError([f"{filename}: the file is empty: it needs at least a 'model' and 'requests'."])
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(
                [f"{filename}:1:1: the file must be a mapping of sections, such as 'model: digits-flow'."]
            )
        source.data = _build(loader, root, (), source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{filename}:{mark.line + 1}:{mark.column + 1}" if mark else filename
        raise ConfigError([f"{place}: this is not valid YAML: {error.problem}."]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{filename}: this is not valid YAML: {error}."]) from None
    except RecursionError:
        raise ConfigError([f"{filename}: the file is nested too deeply, or an alias refers to itself."]) from None
    finally:
        loader.dispose()
    return source


def _build(loader: yaml.SafeLoader, node: yaml.Node, path: SettingPath, source: Source) -> Any:
    source.values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN:
        source.report(path, f"the tag {node.tag!r} is not allowed: write plain text, numbers, lists or mappings.")
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), source) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except yaml.constructor.ConstructorError:
            source.report(path, f"the tag {node.tag!r} is not allowed: write plain text, numbers, lists or mappings.")
            return None
        except _BAD_SCALAR:
            source.report(path, f"{node.value[:40]!r} is not valid here: put text in quotes.")
            return None
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        mark = key_node.start_mark
        place = (mark.line + 1, mark.column + 1)
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key is None:
            source.problems.append((place[0], f"{source.filename}:{place[0]}:{place[1]}: a key must be plain text."))
            continue
        if key in result:
            first = source.keys[(*path, key)][0]
            message = f"the key stands twice (first in line {first}): remove one."
            where = dotted((*path, key))
            source.problems.append((place[0], f"{source.filename}:{place[0]}:{place[1]}: {where}: {message}"))
            continue
        source.keys[(*path, key)] = place
        result[key] = _build(loader, value_node, (*path, key), source)
    return result


def apply_overrides(source: Source, overrides: Sequence[str], components: Sequence[str]) -> None:
    """Set ``section.key=value`` over the file's data; a component that is only a name becomes a mapping first."""
    for text in overrides:
        left, equals, right = text.partition("=")
        parts = [int(part) if part.isascii() and part.isdigit() else part for part in left.strip().split(".")]
        if not equals or not left.strip() or "" in parts:
            source.problems.append((0, f"override {text!r}: write it as section.key=value."))
            continue
        try:
            value = yaml.safe_load(right)
        except (yaml.YAMLError, RecursionError, *_BAD_SCALAR):
            source.problems.append((0, f"override {text!r}: the value is not valid YAML."))
            continue
        at: Any = source.data
        for depth, part in enumerate(parts[:-1]):
            following = at.get(part) if isinstance(at, dict) else None
            if isinstance(at, list) and isinstance(part, int) and part < len(at):
                following = at[part]
            if isinstance(following, str) and depth == 0 and part in components:
                following = {"name": following}
            elif following is None and isinstance(at, dict):
                following = {}
            if not isinstance(following, (dict, list)):
                source.problems.append((0, f"override {text!r}: {dotted(tuple(parts[: depth + 1]))} has no settings."))
                break
            if isinstance(at, dict):
                at[part] = following
            at = following
        else:
            last = parts[-1]
            if isinstance(at, dict):
                at[str(last)] = value
            elif isinstance(last, int) and last < len(at):
                at[last] = value
            else:
                source.problems.append((0, f"override {text!r}: {left} is not an item of the list."))
                continue
            source.overrides[tuple(parts)] = text
