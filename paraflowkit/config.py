"""Run files: YAML over the defaults, checked at once against the installed plugins, before torch is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from paraflowkit import registry
from paraflowkit.core.config import ComponentConfig
from paraflowkit.errors import PluginError, did_you_mean, explain
from paraflowkit.sections import (
    FabricConfig,
    GridConfig,
    MeshConfig,
    OutputConfig,
    PredictionConfig,
    RequestGroup,
    RunSettings,
)
from paraflowkit.yaml_source import SettingPath, Source, apply_overrides, parse, read_file

SectionT = TypeVar("SectionT", bound=BaseModel)


@dataclass(frozen=True)
class Component:
    """A chosen plugin and its settings, an instance of its own configuration class."""

    kind: str
    name: str
    settings: BaseModel


@dataclass(frozen=True)
class RunConfig:
    """A checked run. ``requests`` is the path of a JSONL or CSV file, or groups of samples."""

    model: Component
    requests: Path | tuple[RequestGroup, ...]
    stepper: Component
    solver: Component
    window: Component
    grid: GridConfig
    prediction: PredictionConfig
    output: OutputConfig
    fabric: FabricConfig
    mesh: MeshConfig
    run: RunSettings


SECTIONS: dict[str, type[ComponentConfig]] = {
    "grid": GridConfig,
    "prediction": PredictionConfig,
    "output": OutputConfig,
    "fabric": FabricConfig,
    "mesh": MeshConfig,
    "run": RunSettings,
}
#: The usual component of each kind, see :func:`usual`.
COMPONENTS: dict[str, str | None] = {"model": None, "stepper": "euler", "solver": "auto", "window": "sliding"}
#: The solver of a run that names a window and no solver.
IN_A_WINDOW = "lattice"


def usual(kind: str, data: dict[Any, Any]) -> str | None:
    """The component that a run file gets where it names none; None where it must name one.

    A run that says nothing of its window gets the solver that chooses it. One that does gets the same method in that
    window.
    """
    return IN_A_WINDOW if kind == "solver" and "window" in data else COMPONENTS[kind]


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file.

    Args:
        path: of the YAML file. overrides: settings over the file's, each ``section.key=value``.

    Raises:
        ConfigError: everything that is wrong, each as ``file:line:column: setting: what. Did you mean …?``.
    """
    path = Path(path)
    return loads(read_file(path), str(path), overrides, path.parent)


def loads(text: str, filename: str = "<text>", overrides: Sequence[str] = (), base: Path = Path()) -> RunConfig:
    """:func:`load` from text; a request file's path is relative to ``base``. Raises ConfigError."""
    source = parse(text, filename)
    apply_overrides(source, overrides, tuple(COMPONENTS))
    return check(source, base)


def check(source: Source, base: Path) -> RunConfig:
    """The run that a source's data describe; a request file's path is relative to ``base``. Raises ConfigError."""
    known = (*COMPONENTS, "requests", *SECTIONS)
    for key in source.data:
        if key not in known:
            source.report((key,), f"unknown section.{_suggest(source, (key,), known)}", at_key=True)
    components = {kind: _component(source, kind, usual(kind, source.data)) for kind in COMPONENTS}
    solver, window = components["solver"], components["window"]
    if solver and window and solver.name == COMPONENTS["solver"] and window != _usual_window():
        source.report(
            ("window",),
            f"solver {solver.name} chooses its window itself: leave this section out, or name a solver that solves in "
            f"it, such as {IN_A_WINDOW}.",
        )
    sections = {name: _section(source, (name,), source.data.get(name), cls) for name, cls in SECTIONS.items()}
    requests = _requests(source, base)
    run = sections["run"]
    if isinstance(run, RunSettings) and run.warm_start is not None and not Path(run.warm_start).is_file():
        source.report(
            ("run", "warm_start"),
            f"there is no file {run.warm_start!r}; a run with --save-trajectory writes trajectory.safetensors.",
        )
    source.raise_problems()
    return RunConfig(requests=requests, **components, **sections)  # pyright: ignore[reportArgumentType]


def _usual_window() -> Component:
    name = str(COMPONENTS["window"])
    return Component("window", name, registry.config_class("window", name)())


def _component(source: Source, kind: str, default: str | None) -> Component | None:
    value = source.data.get(kind, default)
    if value is None and kind not in source.data:
        installed = ", ".join(registry.names(kind))
        source.report((), f"the section {kind!r} is missing. Installed: {installed}.")
        return None
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name", default), str):
        got = "" if isinstance(value, (dict, type(None))) else f", got {value!r}"
        remedy = f"; a setting of it is written {kind}.SETTING=VALUE" if (kind,) in source.overrides else ""
        source.report((kind,), f"needs the name of a {kind}{got}: {', '.join(registry.names(kind))}{remedy}.")
        return None
    name = str(value.get("name", default))
    try:
        cls = registry.config_class(kind, name)
    except PluginError as error:
        source.report((kind, "name") if (kind, "name") in source.values else (kind,), str(error))
        return None
    rest = {key: item for key, item in value.items() if key != "name"}
    for given, other in (("error", "tolerance"), ("tolerance", "error")):  # one takes the other's place in the file
        if (kind, given) in source.overrides and (kind, other) not in source.overrides:
            rest.pop(other, None)
    settings = _section(source, (kind,), rest, cls, ("name",))
    return None if settings is None else Component(kind, name, settings)


