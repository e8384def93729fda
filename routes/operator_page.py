"""What the operator's pages have in common: their addresses, who acts on them, and what a template needs."""

from __future__ import annotations

import logging
import re
from typing import Any

from flask import Blueprint, Response, render_template, request, url_for
from flask.typing import ResponseReturnValue

from edge import caller, operator_session, turns
from edge.request_state import request_state
from keys.registry import Actor
from routes.locale import LOCALES, visitors_locale
from routes.services import services
from telemetry.version import VERSION

log = logging.getLogger("avito_ai.keys")

ADDRESS = re.compile(r"/status(/audit|/usage|/keys(/new|/[a-z0-9]{12})?)?", re.ASCII)
AGAIN = {"Retry-After": "10"}  # where the database cannot be used
QUERY = re.compile(r"[!-~]{0,2000}", re.ASCII)


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


def address_of_page(text: str) -> str:
    """Return the path and query of a page of the operator's, that of the first one for anything else."""
    path, _, query = text.partition("?")
    known = ADDRESS.fullmatch(path) and QUERY.fullmatch(query)
    return text if known else url_for("status.show")


def requested_address() -> str:
    """Return the address of the operator's page that this request is for, as `address_of_page` does."""
    query = request.query_string.decode("latin-1")
    return address_of_page(request.path.rstrip("/") + (f"?{query}" if query else ""))


def wait_without_turn(blueprint: Blueprint) -> None:
    """Have the views of a blueprint, which wait for the database, leave their turns to other requests."""
    blueprint.before_request(turns.leave)
    blueprint.after_request(_take_turn)


def _take_turn(response: Response) -> Response:
    turns.take()
    return response


def without_database(error: Exception, page: str) -> ResponseReturnValue:
    """Say that the database cannot be used."""
    log_database(error)
    return operators_page("operator_failure.html", page=page, problem="database"), 503, AGAIN


def log_database(error: Exception) -> None:
    """Log that the database cannot be used; the error's text may hold its URL and is left out."""
    log.error("The database cannot be used: %s.", type(error.__cause__ or error).__name__)


def signed_in() -> bool:
    """Return whether the operator has signed in, and can sign out."""
    return operator_session.is_signed_in(request, services().settings.security.admin_key, services().ended_sessions)


def actor() -> Actor:
    """Return who acts: the holder of ADMIN_KEY, or somebody on this machine."""
    name = "admin" if signed_in() or not caller.is_local(request) else "local"
    return Actor(name, request_state().client)
