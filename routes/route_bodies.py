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


def route_bodies(own: RequestModels, openai: OpenaiModels) -> dict[str, RouteBodies]:
    """Return the bodies of every route, by its name in the route table."""
    page, answer = {HTML: None}, response_models.GenerationAnswer
    lost: dict[int, Model | None] = {404: None, 503: None}
    return {
        "GET /": RouteBodies(page),
        "GET /state": RouteBodies(page),
        "GET /favicon.ico": RouteBodies({ICON: None}),
        "GET /manifest.webmanifest": RouteBodies({MANIFEST: None}),
        "GET /status": RouteBodies(page),
        "GET /status/figures": RouteBodies(page),
        "GET /status/samples": RouteBodies({JSON: None}),
        "POST /language": RouteBodies(page, _form(LanguageForm), status=303),
        "GET /status/keys": RouteBodies(page, more=lost),
        "GET /status/keys/new": RouteBodies(page),
        "POST /status/keys": RouteBodies(page, _form(KeyForm), more=lost),
        "GET /status/keys/<key_id>": RouteBodies(page, more=lost),
        "POST /status/keys/<key_id>": RouteBodies(page, _form(KeyForm), status=303, more=lost),
        "POST /status/keys/<key_id>/disable": RouteBodies(page, _form(TokenForm), status=303, more=lost),
        "POST /status/keys/<key_id>/enable": RouteBodies(page, _form(TokenForm), status=303, more=lost),
        "POST /status/keys/<key_id>/rotate": RouteBodies(page, _form(RotateForm), more=lost),
        "POST /status/keys/<key_id>/delete": RouteBodies(page, _form(TokenForm), status=303, more=lost),
        "GET /status/usage": RouteBodies(page, more={503: None}),
        "GET /status/audit": RouteBodies(page, more={503: None}),
        "POST /status/sign-in": RouteBodies(page, _form(OperatorSignInForm), status=303, more={401: None, 429: None}),
        "POST /status/sign-out": RouteBodies(page, _form(TokenForm), status=303),
        "GET /sign-in": RouteBodies(page, status=303),
        "POST /sign-in": RouteBodies(page, _form(ClientSignInForm), status=303, more={401: None, 429: None}),
        "POST /sign-out": RouteBodies(page, _form(TokenForm), status=303),
        "GET /api/docs": RouteBodies(page),
        "POST /avibe": RouteBodies(page, _form(own.text)),
        "POST /avision": RouteBodies(page, {MULTIPART: own.image}),
        "GET /avibe": RouteBodies(page, status=303),
        "GET /avision": RouteBodies(page, status=303),
        "POST /api/v1/text/generate": RouteBodies({JSON: answer, EVENTS: None}, {JSON: own.text_json}),
        "POST /api/v1/text/batch": RouteBodies({LINES: None}, {JSON: own.batch}),
        "POST /api/v1/image/analyze": RouteBodies(
            {JSON: answer, EVENTS: None}, {MULTIPART: own.image_form, JSON: own.image_json}
        ),
        "POST /api/v1/feedback": RouteBodies(
            {JSON: response_models.FeedbackAnswer}, {JSON: FeedbackRequest}, more={404: bodies.ApiFailure}
        ),
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
        "GET /api/health": RouteBodies({JSON: bodies.Health}),
        "GET /api/health/ready": RouteBodies({JSON: bodies.Readiness}, more={503: bodies.Readiness}),
        "GET /api/health/live": RouteBodies({JSON: bodies.Liveness}, more={503: bodies.Liveness}),
        "GET /api/metrics": RouteBodies({JSON: bodies.JsonFigures}),
        "POST /api/metrics/reset": RouteBodies({JSON: bodies.ResetAnswer}),
        "GET /api/v1/usage": RouteBodies({JSON: OwnUsage, CSV: None}, query=OwnUsageQuery),
        "GET /status/usage.csv": RouteBodies({CSV: None}, query=UsageQuery),
        "GET /api/admin/usage": RouteBodies({JSON: UsageReport, CSV: None}, query=UsageQuery),
        "GET /api/admin/audit": RouteBodies({JSON: AuditTrail, CSV: None}, query=AuditQuery),
        "GET /metrics": RouteBodies({TEXT: None}),
        "GET /api/openapi.json": RouteBodies({JSON: None}),
    }


def _form(model: Model) -> dict[str, Model]:
    return {FORM: model, MULTIPART: model}