def _section(
    source: Source, path: SettingPath, value: Any, cls: type[SectionT], also: tuple[str, ...] = ()
) -> SectionT | None:
    """Check a mapping against its class; problems are noted and None returned."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        source.report(path, f"expects a mapping of settings, got {value!r}.")
        return None
    wrong = False
    for key, item in value.items():
        field = cls.model_fields.get(key)
        # To pydantic a bool is a number; to a person who writes `steps: yes` it is a mistake.
        number = _number(field.annotation) if field is not None else ""
        parts = [((*path, key), item)]
        if isinstance(item, list):
            parts = [((*path, key, i), part) for i, part in enumerate(item)]
        for where, part in parts:
            if number and isinstance(part, bool):
                source.report(where, f"expects {number}, got {str(part).lower()}.")
                wrong = True
    try:
        made = cls.model_validate(value)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            here = (*path, *item["loc"])
            unknown = item["type"] == "extra_forbidden"
            choices = (*cls.model_fields, *also)
            text = f"unknown setting.{_suggest(source, here, choices)}" if unknown else explain(dict(item))
            if item["type"] == "literal_error":
                homes = [key for key, field in cls.model_fields.items() if item["input"] in _values(field.annotation)]
                text += f" {item['input']!r} is a value of {homes[0]!r}." if homes else ""
            source.report(here, text, at_key=unknown)
        return None
    return None if wrong else made


def _kinds(annotation: Any) -> set[Any]:
    """The types at the bottom of an annotation: int and None for ``list[int] | None``."""
    return {kind for part in get_args(annotation) for kind in _kinds(part)} or {annotation}


def _values(annotation: Any) -> list[str]:
    """The words that an annotation names, as far as it does; a list, since what is looked for may be anything."""
    return [kind for kind in _kinds(annotation) if isinstance(kind, str)]


def _number(annotation: Any) -> str:
    """What a setting that holds numbers, and no booleans, expects."""
    kinds = _kinds(annotation)
    if bool in kinds or True in [kind is True or kind is False for kind in kinds]:
        return ""
    return "a whole number" if int in kinds else "a number" if float in kinds else ""


def _suggest(source: Source, path: SettingPath, choices: Sequence[str]) -> str:
    """The section in which this very setting exists, or a near name among the choices."""
    word = str(path[-1])
    homes = [name for name, keys in _settings_by_section(source) if word in keys and name != path[0]]
    if homes:
        return f" {word!r} is a setting of {homes[0]!r}."
    return did_you_mean(word, choices) or f" Known: {', '.join(choices)}."


def _settings_by_section(source: Source) -> Iterator[tuple[str, set[str]]]:
    for name, cls in SECTIONS.items():
        yield name, set(cls.model_fields)
    for kind in COMPONENTS:
        default = usual(kind, source.data)
        value: Any = source.data.get(kind, default)
        name = value.get("name", default) if isinstance(value, dict) else value
        try:
            yield kind, set(registry.config_class(kind, str(name)).model_fields)
        except PluginError:
            continue


def _requests(source: Source, base: Path) -> Path | tuple[RequestGroup, ...] | None:
    value: Any = source.data.get("requests")
    if value is None:
        source.report(("requests",) if "requests" in source.data else (), "the section 'requests' is missing or empty.")
        return None
    if isinstance(value, str):
        path = (base / value).resolve()
        if path.suffix not in (".jsonl", ".csv"):
            source.report(("requests",), f"{value!r} must be a .jsonl or .csv file.")
        elif not path.is_file():
            source.report(("requests",), f"there is no file {value!r} beside the run file.")
        return path
    if not isinstance(value, list) or not value:
        source.report(("requests",), "expects a list of groups, such as '- classes: [0, 1]', or a file's name.")
        return None
    groups: list[RequestGroup] = []
    for i, item in enumerate(value):
        group = _section(source, ("requests", i), item, RequestGroup)
        if group is None:
            continue
        groups.append(group)
        if group.classes is not None and group.prompts is not None:
            source.report(("requests", i), "has both 'classes' and 'prompts': give one of them.")
        for key in ("classes", "prompts"):
            if getattr(group, key) == []:
                source.report(("requests", i, key), "must not be empty.")
    return tuple(groups)


def to_data(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain data, every default written out."""
    data: dict[str, Any] = {}
    for kind in COMPONENTS:
        component: Component = getattr(config, kind)
        data[kind] = {"name": component.name, **component.settings.model_dump(mode="json")}
    requests = config.requests
    many = isinstance(requests, tuple)
    data["requests"] = [group.model_dump(mode="json") for group in requests] if many else str(requests)
    for name in SECTIONS:
        data[name] = getattr(config, name).model_dump(mode="json")
    return data


def dump(config: RunConfig) -> str:
    """The resolved YAML, which :func:`loads` reads back to an equal configuration."""
    data = to_data(config)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    # Line breaks of Unicode would be folded when they are read back.
    return yaml.safe_dump(data, sort_keys=False) if {"\x85", "\u2028", "\u2029"} & set(text) else text
