"""The description of every route, in OpenAPI 3.1, generated from the code that serves it.

Paths, methods and access come from the route table; request bodies from the models that validate them; responses from
the typed dictionaries that the views fill; summaries from the views' docstrings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Flask
from pydantic import TypeAdapter
from werkzeug.routing import Rule

from edge import bodies
from edge.failure_shapes import Shape, shape_of
from edge.route_table import JSON, ROUTES, Budget, Need, Row
from routes.route_bodies import ANY, EVENTS, HTML, LINES, Model, RouteBodies, route_bodies
from routes.services import services
from telemetry.version import VERSION

SCHEMAS = "#/components/schemas/{model}"
PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
FILE = {"type": "string", "format": "binary", "description": "PNG, JPEG, WebP, GIF, BMP, AVIF or ICO, at most 16 MiB"}
DATA_URL = {"type": "string", "format": "image-data-url", "description": "data:image/png;base64,..."}
ABOUT = (
    "Two language models, one for text and one for questions about images, behind a JSON API and APIs compatible with "
    "OpenAI's and Anthropic's. Every response has the headers `X-Request-ID` and `X-Response-Time`. In a request, "
    "`null` for an optional field means that the field is absent; an unknown field is an error that names it; `/v1` "
    "passes over those that change no answer."
)
FAILURES: Mapping[Shape, Model] = {
    Shape.API: bodies.ApiFailure,
    Shape.OPENAI: bodies.OpenaiFailure,
    Shape.ANTHROPIC: bodies.AnthropicFailure,
}
STATUSES = {
    400: "The request is not valid; the message names the field.",
    401: "The administrator's key is missing or wrong.",
    403: "This caller may not use this address.",
    404: "There is nothing at this address.",
    413: "The body, or an image in it, is too large.",
    415: "The content type, or the format of an image, is not supported.",
    429: "The caller's rate limit is reached; `Retry-After` holds the seconds to wait.",
    500: "The model failed on this request.",
    503: "The service is at capacity or not ready; `Retry-After` holds the seconds to wait.",
    504: "The request did not finish in time.",
}


def describe(app: Flask) -> dict[str, Any]:
    """Return the description of this application, as an OpenAPI 3.1 document."""
    routes = route_bodies(services(app).request_models, services(app).openai_models)
    rules = sorted(app.url_map.iter_rules(), key=lambda rule: list(ROUTES).index(_name(rule)[0]))
    paths: dict[str, Any] = {}
    for rule in rules:
        for name in _name(rule):
            path = PARAMETER.sub(r"{\1}", rule.rule)
            paths.setdefault(path, {})[name.split()[0].lower()] = _operation(app, name, rule, routes.get(name))
    schemas = _schemas(routes)
    _name_models(schemas, app)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Avito AI API", "version": VERSION, "description": ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer", "description": "ADMIN_KEY"}},
        },
    }


def _operation(app: Flask, name: str, rule: Rule, route: RouteBodies | None) -> dict[str, Any]:
    row = ROUTES[name]
    route = route or RouteBodies({ANY: None})
    view = app.view_functions[rule.endpoint]
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [_tag(rule.rule)],
        "summary": (view.__doc__ or rule.endpoint).partition("\n")[0].strip(),
        "responses": _responses(rule, row, route),
    }
    if note := _note(row):
        operation["description"] = note
    if parameters := _parameters(rule, route):
        operation["parameters"] = parameters
    if row.bodies:
        operation["requestBody"] = {"required": True, "content": _request_bodies(row, route)}
    if row.need is Need.LOCAL_OR_ADMIN:
        operation["security"] = [{"admin": []}, {}]
    return operation


def _parameters(rule: Rule, route: RouteBodies) -> list[dict[str, Any]]:
    """Return the parameters in the path and in the query."""
    path = [
        {"name": one, "in": "path", "required": True, "schema": {"type": "string"}}
        for one in PARAMETER.findall(rule.rule)
    ]
    asked = {} if route.query is None else route.query.model_json_schema()["properties"]
    return path + [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in asked.items()]


def _responses(rule: Rule, row: Row, route: RouteBodies) -> dict[str, Any]:
    statuses = {404} if PARAMETER.search(rule.rule) else set()
    statuses |= {400, 413, 415} if row.bodies else set()
    statuses |= {400} if route.query is not None else set()
    statuses |= {429} if row.budget else set()
    statuses |= {500, 503, 504} if row.budget is Budget.GENERATION else set()
    statuses |= {503, 504} if row.budget is Budget.COUNTING else set()
    statuses |= {404} if row.bodies and rule.rule.startswith("/v1") else set()
    statuses |= {401, 403} if row.need not in (Need.OPEN, Need.PROBE) else set()
    success = {
        "description": "Success.",
        "content": {kind: _media_type(model, kind) for kind, model in route.responses.items()},
    }
    failures = {status: _failure(rule.rule, status) for status in sorted(statuses)}
    others = {status: _other(status, model) for status, model in route.more.items()}
    return {str(status): response for status, response in ({route.status: success} | failures | others).items()}


def _other(status: int, model: Model | None) -> dict[str, Any]:
    kind = HTML if model is None else JSON
    return {"description": STATUSES[status], "content": {kind: _media_type(model, kind)}}


def _failure(path: str, status: int) -> dict[str, Any]:
    model = FAILURES.get(shape_of(path))
    kind = HTML if model is None else JSON
    return {"description": STATUSES[status], "content": {kind: _media_type(model, kind)}}


def _media_type(model: Model | None, kind: str) -> dict[str, Any]:
    if model is not None:
        return {"schema": {"$ref": SCHEMAS.format(model=model.__name__)}}
    # Events and lines are a sequence of objects, which a schema of the whole body cannot describe.
    return {} if kind in (ANY, EVENTS, LINES) else {"schema": {"type": "object" if kind == JSON else "string"}}


def _request_bodies(row: Row, route: RouteBodies) -> dict[str, Any]:
    return {kind: _media_type(route.requests.get(kind), JSON) for kind in row.bodies}


def _schemas(routes: Mapping[str, RouteBodies]) -> dict[str, Any]:
    requests = {model for one in routes.values() for model in one.requests.values()}
    responses = {model for one in routes.values() for model in _response_models(one)}
    models: Any = [(model.__name__, "validation", TypeAdapter(model)) for model in requests]
    models += [(model.__name__, "serialization", TypeAdapter(model)) for model in (*responses, *FAILURES.values())]
    models.sort(key=lambda model: model[0])
    _, described = TypeAdapter.json_schemas(models, ref_template=SCHEMAS)
    schemas: dict[str, Any] = described["$defs"]
    for name in ("TextForm", "ImageForm", "ImageAnalyzeForm"):
        _without_null(schemas[name])
    for name in ("ImageForm", "ImageAnalyzeForm"):
        schemas[name]["properties"]["image"] = FILE
        schemas[name]["required"].append("image")
    schemas["ImageAnalyzeRequest"]["properties"]["image"] = DATA_URL
    schemas["ImageUrl"]["properties"]["url"] = DATA_URL
    return schemas


def _without_null(schema: dict[str, Any]) -> None:
    """Remove null from the fields of a form, which cannot send it."""
    for name, described in schema["properties"].items():
        if "anyOf" in described:
            (value,) = [option for option in described["anyOf"] if option != {"type": "null"}]
            schema["properties"][name] = value | {"description": described["description"]}


def _response_models(route: RouteBodies) -> list[Model]:
    return [model for model in (*route.responses.values(), *route.more.values()) if model is not None]


def _name_models(schemas: dict[str, Any], app: Flask) -> None:
    """List the ids that requests can name, in the schemas of the requests."""
    ids = list(dict.fromkeys(name for _, one in services(app).models for name in (one.info.name, one.info.served_id)))
    for name in (
        "ChatCompletionRequest",
        "CompletionRequest",
        "TokenizationRequest",
        "DetokenizationRequest",
        "ResponseRequest",
        "MessagesRequest",
        "CountTokensRequest",
    ):
        schemas[name]["properties"]["model"]["enum"] = ids


def _name(rule: Rule) -> list[str]:
    return [f"{method} {rule.rule}" for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})]


def _tag(path: str) -> str:
    if path.startswith("/v1"):
        return "Anthropic's API" if shape_of(path) is Shape.ANTHROPIC else "OpenAI's API"
    if path.startswith("/api/v1"):
        return "JSON API"
    return "Operation" if path.startswith(("/api", "/metrics", "/status")) else "Pages"


def _note(row: Row) -> str:
    """Return who may use the route and whether it is rate limited."""
    notes = []
    if row.need is Need.LOCAL_OR_ADMIN:
        notes.append("For programs on the same machine, and with the administrator's key.")
    if row.budget is Budget.GENERATION:
        notes.append(
            "Counts against the caller's rate limit"
            + (", once for each answer that is requested." if row.cost_in_body else ".")
        )
    return " ".join(notes)
