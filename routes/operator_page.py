"""What the operator's pages have in common: who acts on them, for the audit trail, and what a template needs."""

from __future__ import annotations

import logging
from typing import Any

from flask import render_template, request
from flask.typing import ResponseReturnValue

from edge import operator_session
from edge.request_state import request_state
from keys.registry import Actor
from routes.locale import LOCALES, visitors_locale
from routes.services import services
from telemetry.version import VERSION

log = logging.getLogger("avito_ai.keys")


def operators_page(template: str, **values: Any) -> str:
    """Render a page of the operator's."""
    locale = visitors_locale()
    return render_template(
        template,
        t=locale.texts,
        lang=locale.code,
        languages=LOCALES,
        number=locale.number,
        version=VERSION,
        signed_in=signed_in(),
        **values,
    )


def without_database(error: Exception, page: str) -> ResponseReturnValue:
    """Say that the database cannot be used."""
    log_database(error)
    return operators_page("operator_failure.html", page=page, problem="database"), 503


def log_database(error: Exception) -> None:
    """Log that the database cannot be used; the error's text may hold its URL and is left out."""
    log.error("The database cannot be used: %s.", type(error.__cause__ or error).__name__)


def signed_in() -> bool:
    """Return whether the operator has signed in, and can sign out."""
    return operator_session.is_signed_in(request, services().settings.security.admin_key, services().ended_sessions)


def actor() -> Actor:
    """Return who acts: the holder of ADMIN_KEY, or somebody on this machine."""
    name = "admin" if signed_in() or "Authorization" in request.headers else "local"
    return Actor(name, request_state().client)
