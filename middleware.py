"""The hooks around every route, in this order: request id, access, body, budget; then headers, metrics and access line.

All checks here are cheap and read no body. Errors of every kind, the framework's own included, become responses in one
place (`_answer_failure`), by the table in `edge.errors` and in the format of the route: JSON, OpenAI's JSON or a page.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flask import Flask, Request, Response, current_app, jsonify, make_response, request
from flask.globals import request_ctx
from flask.typing import ResponseReturnValue
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_date

from config import Settings
from edge import caller, compression, csrf, errors, failover, operator_session, preflight, spending, wrong_addresses
from edge.authentication import check_model, credential
from edge.charging import charge_unread
from edge.charset import check_charset
from edge.failure_shapes import FailureShape, id_headers, json_body, shape_of
from edge.gate import CODINGS, arrival, body_refused
from edge.rate_limit import OverBudget
from edge.ready_made import request_id_of
from edge.request_state import RequestState, current_request, put, request_state
from edge.response_headers import CORS_EXPOSED, SECURITY_HEADERS, cors_headers, varies
from edge.route_table import MIB, Budget, Need, Row, row_of
from edge.services import services
from engine.errors import Message, Overloaded, PayloadTooLarge, ServiceError, UnsupportedMediaType, ValidationError
from keys.account import of_address
from telemetry.access_lines import is_refusal
from telemetry.logs import request_id_var
from telemetry.observer import RequestObserver
from telemetry.tracing import Trace
from usage.prices import as_money

# They may be passed over too (RFC 9110, 12.5). To read one takes time that grows with its square.
PREFERENCES = ("HTTP_ACCEPT", "HTTP_ACCEPT_LANGUAGE", "HTTP_ACCEPT_ENCODING", "HTTP_ACCEPT_CHARSET")
LONGEST_PREFERENCE = 1000
DATES = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_IF_RANGE")
COOKIES, MOST_COOKIES = "avito_ai_", 1000  # how the names of ours begin, and how many of a request are looked at
NO_COOKIE = re.compile(r'[\s"]')
ORIGINS = 256  # of pages, for which the headers of a response are kept
FOREIGN_PAGE = Message("foreign_page", "Another site's page sent this form; open it here and send it again.")


@dataclass(frozen=True, slots=True)
class Failures:
    """How errors are shown. page: renders one as HTML, given its status; sentence: translates messages under /api."""

    page: Callable[[ServiceError, int], str | bytes]
    sentence: Callable[[], errors.Sentence]


class HttpRequest(Request):
    """A request of HTTP, also of a client that offers another protocol, for which the framework has other routes."""

    def __init__(self, environ: dict[str, Any], populate_request: bool = True, shallow: bool = False) -> None:
        environ.pop("HTTP_UPGRADE", None)  # RFC 9110, 7.8: it may be passed over
        super().__init__(environ, populate_request, shallow)


def install(app: Flask, settings: Settings, failures: Failures) -> None:
    """Put the hooks around every route."""
    app.request_class = HttpRequest
    app.before_request(_before)
    app.register_error_handler(Exception, lambda error: _answer_failure(error, failures))
    app.after_request(_finish)
    app.teardown_request(_clear_request_id)
    CORS(
        app,
        origins=list(settings.security.allowed_origins),
        methods=list(preflight.METHODS),
        expose_headers=CORS_EXPOSED,
        send_wildcard=settings.security.allowed_origins == ("*",),
        supports_credentials=False,
        max_age=preflight.MAX_AGE,  # what a page may send is set by `_allow`
    )
    # Runs before the hook of CORS, which then has nothing to do.
    app.after_request(_origin_hook(settings.security.allowed_origins))


def _origin_hook(allowed_origins: tuple[str, ...]) -> Callable[[Response], Response]:
    """Return what says which page may read an ordinary response: what CORS says, in a tenth of its time."""
    headers_for = lru_cache(ORIGINS)(lambda origin: cors_headers(allowed_origins, origin))

    def name_origin(response: Response) -> Response:
        asked, headers = current_request(), response.headers
        ordinary = asked.method != "OPTIONS" and "Access-Control-Request-Private-Network" not in asked.headers
        if ordinary and "Access-Control-Allow-Origin" not in headers:
            headers.extend(headers_for(asked.headers.get("Origin")))
        return response

    return name_origin


def _before() -> None:
    _begin()
    _check_host()
    row = request_state().row
    if row is not None:
        _check_access(row)
        _authenticate(row)
        failover.hand_over_early(failover.HEADER in request.headers, services().settings, services().models, row)
        _check_body(row)
        spending.check()
        charge_unread()


def _begin() -> None:
    asked, parts = current_request(), services()
    began, environ = arrival(asked), asked.environ
    _drop_fields(environ)
    row = row_of(asked)
    request_id = request_id_of(asked.headers.get("X-Request-ID", ""))
    request_id_var.set(request_id)
    client = caller.client_address(asked, parts.settings.server.trusted_proxies)
    model, protocol = (None, None) if row is None else (row.model, row.protocol)
    trace = _trace(row, request_id, began)
    observer = RequestObserver(parts.metrics, trace, request_id, began, model, protocol)
    put(RequestState(began, row, request_id, client, of_address(caller.budget_key(client)), observer))
    parts.forwarded_warning.check(asked)


def _drop_fields(environ: dict[str, Any]) -> None:
    """Take fields out of a request that may be passed over and that the framework reads slowly, or fails at."""
    environ.pop("HTTP_RANGE", None)  # RFC 9110, 14.2: nothing here is read in parts
    for name in PREFERENCES:
        if len(environ.get(name, "")) > LONGEST_PREFERENCE:
            del environ[name]
    for name in DATES:
        if name in environ and not _is_date(environ[name]):
            del environ[name]
    if "HTTP_COOKIE" in environ:
        environ["HTTP_COOKIE"] = _own_cookies(environ["HTTP_COOKIE"])


def _is_date(value: str) -> bool:
    try:
        return parse_date(value) is not None
    except OverflowError:  # a year of many digits, which it does not expect
        return False


def _own_cookies(cookies: str) -> str:
    """Return the cookies that this service sets, of one text of them.

    None of these has a space or a quotation mark; many of either would take time that grows with its square.
    """
    parts = (part.strip() for part in cookies.split(";", MOST_COOKIES)[:MOST_COOKIES])
    return "; ".join(part for part in parts if part.startswith(COOKIES) and not NO_COOKIE.search(part))


def _check_host() -> None:
    """Refuse a request of HTTP/1.1 that names no host (RFC 9112, section 3.2). Raises ValidationError."""
    if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and "HTTP_HOST" not in request.environ:
        raise ValidationError("A request of HTTP/1.1 needs a Host.")


def _trace(row: Row | None, request_id: str, began: float) -> Trace:
    """Return the trace of a generation request; for any other, one that does nothing."""
    if row is None or row.budget is not Budget.GENERATION or request.url_rule is None:
        return Trace()
    return services().tracing.begin(request.method, request.url_rule.rule, request.headers, request_id, began)


def _check_access(row: Row) -> None:
    settings = services().settings
    if row.own_page and caller.is_foreign_page(request, settings.server.trusted_proxies):
        raise errors.Forbidden(FOREIGN_PAGE)
    if row.need not in (Need.LOCAL_OR_ADMIN, Need.OPERATOR) or caller.is_local(request):
        return
    admin_key = settings.security.admin_key
    if admin_key is None:
        raise errors.Forbidden("This address answers only programs on the same machine.")
    if row.need is Need.OPERATOR and operator_session.is_signed_in(request, admin_key, services().ended_sessions):
        return
    offered = caller.bearer_key(request)
    if offered is None or not _key_fits(offered, admin_key):
        raise errors.Unauthorized("This address needs the administrator's key.")


def _authenticate(row: Row) -> None:
    """Make the account of the client's key or token the request's own, where AUTH asks for one."""
    if row.need is not Need.CLIENT:
        return
    state = request_state()
    try:
        account = services().authenticator.account_of(request, caller.budget_key(state.client))
    except OverBudget as refusal:
        state.quota = refusal.quota
        state.observer.over_budget(refusal.budget, refusal.window)
        raise
    if account is not None:
        state.account = account
        state.by_session = not credential(
            request.headers.get("Authorization", ""), request.headers.get("X-Api-Key", "")
        )
        if state.by_session and shape_of(request.path) is not FailureShape.PAGE:
            csrf.check(request.headers.get(csrf.HEADER, ""))
        if row.model is not None:
            info = services().models.get(row.model).info
            check_model(account, *services().model_names.names_of(row.model, info))


def _key_fits(offered: str, admin_key: str) -> bool:
    state = request_state()
    try:
        return services().key_tries.fits(offered, admin_key, caller.budget_key(state.client))
    except OverBudget as refusal:
        state.quota = refusal.quota
        state.observer.over_budget(refusal.budget, refusal.window)
        raise


def _check_body(row: Row) -> None:
    if not row.bodies:
        return
    asked = current_request()
    if asked.mimetype not in row.bodies:
        raise UnsupportedMediaType(f"Send the request as {' or '.join(row.bodies)}.")
    check_charset(asked.mimetype_params)
    coding = compression.coding_of(asked)
    if coding not in (None, *CODINGS):
        raise UnsupportedMediaType("A compressed request body must be gzip or deflate.")
    limit = row.bodies[asked.mimetype]
    # A body of unknown length is checked while it is read; one byte over the limit shows that it is too long.
    asked.max_content_length = limit + 1
    message = Message("body_too_large", "The request body is too large. Maximum size: {n} MiB", n=limit // MIB)
    request_state().too_large = message
    if (asked.content_length or 0) > limit:
        raise PayloadTooLarge(message)
    if body_refused(asked):
        raise Overloaded(compression.BODIES_FULL)
    if coding is not None:
        compression.decompress(asked, coding)


def _answer_failure(original: Exception, failures: Failures) -> ResponseReturnValue:
    if isinstance(original, HTTPException) and (original.code or 500) < 400:
        return original  # a redirect is not a failure
    error, state, shape = errors.as_service_error(original), request_state(), shape_of(request.path)
    state.begin = None
    if isinstance(original, HTTPException) and wrong_addresses.is_none(request, original.code):
        urls = request_ctx.url_adapter
        error, shape = wrong_addresses.not_found(request.path, urls), wrong_addresses.shape_for(request, urls)
    if isinstance(error, PayloadTooLarge) and isinstance(original, HTTPException):
        error = PayloadTooLarge(state.too_large or error.message)
    meaning = errors.meaning_of(error)
    state.observer.failed(meaning.code, meaning.status, error.message)
    if shape is FailureShape.PAGE:
        body = _page(error, meaning.status, failures)
    else:
        body = jsonify(json_body(shape, error, state.request_id, failures.sentence()))
    body.status_code = meaning.status
    body.headers.update(errors.headers_of(error, original))
    body.headers.update(failover.headers_of(error, failover.HEADER in request.headers, services().settings))
    return body


def _page(error: ServiceError, status: int, failures: Failures) -> Response:
    if request_ctx.url_adapter is None:  # the Host is no name, so a page could link to nothing
        return Response(f"{error.message}\n", mimetype="text/plain")
    try:
        return make_response(failures.page(error, status))
    except Exception as another:  # rendering needs what the machine may lack: memory, a descriptor
        errors.log_unexpected(another)
        return Response(f"{error.message}\n", mimetype="text/plain")


def _finish(response: Response) -> Response:
    state, asked = request_state(), current_request()
    headers = {**id_headers(asked.path, state.request_id), **SECURITY_HEADERS}
    if state.observer.served_id is not None:
        headers["X-Model"] = state.observer.served_id
    if state.fingerprint is not None:
        headers["X-Model-Fingerprint"] = state.fingerprint
    if state.cost is not None and not response.is_streamed:
        headers["X-Cost"] = as_money(state.cost)
    if state.cache is not None:
        headers["X-Cache"] = state.cache
    if state.quota is not None:
        headers |= state.quota.headers()
    if "Cache-Control" not in response.headers:
        headers["Cache-Control"] = "no-store"
    response.headers.extend(headers)
    if response.mimetype == "text/html":
        response.vary.update(("Accept-Language", "Cookie"))
        csrf.set_cookie(response, services().settings.server.trusted_proxies)
    if varies(services().settings.security.allowed_origins):
        response.vary.add("Origin")
    if preflight.is_preflight(asked.method, asked.headers):
        _allow(response)
    begin, state.begin = state.begin, None
    if begin is not None:
        try:
            begin()  # last, so that the response was prepared while a server elsewhere thought
        except Exception as error:
            response.close()
            return current_app.process_response(make_response(current_app.handle_user_exception(error)))
    if state.max_tokens is not None:
        response.headers["X-Max-Tokens"] = str(state.max_tokens)  # a server elsewhere may have been asked for fewer
    response.headers["X-Response-Time"] = f"{_report(state, response):.3f}s"
    return response


def _allow(response: Response) -> None:
    """Complete the answer to a preflight, whose origin has been checked: a page that is not allowed is told nothing."""
    response.vary.update(preflight.VARY)
    for name in preflight.OURS:
        response.headers.pop(name, None)
    if "Access-Control-Allow-Origin" not in response.headers:
        return
    adapter = request_ctx.url_adapter
    response.headers.update(preflight.preflight_headers(request.headers, adapter.allowed_methods() if adapter else ()))


def _report(state: RequestState, response: Response) -> float:
    """Report the response; return how long it took, in seconds."""
    row, asked = state.row, current_request()
    rule = asked.url_rule
    if row is not None and row.budget is Budget.GENERATION:
        account, failed = state.account, response.status_code >= 400
        services().metrics.busiest.count(account.id, account.name or account.id, failed=failed)
    return state.observer.responded(
        asked.method,
        rule.rule if rule else None,
        asked.path,
        state.client,
        response.status_code,
        account=state.account.name,
        streamed=response.is_streamed,
        level=_level(state, response.status_code),
    )


def _level(state: RequestState, status: int) -> int:
    """Return the level of the access line. What a model was asked for has a line of its own, however it ended."""
    row = state.row
    if row is not None and row.need is Need.PROBE:
        return logging.DEBUG
    taken = row is not None and row.budget is Budget.GENERATION and state.observer.served_id is not None
    return services().access_lines.level_of(status) if is_refusal(status) and not taken else logging.INFO


def _clear_request_id(error: BaseException | None) -> None:
    """Keep this request's id out of what the thread logs next."""
    request_id_var.set("-")
