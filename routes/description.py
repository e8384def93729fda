"""The description of every route, in OpenAPI 3.1, made from what the service runs on.

Paths, methods and what each route needs come from the routing table; bodies from the very models that validate them;
answers from the typed dictionaries that the views fill; summaries from the views' docstrings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask
from pydantic import BaseModel, TypeAdapter
from werkzeug.routing import Rule

from edge import bodies
from edge.route_table import FORM, JSON, MULTIPART, ROUTES, Budget, Need, Row
from routes import response_models
from routes.openai.requests import OpenaiModels
from routes.request_models import LanguageForm, RequestModels, SignInForm
from routes.services import services
from telemetry.version import VERSION

Model = type[BaseModel] | type[bodies.Body]

ANY, HTML, TEXT, EVENTS, LINES = "*/*", "text/html", "text/plain", "text/event-stream", "application/x-ndjson"
SCHEMAS = "#/components/schemas/{model}"
PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
FILE = {"type": "string", "format": "binary", "description": "PNG, JPEG, WebP, GIF or BMP, at most 16 MiB"}
DATA_URL = {"type": "string", "format": "image-data-url", "description": "data:image/png;base64,..."}
ABOUT = (
    "Text and pictures in, text out: two language models behind a JSON API and behind OpenAI's. Every answer carries "
    "`X-Request-ID` and `X-Response-Time`. In requests `null` stands for an absent field, unknown fields are refused "
    "by name."
)
STATUSES = {
    400: "The request is wrong; the message names the field.",
    401: "The administrator's key is missing or wrong.",
    403: "This caller may not use this address.",
    404: "There is nothing at this address.",
    413: "The body, or a picture in it, is too large.",
    415: "This content type, or this kind of picture, is not read here.",
    429: "The caller's budget is spent; `Retry-After` says for how long.",
    500: "The model failed on this request.",
    503: "Every place is taken, or the models are not ready; `Retry-After` says when to come back.",
    504: "The request was not done in its time.",
}


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a route reads and answers, by content type (None: a text); more: answers of its own beside the usual."""

    answers: Mapping[str, Model | None]
    bodies: Mapping[str, Model] = field(default_factory=dict)
    status: int = 200
    more: Mapping[int, Model | None] = field(default_factory=dict)


def describe(app: Flask) -> dict[str, Any]:
    """Return the description of this application, as an OpenAPI 3.1 document."""
    spoken = _spoken(services(app).request_models, services(app).openai_models)
    rules = sorted(app.url_map.iter_rules(), key=lambda rule: list(ROUTES).index(_name(rule)[0]))
    paths: dict[str, Any] = {}
    for rule in rules:
        for name in _name(rule):
            path = PARAMETER.sub(r"{\1}", rule.rule)
            paths.setdefault(path, {})[name.split()[0].lower()] = _operation(app, name, rule, spoken.get(name))
    schemas = _schemas(spoken)
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


def _spoken(own: RequestModels, openai: OpenaiModels) -> dict[str, Spoken]:
    page, answer = {HTML: None}, response_models.GenerationAnswer
    return {
        "GET /": Spoken(page),
        "GET /state": Spoken(page),
        "GET /status": Spoken(page),
        "GET /status/figures": Spoken(page),
        "GET /status/samples": Spoken({JSON: None}),
        "POST /language": Spoken(page, _form(LanguageForm), status=303),
        "POST /status/sign-in": Spoken(page, _form(SignInForm), status=303, more={401: None, 429: None}),
        "POST /status/sign-out": Spoken(page, status=303),
        "GET /api/docs": Spoken(page),
        "POST /avibe": Spoken(page, _form(own.text)),
        "POST /avision": Spoken(page, {MULTIPART: own.image}),
        "GET /avibe": Spoken(page, status=303),
        "GET /avision": Spoken(page, status=303),
        "POST /api/v1/text/generate": Spoken({JSON: answer, EVENTS: None}, {JSON: own.text_json}),
        "POST /api/v1/text/batch": Spoken({LINES: None}, {JSON: own.batch}),
        "POST /api/v1/image/analyze": Spoken(
            {JSON: answer, EVENTS: None}, {MULTIPART: own.image_form, JSON: own.image_json}
        ),
        "GET /v1/models": Spoken({JSON: response_models.ModelList}),
        "GET /v1/models/<path:model_id>": Spoken({JSON: response_models.ModelEntry}),
        "POST /v1/chat/completions": Spoken({JSON: response_models.ChatCompletion, EVENTS: None}, {JSON: openai.chat}),
        "POST /v1/completions": Spoken({JSON: response_models.TextCompletion, EVENTS: None}, {JSON: openai.completion}),
        "GET /api/health": Spoken({JSON: bodies.Health}),
        "GET /api/health/ready": Spoken({JSON: bodies.Readiness}, more={503: bodies.Readiness}),
        "GET /api/health/live": Spoken({JSON: bodies.Liveness}, more={503: bodies.Liveness}),
        "GET /api/metrics": Spoken({JSON: bodies.JsonFigures}),
        "POST /api/metrics/reset": Spoken({JSON: bodies.ResetAnswer}),
        "GET /metrics": Spoken({TEXT: None}),
        "GET /api/openapi.json": Spoken({JSON: None}),
    }


def _form(model: Model) -> dict[str, Model]:
    return {FORM: model, MULTIPART: model}


