"""Who looks at the page: an account, where AUTH asks for one, or somebody who has yet to sign in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flask import request

from edge import caller
from edge.authentication import credential
from edge.errors import RateLimitExceeded, Unauthorized
from edge.rate_limit import OverBudget
from edge.request_state import request_state
from keys.account import Account
from routes import seller_templates
from routes.services import services

FIELDS = ("prompt", "max_tokens", "temperature", *seller_templates.FIELDS)  # that are typed into a form


@dataclass(frozen=True, slots=True)
class Visitor:
    """signed_out: a key is needed and there is none; account: that of the key or token, None where none is needed.

    by_session: the browser has signed in, and can sign out.
    """

    signed_out: bool
    account: Account | None = None
    by_session: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """What was typed into a form of the page, which is shown again. form: `text` or `image`."""

    form: str
    typed: Mapping[str, str] = field(default_factory=dict)
    images: tuple[bytes, ...] = ()


def visitor() -> Visitor:
    """Return who looks at the page with this request."""
    authenticator = services().authenticator
    if not authenticator.demanded:
        return Visitor(signed_out=False)
    offered = credential(request.headers.get("Authorization", ""), request.headers.get("X-Api-Key", ""))
    if not offered and services().client_sessions.credential_of(request) is None:
        return Visitor(signed_out=True)
    try:
        account = authenticator.account_of(request, caller.budget_key(request_state().client))
    except (Unauthorized, OverBudget, RateLimitExceeded):
        return Visitor(signed_out=True)
    return Visitor(signed_out=False, account=account, by_session=not offered)


def typed_into(form: str, fields: Mapping[str, str], images: tuple[bytes, ...]) -> Kept | None:
    """Return what a form of the page held, None for another one. form: its kind."""
    if form not in seller_templates.TEMPLATES:
        return None
    return Kept(form, {name: fields[name] for name in FIELDS if fields.get(name)}, images)
