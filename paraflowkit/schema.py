"""The JSON schema of run files over all installed plugins, for editors."""

from __future__ import annotations

from typing import Any

from paraflowkit import registry
from paraflowkit.config import COMPONENTS, IN_A_WINDOW, SECTIONS
from paraflowkit.errors import PluginError
from paraflowkit.sections import RequestGroup


def schema() -> dict[str, Any]:
    """A draft 2020-12 schema: each component is a union of the installed ones, told apart by ``name``.

    A plugin whose settings cannot be loaded is left out; ``paraflowkit plugins --check`` says why.
    """
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for kind, default in COMPONENTS.items():
        options: list[dict[str, Any]] = []
        for name in registry.names(kind):
            try:
                cls = registry.config_class(kind, name)
            except PluginError:
                continue
            part = cls.model_json_schema(ref_template=f"#/$defs/{kind}.{name}.{{model}}")
            for key, value in part.pop("$defs", {}).items():
                definitions[f"{kind}.{name}.{key}"] = value
            part["properties"] = {"name": {"const": name}, **part.get("properties", {})}
            named = [] if name in (default, IN_A_WINDOW) else ["name"]
            part["required"] = sorted({*part.get("required", []), *named})
            definitions[f"{kind}.{name}"] = part
            options.append({"$ref": f"#/$defs/{kind}.{name}"})
        properties[kind] = {"anyOf": [{"type": "string", "examples": registry.names(kind)}, *options]}
    definitions["request"] = RequestGroup.model_json_schema()
    file = {"type": "string", "pattern": r"\.(jsonl|csv)$"}
    properties["requests"] = {"anyOf": [file, {"type": "array", "items": {"$ref": "#/$defs/request"}, "minItems": 1}]}
    for name, cls in SECTIONS.items():
        properties[name] = cls.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "paraflowkit run",
        "type": "object",
        "properties": properties,
        "required": ["model", "requests"],
        "additionalProperties": False,
        "$defs": definitions,
    }
