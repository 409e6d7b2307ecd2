"""The rows that a bench wants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from paraflowkit.bench.config import BenchConfig, Spot
from paraflowkit.bench.contents import contents
from paraflowkit.bench.folder import identity
from paraflowkit.bench.solves import Refused, component, equation, sequentially
from paraflowkit.config import Component, RunConfig, to_data
from paraflowkit.requests import read_requests


@dataclass(frozen=True)
class Job:
    """A row that is wanted.

    Attributes:
        kind: ``given`` settings, a wanted ``error``, or ``fewer`` sequential steps. spot: method and place.
        wanted: the error. plain: the run of the sequential samples that it is compared with.
    """

    kind: str
    spot: Spot
    wanted: float | None
    key: str
    plain: RunConfig

    @property
    def work(self) -> float:
        """About how many network rows it takes, for the time that is left."""
        requests = read_requests(self.spot.config)
        rows = self.spot.config.grid.steps * sum(1 if r.guidance == 1 else 2 for r in requests)
        return rows * {"given": 1.0 if self.spot.sequential else 1.7, "error": 4.0, "fewer": 1.2}[self.kind]

    @property
    def title(self) -> str:
        """For people."""
        at = "".join(f", {name} {short(value)}" for name, value in self.spot.at.items())
        return f"{self.spot.method}{at}" + ("" if self.wanted is None else f", error {self.wanted:g}")

    def with_setting(self, setting: float) -> RunConfig:
        """Its run with a tolerance, or a number of steps.

        Raises:
            Refused: there is none. ValueError: the settings do not allow it.
        """
        config = self.spot.config
        if self.kind == "fewer":
            if config.grid.times is not None or config.grid.sigmas is not None:
                raise Refused("the grid lists its times: there is none with fewer steps")
            return replace(config, grid=config.grid.model_copy(update={"steps": int(setting)}))
        settings = config.solver.settings
        if "tolerance" not in type(settings).model_fields:
            raise Refused(f"{config.solver.name} has no tolerance to seek")
        given = {**settings.model_dump(exclude_unset=True), "tolerance": setting}
        given.pop("error", None)  # whose place a tolerance takes
        return replace(config, solver=Component("solver", config.solver.name, type(settings).model_validate(given)))


def jobs(config: BenchConfig) -> list[Job]:
    """All rows of a bench, in the order of its tables: place by place, method by method."""
    made: list[Job] = []
    metrics = config.settings.metrics.model_dump(mode="json")
    metrics |= contents(metrics)
    seen: set[str] = set()

    def job(kind: str, spot: Spot, wanted: float | None = None, plain: RunConfig | None = None) -> None:
        data = to_data(spot.config)
        how = {name: data[name] for name in ("solver", "window", "run")}
        what = [equation(spot.config), how, kind, wanted, metrics]
        key = identity([*what, spot.method, spot.at])
        if key not in seen:
            seen.add(key)
            made.append(Job(kind, spot, wanted, key, sequentially(plain or spot.config)))

    several = len({spot.method for spot in config.spots if spot.sequential}) > 1
    for spot in config.spots:
        job("given", spot)
    for wanted in sorted(config.settings.errors, reverse=True):
        for spot in config.spots:
            if not spot.sequential:
                job("error", spot, wanted)
        for spot in config.spots:
            if spot.sequential:
                for label, changes in config.fewer.items():
                    chosen = dict(changes["stepper"])
                    stepper = component("stepper", chosen.pop("name"), **chosen)
                    name = f"{label}, for {spot.method}" if several else label
                    less = Spot(name, spot.at, replace(sequentially(spot.config), stepper=stepper))
                    job("fewer", less, wanted, spot.config)
    return made


def short(value: Any) -> str:
    """A value of an axis, for people."""
    if isinstance(value, dict):
        return ", ".join(f"{v}" if k == "name" else f"{k} {v}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
