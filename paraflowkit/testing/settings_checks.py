"""The check that every kind of component shares: its settings and its declaration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from paraflowkit.core import API_VERSION
from paraflowkit.testing._base import check, fail


@check("model", "stepper", "solver", "window")
def check_settings(component: Any) -> None:
    """The class is of this interface version; its settings are frozen, refuse unknown names and survive JSON."""
    cls = type(component)
    version = getattr(cls, "api_version", None)
    if version != API_VERSION:
        fail(
            f"api_version is {version}, this paraflowkit has {API_VERSION}",
            "the registry will refuse the class: do not set api_version yourself",
        )
    config_cls, config = getattr(cls, "config_cls", None), getattr(component, "config", None)
    if not (isinstance(config_cls, type) and issubclass(config_cls, BaseModel)):
        fail("config_cls is no pydantic class", "set it to a subclass of ComponentConfig (SolverConfig for a solver)")
    if not isinstance(config, config_cls):
        fail(
            f"config is {type(config).__name__} and not the class's config_cls {config_cls.__name__}",
            "the constructor takes one object of config_cls and keeps it as self.config",
        )
    if not config_cls.model_config.get("frozen"):
        fail("the settings can be changed after construction", "derive them from ComponentConfig, which is frozen")
    try:
        config_cls.model_validate({**config.model_dump(), "no_such_setting": 1})
    except ValidationError:
        pass
    else:
        fail(
            "an unknown setting is accepted, so a misspelt one has no effect and says nothing",
            'derive the settings from ComponentConfig, which forbids them (extra="forbid")',
        )
    if config_cls.model_validate_json(config.model_dump_json()) != config:
        fail("the settings read back from JSON are others", "use types that JSON knows: a run file holds nothing else")
    config_cls.model_json_schema()  # editors read it; pydantic raises for types that have none
