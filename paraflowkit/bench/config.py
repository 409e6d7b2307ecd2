"""Bench files: which runs are compared, and how."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paraflowkit.bench.settings import BenchSettings, PaperConfig, PaperRow, TimingConfig
from paraflowkit.config import COMPONENTS, SECTIONS, RunConfig, check, usual
from paraflowkit.errors import ConfigError, did_you_mean, explain
from paraflowkit.metrics.config import MetricsConfig
from paraflowkit.yaml_source import SettingPath, Source, apply_overrides, parse, read_file

#: What stands where the user has to give a value, such as the folder of a model that cannot be shipped.
WANTED = "???"
#: Sections that say how an equation is solved, and not which.
HOW = ("solver", "window")
_RUN = (*COMPONENTS, "requests", *SECTIONS)


@dataclass(frozen=True)
class Spot:
    """One method at one place of the grid.

    Attributes:
        method: its label. at: values of the axes that concern it. config: of its run.
    """

    method: str
    at: dict[str, Any]
    config: RunConfig

    @property
    def sequential(self) -> bool:
        """Whether it is the sampler that others are compared with."""
        return self.config.solver.name == "sequential"


@dataclass(frozen=True)
class BenchConfig:
    """A checked bench file.

    Attributes:
        name: of the file. settings: all but the runs. spots: methods at places of the grid, place by place.
        fewer: label → what it changes in a run. models: ``shipped`` or ``paper``. file: the data of the file, with the
            overrides.
    """

    name: str
    settings: BenchSettings
    spots: tuple[Spot, ...]
    fewer: dict[str, dict[str, Any]]
    models: str
    file: dict[str, Any]

    @property
    def view(self) -> str:
        """``error`` or ``tolerance``."""
        return self.settings.view or ("error" if self.settings.errors else "tolerance")


def load(path: str | Path, overrides: Sequence[str] = (), models: str = "shipped") -> BenchConfig:
    """Read a bench file.

    Args:
        path: of the YAML file. overrides: settings over the file's, each ``run.section.key=value`` or ``axes.…=[…]``.
        models: ``paper`` puts the sections ``paper_run`` and ``paper_metrics`` over ``run`` and ``metrics``.

    Raises:
        ConfigError: everything that is wrong, with file, line and column.
    """
    path = Path(path)
    source = parse(read_file(path), str(path))
    if models == "paper":
        if not isinstance(source.data.get("paper_run"), dict):
            raise ConfigError([f"{path}: has no section 'paper_run': leave --models paper out."])
        for name in ("run", "metrics"):
            below, above = source.data.setdefault(name, {}), source.data.get(f"paper_{name}")
            if isinstance(below, dict) and isinstance(above, dict):
                _put(below, above)
                _move(source, (f"paper_{name}",), (name,))
    for name in ("paper_run", "paper_metrics"):
        source.data.pop(name, None)
    apply_overrides(source, overrides, ())
    known = ("run", "methods", *BenchSettings.model_fields, "paper_run", "paper_metrics")
    for key in source.data:
        if key not in known:
            hint = did_you_mean(key, known) or f" Known: {', '.join(known)}."
            if key in _RUN:
                hint = " It is a section of runs: put it under 'run'."
            source.report((key,), f"unknown section.{hint}", at_key=True)
    settings = _settings(source)
    for key in ("run", "methods"):
        if not isinstance(source.data.get(key), dict) or not source.data[key]:
            source.report((key,), f"the section {key!r} is missing, empty or no mapping.")
    source.raise_problems()
    assert settings is not None
    base = path.resolve().parent
    methods: dict[str, Any] = source.data["methods"]
    places = list(_places(settings.axes))
    spots = list(_spots(source, methods, places, base))
    fewer: dict[str, dict[str, Any]] = {}
    for i, stepper in enumerate(settings.fewer):
        if isinstance(stepper, dict) and not isinstance(stepper.get("name"), str):
            source.report(("fewer", i), "needs the name of a stepper, as {name: dpm-solver, order: 2}.")
            continue
        chosen = {"name": stepper} if isinstance(stepper, str) else dict(stepper)
        changes = {"stepper": chosen, "solver": {"name": "sequential"}, "window": {"name": "sliding", "size": 1}}
        _config(source, changes, ("fewer", i), places[0] if places else {}, base)
        more = ", ".join(f"{k} {v}" for k, v in chosen.items() if k != "name")
        fewer[f"fewer steps: {chosen.get('name')}{f' ({more})' if more else ''}"] = changes
    _check_paper(source, settings, methods)
    where = [(spot.config.fabric.model_copy(update={"devices": 1}), spot.config.mesh) for spot in spots]
    if any(each != where[0] for each in where):
        source.report(("run", "fabric"), "is that of the whole bench: methods and axes cannot change it, nor the mesh.")
    if not source.problems and not any(spot.sequential for spot in spots):
        source.report(("methods",), "none of them is sequential: add one with 'solver: sequential' to compare with.")
    source.raise_problems()
    return BenchConfig(path.stem, settings, tuple(spots), fewer, models, source.data)


def _settings(source: Source) -> BenchSettings | None:
    data = {key: value for key, value in source.data.items() if key in BenchSettings.model_fields}
    if isinstance(data.get("axes"), dict):
        data["axes"] = dict(_flat(data["axes"]))
    try:
        return BenchSettings.model_validate(data)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            here: SettingPath = tuple(item["loc"])
            unknown = item["type"] == "extra_forbidden"
            if unknown:
                cls: Any = BenchSettings
                for part in here[:-1]:
                    found = {"timing": TimingConfig, "metrics": MetricsConfig, "paper": PaperConfig, "rows": PaperRow}
                    cls = found.get(str(part), cls)
                known = list(cls.model_fields)
                text = f"unknown setting.{did_you_mean(str(here[-1]), known) or ' Known: ' + ', '.join(known) + '.'}"
            else:
                text = explain(dict(item))
            source.report(here, text, at_key=unknown)
        return None


def _flat(axes: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"grid": {"steps": […]}}`` as ``grid.steps``, which is how an override writes it."""
    for key, value in axes.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _places(axes: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations, the first axis slowest."""
    if not axes:
        yield {}
        return
    (name, values), *rest = axes.items()
    for value in values:
        for other in _places(dict(rest)):
            yield {name: value, **other}


def _spots(source: Source, methods: dict[str, Any], places: list[dict[str, Any]], base: Path) -> Iterator[Spot]:
    seen: list[tuple[str, dict[str, Any]]] = []
    for place in places:
        for label, changes in methods.items():
            if not isinstance(changes, dict):
                if place is places[0]:
                    source.report(("methods", label), "expects settings of a run, such as '{solver: paraflow}'.")
                continue
            run = {**source.data["run"], **changes}
            solver: Any = run.get("solver", usual("solver", run))
            name = solver.get("name") if isinstance(solver, dict) else solver
            # What concerns the solver does not multiply the sampler that solvers are compared with.
            at = {k: v for k, v in place.items() if name != "sequential" or k.split(".")[0] not in HOW}
            if (label, at) in seen:
                continue
            seen.append((label, at))
            config = _config(source, changes, ("methods", label), at, base)
            if config is not None:
                yield Spot(label, at, config)


def _config(
    source: Source, changes: dict[str, Any], where: SettingPath, at: dict[str, Any], base: Path
) -> RunConfig | None:
    """The run of a method at a place; what is wrong with it is noted in the source."""
    one = Source(source.filename, copy.deepcopy(source.data["run"]))
    _move(source, ("run",), (), one)
    _put(one.data, copy.deepcopy(changes))
    _move(source, where, (), one)
    for axis, value in at.items():
        _set(one, axis, copy.deepcopy(value))
        path = tuple(int(p) if p.isdigit() else p for p in axis.split("."))
        place = source.values.get(("axes", axis)) or source.values.get(("axes",))
        given = source.overrides.get(("axes", *path))
        if given is not None:
            one.overrides[path] = given
        elif place is not None:
            one.keys[path] = one.values[path] = place
    for path in _unset(one.data):
        dotted = ".".join(map(str, path))
        one.report(path, f"has to be given: add run.{dotted}=VALUE to the command, or write it into the file.")
    if not one.problems:
        try:
            return check(one, base)
        except ConfigError as error:
            source.problems += [(line, text) for line, text in one.problems if text in error.messages]
            return None
    source.problems += one.problems
    return None


def _put(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Merge settings over others; a component with another name brings none of the old one's settings."""
    for key, value in above.items():
        old = below.get(key)
        if key in COMPONENTS:
            new = {"name": value} if isinstance(value, str) else value
            old = {"name": old} if isinstance(old, str) else old
            same = (
                isinstance(old, dict) and isinstance(new, dict) and new.get("name", old.get("name")) == old.get("name")
            )
            below[key] = {**old, **new} if same and isinstance(old, dict) else new
        elif isinstance(old, dict) and isinstance(value, dict):
            _put(old, value)
        else:
            below[key] = value


def _set(source: Source, axis: str, value: Any) -> None:
    """Set an axis' value; what it goes through has to be there."""
    if axis in COMPONENTS:
        _put(source.data, {axis: value})
        return
    parts = [int(part) if part.isdigit() else part for part in axis.split(".")]
    section = str(parts[0])
    if section in (*SECTIONS, *COMPONENTS):
        old = source.data.get(section)
        source.data[section] = {"name": old} if isinstance(old, str) else old or {}
    try:
        at: Any = source.data
        for part in parts[:-1]:
            at = at[part]
        at[parts[-1]] = value
    except (KeyError, IndexError, TypeError):
        source.report(("axes", axis), f"a run has no setting {axis!r} to vary.")


def _move(source: Source, old: SettingPath, new: SettingPath, target: Source | None = None) -> None:
    """Let settings of one place of the file be known as those of another."""
    target = target or source
    for name in ("keys", "values", "overrides"):
        found: dict[SettingPath, Any] = getattr(source, name)
        moved = {(*new, *path[len(old) :]): at for path, at in found.items() if path[: len(old)] == old}
        getattr(target, name).update(moved)


def _unset(data: Any, path: SettingPath = ()) -> Iterator[SettingPath]:
    if data == WANTED:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _unset(value, (*path, key))


def _check_paper(source: Source, settings: BenchSettings, methods: dict[str, Any]) -> None:
    for i, row in enumerate(settings.paper.rows if settings.paper else ()):
        if row.method not in methods:
            hint = did_you_mean(row.method, methods) or f" Methods: {', '.join(methods)}."
            source.report(("paper", "rows", i, "method"), f"{row.method!r} is none of the methods.{hint}")
        for name in row.at:
            if name not in settings.axes:
                known = ", ".join(settings.axes) or "there are none"
                source.report(("paper", "rows", i, "at", name), f"is none of the axes. Axes: {known}.")