def _operation(app: Flask, name: str, rule: Rule, spoken: Spoken | None) -> dict[str, Any]:
    row = ROUTES[name]
    said = spoken or Spoken({ANY: None})
    view = app.view_functions[rule.endpoint]
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [_tag(rule.rule)],
        "summary": (view.__doc__ or rule.endpoint).partition("\n")[0].strip(),
        "responses": _responses(rule, row, said),
    }
    if note := _note(row):
        operation["description"] = note
    if names := PARAMETER.findall(rule.rule):
        operation["parameters"] = [
            {"name": one, "in": "path", "required": True, "schema": {"type": "string"}} for one in names
        ]
    if row.bodies:
        operation["requestBody"] = {"required": True, "content": _bodies(row, said)}
    if row.need is Need.LOCAL_OR_ADMIN:
        operation["security"] = [{"admin": []}, {}]
    return operation


def _responses(rule: Rule, row: Row, said: Spoken) -> dict[str, Any]:
    statuses = {404} if PARAMETER.search(rule.rule) else set()
    statuses |= {400, 413, 415} if row.bodies else set()
    statuses |= {429} if row.budget else set()
    statuses |= {500, 503, 504} if row.budget is Budget.GENERATION else set()
    statuses |= {404} if row.cost_in_body and rule.rule.startswith("/v1") else set()
    statuses |= {401, 403} if row.need not in (Need.OPEN, Need.PROBE) else set()
    good = {
        "description": "As asked.",
        "content": {kind: _content(model, kind) for kind, model in said.answers.items()},
    }
    failures = {status: _failure(rule.rule, status) for status in sorted(statuses)}
    told = {status: _told(status, model) for status, model in said.more.items()}
    return {str(status): response for status, response in ({said.status: good} | failures | told).items()}


def _told(status: int, model: Model | None) -> dict[str, Any]:
    kind = HTML if model is None else JSON
    return {"description": STATUSES[status], "content": {kind: _content(model, kind)}}


def _failure(path: str, status: int) -> dict[str, Any]:
    shown: tuple[str, Model | None] = (HTML, None)
    if path.startswith("/api"):
        shown = (JSON, bodies.ApiFailure)
    elif path.startswith("/v1"):
        shown = (JSON, bodies.OpenaiFailure)
    return {"description": STATUSES[status], "content": {shown[0]: _content(shown[1], shown[0])}}


def _content(model: Model | None, kind: str) -> dict[str, Any]:
    if model is not None:
        return {"schema": {"$ref": SCHEMAS.format(model=model.__name__)}}
    # An event or a line is one object after another, which no schema of a whole body can tell.
    return {} if kind in (ANY, EVENTS, LINES) else {"schema": {"type": "object" if kind == JSON else "string"}}


def _bodies(row: Row, said: Spoken) -> dict[str, Any]:
    return {kind: _content(said.bodies.get(kind), JSON) for kind in row.bodies}


def _schemas(spoken: Mapping[str, Spoken]) -> dict[str, Any]:
    asked = {model for one in spoken.values() for model in one.bodies.values()}
    given = {model for one in spoken.values() for model in _shapes_of(one)}
    models: Any = [(model.__name__, "validation", TypeAdapter(model)) for model in asked]
    models += [
        (model.__name__, "serialization", TypeAdapter(model))
        for model in (*given, bodies.ApiFailure, bodies.OpenaiFailure)
    ]
    models.sort(key=lambda model: model[0])
    _, made = TypeAdapter.json_schemas(models, ref_template=SCHEMAS)
    schemas: dict[str, Any] = made["$defs"]
    for name in ("TextForm", "ImageForm", "ImageAnalyzeForm"):
        _without_null(schemas[name])
    for name in ("ImageForm", "ImageAnalyzeForm"):
        schemas[name]["properties"]["image"] = FILE
        schemas[name]["required"].append("image")
    schemas["ImageAnalyzeRequest"]["properties"]["image"] = DATA_URL
    schemas["ImageUrl"]["properties"]["url"] = DATA_URL
    return schemas


def _without_null(schema: dict[str, Any]) -> None:
    """Leave out what a form cannot say: an absent field is not sent."""
    for name, described in schema["properties"].items():
        if "anyOf" in described:
            (value,) = [option for option in described["anyOf"] if option != {"type": "null"}]
            schema["properties"][name] = value | {"description": described["description"]}


def _shapes_of(said: Spoken) -> list[Model]:
    return [model for model in (*said.answers.values(), *said.more.values()) if model is not None]


def _name_models(schemas: dict[str, Any], app: Flask) -> None:
    """Put the ids that can be asked for where a request names one."""
    ids = list(dict.fromkeys(name for _, one in services(app).models for name in (one.info.name, one.info.served_id)))
    for name in ("ChatCompletionRequest", "CompletionRequest"):
        schemas[name]["properties"]["model"]["enum"] = ids


def _name(rule: Rule) -> list[str]:
    return [f"{method} {rule.rule}" for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})]


def _tag(path: str) -> str:
    if path.startswith("/v1"):
        return "OpenAI's API"
    if path.startswith("/api/v1"):
        return "JSON API"
    return "Operation" if path.startswith(("/api", "/metrics", "/status")) else "Pages"


def _note(row: Row) -> str:
    """Return what a caller should know of the route before request_reading."""
    notes = []
    if row.need is Need.LOCAL_OR_ADMIN:
        notes.append("Answers programs on the same machine, and the administrator's key.")
    if row.budget is Budget.GENERATION:
        notes.append(
            "Counts against the caller's budget"
            + (", as many times as answers are asked for." if row.cost_in_body else ".")
        )
    return " ".join(notes)
