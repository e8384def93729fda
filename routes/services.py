"""The parts of a running application as the routes see them: those of the edge, and what validates and describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask

from database.connect import Database
from edge import services as edge_services
from edge.services import Services
from routes.answer_cache import AnswerCache
from routes.chat.grammars import GrammarCache
from routes.openai.requests import OpenaiModels
from routes.openai.responses.store import ResponseStore
from routes.rated_answers import RatedAnswers
from routes.request_models import RequestModels


@dataclass(frozen=True)
class RouteServices(Services):
    """The one `Services` of an application. api_description: the OpenAPI document, built by the first call."""

    database: Database
    rated_answers: RatedAnswers
    request_models: RequestModels
    openai_models: OpenaiModels
    grammars: GrammarCache
    responses: ResponseStore
    answers: AnswerCache
    api_description: Callable[[], dict[str, Any]]


def services(app: Flask | None = None) -> RouteServices:
    """Return the services of this application, inside a request those of the current one."""
    found = edge_services.services(app)
    assert isinstance(found, RouteServices)
    return found
