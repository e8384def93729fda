"""Signing in on the page with a client's key or token, once for a session, and out again."""

from __future__ import annotations

from typing import cast

from flask import Blueprint, make_response, redirect, request, url_for
from flask import Response as FlaskResponse
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from edge import caller, client_session, csrf
from edge.errors import Unauthorized
from edge.rate_limit import OverBudget
from edge.request_state import request_state
from routes import kept_image
from routes.locale import visitors_locale
from routes.pages import page_with, problem_of, sign_in_page
from routes.parsing import submitted_form
from routes.services import services
from routes.visitor import Visitor, typed_into

sign_in = Blueprint("sign_in", __name__)


@sign_in.app_template_global()
def csrf_field() -> Markup:
    """Return the hidden field of a form that acts."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(csrf.FIELD, csrf.token())


@sign_in.app_template_global()
def csrf_token() -> str:
    """Return a token for the page's scripts."""
    return csrf.token()


@sign_in.get("/sign-in")
def show() -> ResponseReturnValue:
    """Show the form that takes a key, where one is needed."""
    return sign_in_page() if services().authenticator.demanded else redirect(url_for("pages.index"), 303)


@sign_in.post("/sign-in")
def enter() -> ResponseReturnValue:
    """Exchange a client's key or token for a session's cookie; show again what was typed before."""
    if not services().authenticator.demanded:
        return redirect(url_for("pages.index"), 303)
    form = kept_image.form_with_image()
    offered = form.fields.get("key", "").strip()
    kept = typed_into(form.fields.get("form", ""), form.fields, form.files.get("image", ()))
    texts = visitors_locale().texts["key_sign_in"]
    try:
        account = services().authenticator.account_for(offered, caller.budget_key(request_state().client))
    except OverBudget as refusal:
        message = visitors_locale().sentence(refusal.message, "rate_limit_exceeded")
        return sign_in_page(kept, message, refusal.retry_after), 429, {"Retry-After": str(refusal.retry_after)}
    except Unauthorized as refusal:
        return sign_in_page(kept, problem_of(refusal)), 401
    key_id = account.id.removeprefix("key:") if account is not None and account.id.startswith("key:") else None
    cookie = services().client_sessions.cookie_for(offered, key_id)
    if cookie is None:
        return sign_in_page(kept, texts["too_long"]), 400
    csrf.follow_session(cookie)
    shown = Visitor(signed_out=False, account=account, by_session=True)
    response = make_response(page_with(kept, shown) if kept else redirect(url_for("pages.index"), 303))
    secure = caller.came_over_https(request, services().settings.server.trusted_proxies)
    client_session.begin(response, cookie, secure=secure)
    return response


@sign_in.post("/sign-out")
def leave() -> FlaskResponse:
    """Delete the cookie of the session."""
    submitted_form()
    response = cast(FlaskResponse, redirect(url_for("pages.index"), 303))
    client_session.end(response)
    return response
