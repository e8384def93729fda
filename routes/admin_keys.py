"""The operator's pages of client keys: listed, made, changed, disabled, given another secret, and removed.

A secret is on the page that answers its making, once, and nowhere else: no address leads to it and nothing keeps it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from database.connect import DatabaseError
from keys.record import FIELDS, LIMITS, PRIORITIES, Key, KeyFieldError
from keys.registry import ChangedMeanwhile, UnknownKey
from routes.key_form import (
    check_not_changed,
    fields_of,
    read_time,
    shown_limit,
    shown_then,
    typed_anew,
    typed_of,
)
from routes.locale import visitors_locale
from routes.operator_page import AGAIN, actor, log_database, operators_page, wait_without_turn, without_database
from routes.parsing import submitted_form
from routes.services import services

admin_keys = Blueprint("admin_keys", __name__, url_prefix="/status/keys")
wait_without_turn(admin_keys)

PAGE = 50  # keys
TOLD = 200  # characters of what another has typed
# Problems that are not the field's usual one, by a word of their sentence.
REASONS = {"already": "taken", "future": "past", "of this service": "unknown_model"}
GRACES = {"none": 0, "hour": 3600, "day": 86_400, "week": 7 * 86_400}  # seconds that an old secret stays good


@admin_keys.errorhandler(DatabaseError)
@admin_keys.errorhandler(SQLAlchemyError)
def no_database(error: Exception) -> ResponseReturnValue:
    """Say that the database cannot be used."""
    return without_database(error, "keys")


@admin_keys.errorhandler(UnknownKey)
def unknown_key(error: UnknownKey) -> ResponseReturnValue:
    """Say that there is no such key."""
    return operators_page("operator_failure.html", page="keys", problem="unknown_key"), 404


@admin_keys.get("")
def index() -> str:
    """List the keys by name; `q` searches names, ids and notes, `after` goes on behind a name."""
    wanted = request.args.get("q", "").strip()[:200]
    found = services().key_registry.page(wanted, request.args.get("after", ""), PAGE + 1)
    return operators_page(
        "keys.html",
        page="keys",
        wanted=wanted,
        keys=[_row(key) for key in found[:PAGE]],
        more=found[PAGE - 1].name if len(found) > PAGE else None,
        auth=services().settings.access.auth,
    )


@admin_keys.get("/new")
def new() -> str:
    """Show the form of a key that is made."""
    return _form({"priority": "normal"})


@admin_keys.post("")
def make() -> ResponseReturnValue:
    """Make a key and show its secret, once."""
    typed = _typed(submitted_form().fields)
    try:
        key, text = services().key_registry.make(actor(), **fields_of(typed))
    except KeyFieldError as error:
        return _at_fault(typed, error), 400
    except (DatabaseError, SQLAlchemyError) as error:
        log_database(error)
        return _form(typed, visitors_locale().texts["operator"]["problems"]["database"]), 503, AGAIN
    return operators_page("key_made.html", page="keys", key=key, text=text)


@admin_keys.get("/<key_id>")
def show(key_id: str) -> str:
    """Show a key and the form that changes it."""
    key = services().key_registry.find(key_id)
    return _form(typed_of(key), key=key, saved="saved" in request.args)


@admin_keys.post("/<key_id>")
def change(key_id: str) -> ResponseReturnValue:
    """Change the fields of a key that are not as the form showed them; what another has changed meanwhile stays."""
    form, key = submitted_form().fields, services().key_registry.find(key_id)
    typed, now = _typed(form), typed_of(key)
    shown = shown_then(form.get("shown", ""), now)
    anew = typed_anew(typed, shown)
    try:
        check_not_changed(anew, shown, now)
        fields = {name: value for name, value in fields_of(typed).items() if name in anew}
        services().key_registry.change(actor(), key_id, looked_at=key, **fields)
    except ChangedMeanwhile as error:
        return _changed_meanwhile(key_id, anew, error.fields), 409
    except KeyFieldError as error:
        return _at_fault(typed, error, key, shown), 400
    return _back(key_id)


@admin_keys.post("/<key_id>/disable")
def disable(key_id: str) -> ResponseReturnValue:
    """Refuse a key from now on."""
    submitted_form()
    services().key_registry.disable(actor(), key_id)
    return _back(key_id)


@admin_keys.post("/<key_id>/enable")
def enable(key_id: str) -> ResponseReturnValue:
    """Accept a disabled key again."""
    submitted_form()
    services().key_registry.enable(actor(), key_id)
    return _back(key_id)


@admin_keys.post("/<key_id>/rotate")
def rotate(key_id: str) -> ResponseReturnValue:
    """Give a key another secret and show it, once; the old one stays good for the time that was chosen."""
    grace = GRACES.get(submitted_form().fields.get("grace", ""), 0)
    key, text = services().key_registry.rotate(actor(), key_id, grace)
    return operators_page("key_made.html", page="keys", key=key, text=text)


@admin_keys.post("/<key_id>/delete")
def delete(key_id: str) -> ResponseReturnValue:
    """Remove a key; its usage stays."""
    submitted_form()
    services().key_registry.delete(actor(), key_id)
    return redirect(url_for("admin_keys.index"), 303)


def _back(key_id: str) -> ResponseReturnValue:
    return redirect(url_for("admin_keys.show", key_id=key_id, saved=1), 303)


def _typed(form: Mapping[str, str]) -> dict[str, str]:
    return {name: form[name] for name in FIELDS if name in form}


def _at_fault(
    typed: dict[str, str], error: KeyFieldError, key: Key | None = None, shown: Mapping[str, str] | None = None
) -> str:
    """Return the form with what is wrong with which field."""
    field, problem = _problem(error)
    return _form(typed, problem, key, at_fault=field, shown=shown)


def _changed_meanwhile(key_id: str, anew: Mapping[str, str], fields: Sequence[str]) -> str:
    """Return the form of the key as it is, with what was typed anew, and what another has made of the same fields."""
    key = services().key_registry.find(key_id)
    now, texts = typed_of(key), visitors_locale().texts["client_keys"]
    told = []
    for name in fields:
        value = texts["priorities"][now[name]] if name == "priority" else shorten(now[name], TOLD) or "–"
        told.append(f"{texts['fields'][name]}: {texts['problems']['meanwhile'].format(value=value)}")
    return _form({**now, **anew}, " ".join(told), key, at_fault=fields[0])


def _form(
    typed: Mapping[str, str],
    problem: str = "",
    key: Key | None = None,
    saved: bool = False,
    at_fault: str = "",
    shown: Mapping[str, str] | None = None,
) -> str:
    """Return the page of a key, or of a new one. shown: what its form showed at first, if not the key as it is."""
    return operators_page(
        "key.html",
        page="keys",
        key=key,
        state=None if key is None else key.state(time.time()),
        typed=typed,
        shown=None if key is None else json.dumps(shown or typed_of(key), ensure_ascii=False),
        problem=problem,
        at_fault=at_fault,
        saved=saved,
        limits=LIMITS,
        priorities=PRIORITIES,
        graces=GRACES,
        models=[name for name, _ in services().models],
        currency=services().settings.spending.currency,
    )


def _row(key: Key) -> dict[str, Any]:
    """Return what the list shows of a key."""
    limits = {name: getattr(key.account.limits, name) for name in LIMITS}
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(time.time()),
        "models": ", ".join(sorted(key.account.models or ())),
        "priority": key.account.priority,
        "expires": read_time(key.expires_at),
        "limits": {name: shown_limit(name, value) for name, value in limits.items() if value is not None},
    }


def _problem(error: KeyFieldError) -> tuple[str, str]:
    """Return the field that is wrong, and how, in the reader's language."""
    texts = visitors_locale().texts["client_keys"]
    field, _, reason = str(error).partition(": ")
    by_reason = next((name for word, name in REASONS.items() if word in reason), field)
    problem: str = texts["problems"].get(by_reason, texts["problems"]["number"])
    return field, f"{texts['fields'].get(field, field)}: {problem}"
