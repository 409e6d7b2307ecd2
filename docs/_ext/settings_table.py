"""The directive ``settings``: a table of a configuration class, read from the class itself."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin

from docutils import nodes
from docutils.parsers.rst import directives
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def words(kind: Any) -> str:
    """A type as a reader of YAML sees it."""
    if get_origin(kind) is Literal:
        return " | ".join(str(choice) for choice in get_args(kind))
    if kind is type(None):
        return "null"
    parts = get_args(kind)
    if get_origin(kind) is Annotated:
        return words(parts[0])
    if get_origin(kind) is list:
        return f"list of {words(parts[0])}"
    if get_origin(kind) is not None and parts and get_origin(kind) is not dict:
        return " | ".join(dict.fromkeys(words(part) for part in parts if not isinstance(part, FieldInfo)))
    return {"str": "text", "int": "integer", "float": "number", "bool": "true | false"}.get(
        getattr(kind, "__name__", str(kind)), getattr(kind, "__name__", str(kind))
    )


def default(field: FieldInfo) -> str:
    """The default as YAML would write it."""
    value = field.get_default(call_default_factory=not field.default_factory_takes_validated_data)
    if value is PydanticUndefined:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, BaseModel):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


class Settings(SphinxDirective):
    """``{settings} package.module:Class``."""

    required_arguments = 1
    option_spec = {"omit": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].partition(":")
        fields: dict[str, FieldInfo] = getattr(import_module(module), name).model_fields
        omit = self.options.get("omit", "").split()
        shown = {field.alias or key: field for key, field in fields.items() if key not in omit}
        if not shown:
            return [nodes.paragraph(text="It has no settings.")]
        table = nodes.table()
        group = nodes.tgroup(cols=4)
        table += group
        for width in (15, 20, 15, 50):
            group += nodes.colspec(colwidth=width)
        head = nodes.thead()
        head += self.row(["setting", "value", "default", "meaning"], code=False)
        group += head
        body = nodes.tbody()
        for key, field in shown.items():
            body += self.row([key, words(field.annotation), default(field), field.description or ""])
        group += body
        return [table]

    def row(self, cells: list[str], code: bool = True) -> nodes.row:
        row = nodes.row()
        for number, text in enumerate(cells):
            entry = nodes.entry()
            paragraph = nodes.paragraph()
            paragraph += nodes.literal(text=text) if code and number in (0, 2) and text else nodes.Text(text)
            entry += paragraph
            row += entry
        return row


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
