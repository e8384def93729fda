"""The description of the API: for programs at /api/openapi.json, for people at /api/docs, in the reader's language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, current_app, render_template
from markupsafe import Markup, escape

from edge.route_table import ROUTES
from routes.code_samples import CodeSample, code_samples
from routes.compressed import kept_compressed
from routes.description import PARAMETER, notes
from routes.locale import LOCALES, Locale, visitors_locale
from routes.route_bodies import route_bodies
from routes.sections import SECTIONS, section_of
from routes.services import services
from routes.site_address import ADDRESS, site_address

docs = Blueprint("docs", __name__)
CODE = re.compile("`([^`]+)`")


@docs.get("/api/openapi.json")
def openapi() -> Response:
    """Return this description, as OpenAPI 3.1."""
    return current_app.response_class(services().api_description_json(), mimetype="application/json")


@docs.get("/api/docs")
def page() -> Response:
    """Show this description as a page."""
    return kept_compressed(services().docs_page(visitors_locale().code).replace(ADDRESS, site_address()))


def render_page(language: str) -> str:
    """Return the page in a language, in which ADDRESS is that of the service. Nothing of a request may be in it."""
    locale = LOCALES[language]
    return render_template(
        "docs.html",
        t=locale.texts,
        lang=locale.code,
        site=ADDRESS,
        languages=LOCALES,
        api=services().api_description(),
        sections=_sections(locale),
        keys=services().authenticator.demanded,
        body_fields=_fields,
        type_of=type_of,
        prose=prose,
    )


def _sections(locale: Locale) -> list[dict[str, Any]]:
    """Return the sections that have routes, with their operations."""
    bodies, keys = route_bodies(services().request_models, services().openai_models), services().authenticator.demanded
    operations: dict[str, list[dict[str, Any]]] = {section.key: [] for section in SECTIONS}
    for name in ROUTES:
        samples = code_samples(name, bodies[name], keys) if name in bodies else []
        operations[section_of(name.split()[1]).key].append(_operation(name, locale.texts["docs"], samples))
    return [{"key": key, "operations": found} for key, found in operations.items() if found]


def _operation(name: str, texts: Mapping[str, Any], samples: list[CodeSample]) -> dict[str, Any]:
    method, path = name.split()[0], PARAMETER.sub(r"{\1}", name.split()[1])
    described = services().api_description()["paths"][path][method.lower()]
    return {
        "id": described["operationId"],
        "method": method,
        "path": path,
        "summary": texts["operations"].get(described["operationId"], described["summary"]),
        "notes": notes(ROUTES[name], texts),
        "samples": samples,
        "parameters": _as_object([one for one in described["parameters"] if "name" in one]),
        "bodies": described.get("requestBody", {}).get("content", {}),
        "responses": described["responses"],
    }


def _as_object(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the parameters of a route as the fields of an object."""
    required = [one["name"] for one in parameters if one["required"]]
    return (
        {"properties": {one["name"]: one["schema"] for one in parameters}, "required": required} if parameters else {}
    )


def _fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of an object, the required ones first: name, type, whether it is required, and description."""
    schema = _resolved(schema or {})
    required = schema.get("required", [])
    rows = [
        {
            "name": name,
            "type": type_of(inner),
            "required": name in required,
            "about": inner.get("description") or _resolved(inner).get("description", ""),
        }
        for name, inner in schema.get("properties", {}).items()
    ]
    return sorted(rows, key=lambda row: not row["required"])


def prose(text: str) -> Markup:
    """Return a text of the description as markup: Markdown's backticks become code elements."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))  # nosec B704 # escaped before


def type_of(schema: dict[str, Any]) -> Markup:
    """Return a schema in a few words; the name of another one is a link to it."""
    if "$ref" in schema:
        return Markup('<a href="#schema-{0}">{0}</a>').format(schema["$ref"].rpartition("/")[2])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        kinds = dict.fromkeys(type_of(option) for option in options if option.get("type") != "null")
        return Markup(" or ").join(kinds)
    if "const" in schema or "enum" in schema:
        return escape(" | ".join(str(value) for value in schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return Markup("list of {}").format(type_of(schema.get("items", {})))
    return escape(schema.get("type", "anything"))


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = services().api_description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found
