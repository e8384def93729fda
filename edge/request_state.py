"""What is known of the request that is being served, in one object on Flask's `g`; made by the first hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flask import Request, g, request

from edge.rate_limit import Quota
from edge.route_table import Row
from keys.account import Account
from telemetry.observer import RequestObserver


@dataclass(slots=True)
class RequestState:
    """The state of one request, used by the thread that serves it.

    began: its arrival, in seconds on the monotonic clock; row: of the route, None where no route matched; client: the
    caller's address; account: whom it is charged to; quota: what is left of the caller's budget; too_large: the message
    for a body over the route's limit; max_tokens: the bound of its answers' length, where the service may have set it;
    fingerprint: of the model that answers, once it is known; versions: what answers, by the
    name that was asked for; by_session: the account is that of a browser's session;
    cost: of its answers so far, in millionths of the currency, None where tokens have no price;
    user: whom the request named as its user, "" for nobody;
    cache: `hit` or `miss` where its answers may be kept;
    begin: waits until it is certain that there will be an answer, and raises the error of one that there will not be;
    typed, images: what a form of the page held, to be shown again.
    """

    began: float
    row: Row | None
    request_id: str
    client: str
    account: Account
    observer: RequestObserver
    quota: Quota | None = None
    too_large: str | None = None
    max_tokens: int | None = None
    fingerprint: str | None = None
    cost: int | None = None
    user: str = ""
    by_session: bool = False
    cache: str | None = None
    begin: Callable[[], None] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)
    images: tuple[bytes, ...] = ()


def put(state: RequestState) -> None:
    """Make this the state of the current request."""
    g.request_state = state


def current_request() -> Request:
    """Return the current request itself, of which each attribute costs a microsecond less than through the proxy."""
    found: Request = request._get_current_object()  # type: ignore[attr-defined]
    return found


def request_state() -> RequestState:
    """Return the state of the current request."""
    state: RequestState = g._get_current_object().request_state  # what `g.` does, in half of its time
    return state
