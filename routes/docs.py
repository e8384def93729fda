"""The description of the API: for programs at /api/openapi.json, for people at /api/docs."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, jsonify, render_template
from markupsafe import Markup, escape

from routes.services import services

docs = Blueprint("docs", __name__)
CODE = re.compile("`([^`]+)`")


@docs.get("/api/openapi.json")
def openapi() -> Response:
    """Return this description, as OpenAPI 3.1."""
    return jsonify(services().api_description())


@docs.get("/api/docs")
def page() -> str:
    """Show this description as a page."""
    return render_template(
        "docs.html", api=services().api_description(), body_fields=_fields, type_of=type_of, prose=prose
    )


def _fields(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of a body: name, type, whether they are required, and their description."""
    schema = _resolved(content.get("schema", {}))
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "type": type_of(inner),
            "required": name in required,
            "about": inner.get("description") or _resolved(inner).get("description", ""),
        }
        for name, inner in schema.get("properties", {}).items()
    ]


def prose(text: str) -> Markup:
    """Return a text of the description as markup: Markdown's backticks become code elements."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))  # nosec B704 # escaped before


def type_of(schema: dict[str, Any]) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(type_of(option) for option in options if option.get("type") != "null"))
    if "const" in schema or "enum" in schema:
        return " | ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = services().api_description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found
