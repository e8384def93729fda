"""The parts of a running application as the routes see them: those of the edge, and what validates and describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import BoundedSemaphore
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
from routes.resumable import ResumableStreams
from routes.signed_conversations import SignedConversations


@dataclass(frozen=True)
class RouteServices(Services):
    """The one `Services` of an application.

    api_description: the OpenAPI document, built by the first call, api_description_json: its text; docs_page: the page
    that shows it, by language. report_places: how many reports of usage are made at once.
    """

    database: Database
    rated_answers: RatedAnswers
    request_models: RequestModels
    openai_models: OpenaiModels
    grammars: GrammarCache
    responses: ResponseStore
    conversations: SignedConversations
    answers: AnswerCache
    streams: ResumableStreams
    api_description: Callable[[], dict[str, Any]]
    api_description_json: Callable[[], str]
    docs_page: Callable[[str], str]
    report_places: BoundedSemaphore

    def begin_serving(self) -> None:
        """Start what runs beside the requests, as the edge's services do."""
        self.database.begin()
        super().begin_serving()
        self.streams.begin()

    def end_serving(self) -> None:
        """End what must not be cut off; once the last request has been answered."""
        self.streams.end()
        super().end_serving()


def services(app: Flask | None = None) -> RouteServices:
    """Return the services of this application, inside a request those of the current one."""
    found = edge_services.services(app)
    assert isinstance(found, RouteServices)
    return found
