"""The description of every route, in OpenAPI 3.1, generated from the code that serves it.

Paths, methods and access come from the route table; bodies from `described_schemas`; headings and summaries from the
English locale, which the page at /api/docs shows in the reader's language; sections from `sections`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from edge import bodies, operator_session
from edge.failure_shapes import FailureShape, shape_of
from edge.route_table import JSON, ROUTES, Budget, Need, Row, names_of
from routes.code_samples import CodeSample, code_samples
from routes.described_schemas import SCHEMAS, component_schemas, query_schema
from routes.locale import DEFAULT, LOCALES
from routes.route_bodies import EVENTS, FILES, HTML, LINES, MANIFEST, TEXT, Model, RouteBodies, route_bodies
from routes.sections import SECTIONS, section_of
from routes.services import services
from telemetry.version import VERSION

PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
LICENSE = {"name": "Internal use only", "identifier": "LicenseRef-Avito-internal"}
FAILURES: Mapping[FailureShape, Model] = {
    FailureShape.API: bodies.ApiFailure,
    FailureShape.OPENAI: bodies.OpenaiFailure,
    FailureShape.ANTHROPIC: bodies.AnthropicFailure,
}
STATUSES = {
    400: "The request is not valid; the message names the field that is wrong, if it is one.",
    401: "The key is missing, wrong, disabled or expired.",
    403: "This caller may not use this address, this model, or this form from another page.",
    404: "There is nothing at this address.",
    413: "The body, or an image in it, is too large.",
    415: "The content type, or the format of an image, is not supported.",
    429: "A limit of requests or of wrong keys is reached; `Retry-After`, and `retry_after` in JSON, hold the seconds.",
    500: "The model failed on this request.",
    502: "The server that answers for the model failed, where it is another one.",
    503: "The service is at capacity or not ready; `Retry-After` holds the seconds to wait.",
    504: "The request did not finish in time.",
}
REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "1 to 128 letters, digits, `.`, `_` or `-`, to be the request's id; any other value is replaced.",
    "schema": {"type": "string"},
}
REDIRECTS = {303: "Done; the page is at `Location`."}
LOCATION = {"description": "The address of the page.", "schema": {"type": "string"}}
SECURITY_SCHEMES = {
    "client": {"type": "http", "scheme": "bearer", "description": "A client's key or token, where AUTH asks for one"},
    "clientKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same"},
    "admin": {"type": "http", "scheme": "bearer", "description": "ADMIN_KEY"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": operator_session.COOKIE,
        "description": "Of the sign-in form",
    },
}
# Who may call a route: any one of these. {} is a caller without a key, from the same machine where a key is an option.
SECURITY: Mapping[Need, list[dict[str, list[str]]]] = {
    Need.OPEN: [{}],
    Need.PROBE: [{}],
    Need.CLIENT: [{"client": []}, {"clientKey": []}, {}],
    Need.LOCAL_OR_ADMIN: [{"admin": []}, {}],
    Need.OPERATOR: [{"session": []}, {"admin": []}, {}],
}


def describe(app: Flask) -> dict[str, Any]:
    """Return the description of this application, as an OpenAPI 3.1 document."""
    routes = route_bodies(services(app).request_models, services(app).openai_models)
    rules = {name: rule for rule in app.url_map.iter_rules() for name in names_of(rule)}
    paths: dict[str, Any] = {}
    for name in sorted(rules, key=_order):
        rule = rules[name]
        path = PARAMETER.sub(r"{\1}", rule.rule)
        paths.setdefault(path, {})[name.split()[0].lower()] = _operation(app, name, rule, routes.get(name))
    texts = LOCALES[DEFAULT].texts["docs"]
    ids = services(app).model_names.described(services(app).models)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Avito AI API", "version": VERSION, "description": texts["about"], "license": LICENSE},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": texts["sections"][one.key]["heading"], "description": texts["sections"][one.key]["about"]}
            for one in SECTIONS
        ],
        "paths": paths,
        "components": {
            "schemas": component_schemas(routes, FAILURES.values(), ids),
            "parameters": {"RequestId": REQUEST_ID},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _order(name: str) -> tuple[int, int]:
    return SECTIONS.index(section_of(name.split()[1])), list(ROUTES).index(name)


def _operation(app: Flask, name: str, rule: Rule, route: RouteBodies | None) -> dict[str, Any]:
    row = ROUTES[name]
    route = route or RouteBodies(dict.fromkeys(FILES))
    view, texts = app.view_functions[rule.endpoint], LOCALES[DEFAULT].texts["docs"]
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [texts["sections"][section_of(rule.rule).key]["heading"]],
        "summary": texts["operations"].get(rule.endpoint.replace(".", "_"), (view.__doc__ or "").partition("\n")[0]),
        "security": SECURITY[row.need],
        "responses": _responses(rule, row, route),
    }
    if found := notes(row, texts):
        operation["description"] = " ".join(found)
    operation["parameters"] = [*_parameters(rule, route), {"$ref": "#/components/parameters/RequestId"}]
    samples = code_samples(name, route, services(app).authenticator.demanded)
    if row.bodies:
        operation["requestBody"] = {"required": True, "content": _request_bodies(row, route, samples)}
    if samples:
        operation["x-codeSamples"] = [shown for one in samples for shown in _programs(one)]
    return operation


def _programs(sample: CodeSample) -> list[dict[str, str]]:
    """Return an example as those who show OpenAPI documents read programs."""
    named = LOCALES[DEFAULT].texts["docs"]["examples"][sample.key]
    return [
        {"lang": "Shell", "label": f"{named}, curl", "source": sample.curl},
        {"lang": "Python", "label": f"{named}, Python", "source": sample.python},
    ]


def _parameters(rule: Rule, route: RouteBodies) -> list[dict[str, Any]]:
    """Return the parameters in the path and in the query."""
    path = [
        {"name": one, "in": "path", "required": True, "schema": {"type": "string"}}
        for one in PARAMETER.findall(rule.rule)
    ]
    asked = {} if route.query is None else query_schema(route.query)
    return path + [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in asked.items()]


def _responses(rule: Rule, row: Row, route: RouteBodies) -> dict[str, Any]:
    statuses = {400, 404} if PARAMETER.search(rule.rule) else {400}
    statuses |= {413, 415} if row.bodies else set()
    keyed = row.need not in (Need.OPEN, Need.PROBE)
    statuses |= {401} if keyed else set()
    statuses |= {403} if keyed or row.own_page or row.form_token else set()
    statuses |= {429} if keyed or row.budget else set()  # wrong keys have a limit of their own
    statuses |= {500, 502, 503, 504} if row.budget is Budget.GENERATION else set()
    statuses |= {503, 504} if row.budget is Budget.COUNTING else set()
    statuses |= {404} if row.bodies and rule.rule.startswith("/v1") else set()
    success = {
        "description": "Success.",
        "content": {kind: _media_type(model, kind) for kind, model in route.responses.items()},
    }
    failures = {status: _failure(rule.rule, status) for status in sorted(statuses)}
    others = {status: _other(status, model) for status, model in route.more.items()}
    found = {route.status: success, **failures, **others}
    if route.status in REDIRECTS:
        found[route.status] = success | {"description": REDIRECTS[route.status], "headers": {"Location": LOCATION}}
        found[200] = success | {"description": "The page, to a client that follows the redirect."}
    return {str(status): response for status, response in sorted(found.items())}


def _other(status: int, model: Model | None) -> dict[str, Any]:
    kind = HTML if model is None else JSON
    return {"description": STATUSES[status], "content": {kind: _media_type(model, kind)}}


def _failure(path: str, status: int) -> dict[str, Any]:
    model = FAILURES.get(shape_of(path))
    # What is refused before any route is looked at, such as malformed HTTP, is plain text where failures are pages.
    kinds = (JSON,) if model else (HTML, TEXT) if status == 400 else (HTML,)
    return {"description": STATUSES[status], "content": {kind: _media_type(model, kind) for kind in kinds}}


def _media_type(model: Model | None, kind: str) -> dict[str, Any]:
    if model is not None:
        return {"schema": {"$ref": SCHEMAS.format(model=model.__name__)}}
    # Events and lines are a sequence of objects, which a schema of the whole body cannot describe.
    if kind in (EVENTS, LINES) or kind in (*FILES, MANIFEST):
        return {}
    return {"schema": {"type": "object" if kind == JSON else "string"}}


def _request_bodies(row: Row, route: RouteBodies, samples: list[CodeSample]) -> dict[str, Any]:
    names = LOCALES[DEFAULT].texts["docs"]["examples"]
    content = {kind: _media_type(route.requests.get(kind), JSON) for kind in row.bodies}
    shown = {one.key: {"summary": names[one.key], "value": one.body} for one in samples if one.body is not None}
    if shown:
        content[JSON]["examples"] = shown
    return content


def notes(row: Row, texts: Mapping[str, Any]) -> list[str]:
    """Return who may use a route, and whether it is rate limited. texts: those of the description in a language."""
    access = [texts["access"][row.need.value]] if row.need.value in texts["access"] else []
    charged = [texts["charged_each" if row.cost_in_body else "charged"]] if row.budget is Budget.GENERATION else []
    return access + charged
