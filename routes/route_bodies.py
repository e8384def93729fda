"""The bodies that each route reads and sends, by content type: the part of OpenAPI that no other code declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from edge import bodies
from edge.route_table import FORM, JSON, MULTIPART
from routes import response_models
from routes.anthropic.bodies import MessageAnswer, TokenCount
from routes.anthropic.requests import CountTokensRequest, MessagesRequest
from routes.csv_answer import CSV
from routes.openai.requests import OpenaiModels
from routes.openai.responses import bodies as responses
from routes.openai.responses.requests import InputItemsQuery, ResponseRequest
from routes.openai.tokenization import DetokenizationRequest, TokenizationRequest
from routes.request_models import (
    ClientSignInForm,
    FeedbackRequest,
    KeyForm,
    LanguageForm,
    LanguageQuery,
    OperatorSignInForm,
    RequestModels,
    RotateForm,
    TokenForm,
)
from routes.usage_bodies import AuditQuery, AuditTrail, OwnUsage, OwnUsageQuery, UsageQuery, UsageReport

Model = type[BaseModel] | type[bodies.Body]

HTML, TEXT, EVENTS, LINES = "text/html", "text/plain", "text/event-stream", "application/x-ndjson"
ICON, MANIFEST = "image/vnd.microsoft.icon", "application/manifest+json"
FILES = ("text/css", "text/javascript", "image/svg+xml", "image/png", ICON, "application/octet-stream")  # of the pages


@dataclass(frozen=True, slots=True)
class RouteBodies:
    """The bodies of a route by content type, of responses (None: a text) and of requests.

    more: bodies of further statuses than those that the route table implies; query: the parameters of the query.
    """

    responses: Mapping[str, Model | None]
    requests: Mapping[str, Model] = field(default_factory=dict)
    status: int = 200
    more: Mapping[int, Model | None] = field(default_factory=dict)
    query: type[BaseModel] | None = None


Bodies = dict[str, RouteBodies]
PAGE: Mapping[str, Model | None] = {HTML: None}
LOST: Mapping[int, Model | None] = {404: None, 503: None}  # a page that needs the database, of a key


def route_bodies(own: RequestModels, openai: OpenaiModels) -> Bodies:
    """Return the bodies of every route, by its name in the route table."""
    return _pages(own) | _operators_pages() | _own_api(own) | _protocols(openai) | _operation()


def _pages(own: RequestModels) -> Bodies:
    """Return those of what a visitor sees."""
    return {
        "GET /": RouteBodies(PAGE),
        "GET /state": RouteBodies(PAGE),
        "GET /favicon.ico": RouteBodies({ICON: None}),
        "GET /manifest.webmanifest": RouteBodies({MANIFEST: None}),
        "GET /language": RouteBodies(PAGE, status=303),
        "POST /language": RouteBodies(PAGE, _form(LanguageForm), status=303, query=LanguageQuery),
        "GET /sign-in": RouteBodies(PAGE, status=303),
        "POST /sign-in": RouteBodies(PAGE, _form(ClientSignInForm), status=303, more={401: None, 429: None}),
        "POST /sign-out": RouteBodies(PAGE, _form(TokenForm), status=303),
        "GET /api/docs": RouteBodies(PAGE),
        "POST /avibe": RouteBodies(PAGE, _form(own.text)),
        "POST /avision": RouteBodies(PAGE, {MULTIPART: own.image}),
        "GET /avibe": RouteBodies(PAGE, status=303),
        "GET /avision": RouteBodies(PAGE, status=303),
    }


def _operators_pages() -> Bodies:
    """Return those of the pages of who runs the service."""
    return {
        "GET /status": RouteBodies(PAGE),
        "GET /status/figures": RouteBodies(PAGE),
        "GET /status/samples": RouteBodies({JSON: None}),
        "GET /status/keys": RouteBodies(PAGE, more=LOST),
        "GET /status/keys/new": RouteBodies(PAGE),
        "POST /status/keys": RouteBodies(PAGE, _form(KeyForm), more=LOST),
        "GET /status/keys/<key_id>": RouteBodies(PAGE, more=LOST),
        "POST /status/keys/<key_id>": RouteBodies(PAGE, _form(KeyForm), status=303, more=LOST),
        "POST /status/keys/<key_id>/disable": RouteBodies(PAGE, _form(TokenForm), status=303, more=LOST),
        "POST /status/keys/<key_id>/enable": RouteBodies(PAGE, _form(TokenForm), status=303, more=LOST),
        "POST /status/keys/<key_id>/rotate": RouteBodies(PAGE, _form(RotateForm), more=LOST),
        "POST /status/keys/<key_id>/delete": RouteBodies(PAGE, _form(TokenForm), status=303, more=LOST),
        "GET /status/usage": RouteBodies(PAGE, more={503: None}),
        "GET /status/audit": RouteBodies(PAGE, more={503: None}),
        "POST /status/sign-in": RouteBodies(PAGE, _form(OperatorSignInForm), status=303, more={401: None, 429: None}),
        "POST /status/sign-out": RouteBodies(PAGE, _form(TokenForm), status=303),
        "GET /status/usage.csv": RouteBodies({CSV: None}, query=UsageQuery),
    }


def _own_api(own: RequestModels) -> Bodies:
    """Return those of the JSON API."""
    answer = response_models.GenerationAnswer
    return {
        "POST /api/v1/text/generate": RouteBodies({JSON: answer, EVENTS: None}, {JSON: own.text_json}),
        "POST /api/v1/text/batch": RouteBodies({LINES: None}, {JSON: own.batch}),
        "POST /api/v1/image/analyze": RouteBodies(
            {JSON: answer, EVENTS: None}, {MULTIPART: own.image_form, JSON: own.image_json}
        ),
        "POST /api/v1/feedback": RouteBodies(
            {JSON: response_models.FeedbackAnswer}, {JSON: FeedbackRequest}, more={404: bodies.ApiFailure}
        ),
        "GET /api/v1/streams/<stream_id>": RouteBodies({EVENTS: None}),
        "DELETE /api/v1/streams/<stream_id>": RouteBodies({JSON: response_models.StoppedStream}),
        "GET /api/v1/usage": RouteBodies({JSON: OwnUsage, CSV: None}, query=OwnUsageQuery),
    }


def _protocols(openai: OpenaiModels) -> Bodies:
    """Return those of OpenAI's and Anthropic's protocols."""
    return {
        "GET /v1/models": RouteBodies({JSON: response_models.ModelList}),
        "GET /v1/models/<path:model_id>": RouteBodies({JSON: response_models.ModelEntry}),
        "POST /v1/chat/completions": RouteBodies(
            {JSON: response_models.ChatCompletion, EVENTS: None}, {JSON: openai.chat}
        ),
        "POST /v1/completions": RouteBodies(
            {JSON: response_models.TextCompletion, EVENTS: None}, {JSON: openai.completion}
        ),
        "POST /v1/tokenize": RouteBodies({JSON: response_models.Tokenization}, {JSON: TokenizationRequest}),
        "POST /v1/detokenize": RouteBodies({JSON: response_models.Detokenization}, {JSON: DetokenizationRequest}),
        "POST /v1/responses": RouteBodies({JSON: responses.ResponseObject, EVENTS: None}, {JSON: ResponseRequest}),
        "POST /v1/responses/input_tokens": RouteBodies({JSON: responses.InputTokenCount}, {JSON: ResponseRequest}),
        "GET /v1/responses/<response_id>": RouteBodies({JSON: responses.ResponseObject}),
        "DELETE /v1/responses/<response_id>": RouteBodies({JSON: responses.DeletedResponse}),
        "GET /v1/responses/<response_id>/input_items": RouteBodies(
            {JSON: responses.InputItemList}, query=InputItemsQuery
        ),
        "POST /v1/messages": RouteBodies({JSON: MessageAnswer, EVENTS: None}, {JSON: MessagesRequest}),
        "POST /v1/messages/count_tokens": RouteBodies({JSON: TokenCount}, {JSON: CountTokensRequest}),
    }


def _operation() -> Bodies:
    """Return those of probes, metrics, reports and the description."""
    return {
        "GET /api/health": RouteBodies({JSON: bodies.Health}),
        "GET /api/health/ready": RouteBodies({JSON: bodies.Readiness}, more={503: bodies.Readiness}),
        "GET /api/health/live": RouteBodies({JSON: bodies.Liveness}, more={503: bodies.Liveness}),
        "GET /health": RouteBodies({JSON: bodies.Health}),
        "GET /health/ready": RouteBodies({JSON: bodies.Readiness}, more={503: bodies.Readiness}),
        "GET /ready": RouteBodies({JSON: bodies.Readiness}, more={503: bodies.Readiness}),
        "GET /health/live": RouteBodies({JSON: bodies.Liveness}, more={503: bodies.Liveness}),
        "GET /health/system": RouteBodies({JSON: bodies.SystemHealth}),
        "GET /api/health/upstreams": RouteBodies({JSON: bodies.UpstreamHealth}),
        "GET /health/circuit-breakers": RouteBodies({JSON: bodies.UpstreamHealth}),
        "GET /health/detailed": RouteBodies({JSON: bodies.DetailedHealth}, more={503: bodies.DetailedHealth}),
        "GET /api/metrics": RouteBodies({JSON: bodies.JsonFigures}),
        "POST /api/metrics/reset": RouteBodies({JSON: bodies.ResetAnswer}),
        "GET /api/admin/usage": RouteBodies({JSON: UsageReport, CSV: None}, query=UsageQuery),
        "GET /api/admin/audit": RouteBodies({JSON: AuditTrail, CSV: None}, query=AuditQuery),
        "GET /metrics": RouteBodies({TEXT: None}),
        "GET /api/openapi.json": RouteBodies({JSON: None}),
    }


def _form(model: Model) -> dict[str, Model]:
    return {FORM: model, MULTIPART: model}
