"""The operator's page: the last hour of the service, open on this machine and after signing in with ADMIN_KEY."""

from __future__ import annotations

from typing import cast

from flask import Blueprint, jsonify, redirect, render_template, request, url_for
from flask import Response as FlaskResponse
from werkzeug.wrappers import Response

from edge import caller, operator_session
from edge.errors import Forbidden, Unauthorized
from edge.rate_limit import OverBudget
from edge.request_state import request_state
from edge.route_table import Need
from engine.errors import Message, ServiceError
from routes.locale import LOCALES, visitors_locale
from routes.operator_page import address_of_page, signed_in
from routes.parsing import submitted_form
from routes.service_facts import service_facts
from routes.services import services
from routes.status_figures import figures as current_figures
from routes.status_figures import lines_of
from telemetry.metrics.history import INTERVAL, SAMPLES

status = Blueprint("status", __name__)

DIGITS = 4


@status.get("/status")
def show() -> str:
    """Show the operator's page: the last hour at a glance."""
    locale = visitors_locale()
    return render_template(
        "status.html",
        t=locale.texts,
        lang=locale.code,
        languages=LOCALES,
        interval=round(INTERVAL),
        span=round(INTERVAL * SAMPLES),
        signed_in=signed_in(),
        page="status",
        **current_figures(),
        **service_facts(),
    )


@status.get("/status/figures")
def figures() -> str:
    """Show the current figures, for an open page to refresh."""
    return render_template("_status_live.html", t=visitors_locale().texts, **current_figures(), **service_facts())


@status.get("/status/samples")
def samples() -> FlaskResponse:
    """Return the samples after `after` (seconds since the epoch): one list of values per line of a plot."""
    taken = services().metrics.history.samples(request.args.get("after", -1.0, type=float))
    lines = [
        {
            "plot": line.plot,
            "key": line.key,
            "model": line.model,
            "values": [_rounded(value) for value in line.values],
        }
        for line in lines_of(taken)
    ]
    return jsonify(at=[round(sample.at, 1) for sample in taken], lines=lines)


@status.post("/status/sign-in")
def sign_in() -> Response | tuple[str, int] | tuple[str, int, dict[str, str]]:
    """Check the administrator's key, set a cookie for the session and redirect to the page that was requested."""
    fields = submitted_form().fields
    offered, page = fields.get("key", ""), address_of_page(fields.get("page", ""))
    admin_key = services().settings.security.admin_key
    if admin_key is None or caller.is_local(request):
        return redirect(page, 303)  # no key is needed there, or none is set
    try:
        fits = services().key_tries.fits(offered, admin_key, caller.budget_key(_client()))
    except OverBudget as refusal:
        headers = {"Retry-After": str(refusal.retry_after)}
        message = visitors_locale().sentence(refusal.message, "rate_limit_exceeded")
        return operators_sign_in_page(page, message, refusal.retry_after), 429, headers
    if not fits:
        return operators_sign_in_page(page, visitors_locale().texts["status"]["sign_in"]["wrong"]), 401
    response = redirect(page, 303)
    secure = caller.came_over_https(request, services().settings.server.trusted_proxies)
    operator_session.sign_in(cast(FlaskResponse, response), admin_key, secure=secure)
    return response


@status.post("/status/sign-out")
def sign_out() -> Response:
    """End the session and delete its cookie."""
    submitted_form()
    response = cast(FlaskResponse, redirect(url_for("status.show"), 303))
    admin_key = services().settings.security.admin_key
    operator_session.sign_out(request, response, admin_key, services().ended_sessions)
    return response


def is_for_the_operator(error: ServiceError) -> bool:
    """True for an error that says that the caller is not the operator, whom the operator's pages are for."""
    row = request_state().row
    of_operator = row is not None and row.need is Need.OPERATOR
    return of_operator and isinstance(error, Unauthorized | Forbidden) and not isinstance(error.message, Message)


def operators_sign_in_page(page: str, problem: str = "", retry_after: int | None = None) -> str:
    """Return the form that asks for the key, if there is one, and what else opens the operator's page.

    page: the address that follows the sign-in.
    """
    locale = visitors_locale()
    settings = services().settings
    return render_template(
        "sign_in.html",
        t=locale.texts,
        lang=locale.code,
        languages=LOCALES,
        page=page,
        problem=problem,
        retry_after=retry_after,
        has_key=settings.security.admin_key is not None,
        port=settings.server.port,
        host=caller.host_name(request) or "HOST",
    )


def _client() -> str:
    return caller.client_address(request, services().settings.server.trusted_proxies)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
