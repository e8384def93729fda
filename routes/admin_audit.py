"""The operator's page of the audit trail: who changed what, the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from database.audit import acts
from database.connect import DatabaseError
from keys.record import FIELDS, LIMITS
from keys.written import WHOLE
from routes.key_form import read_time, shown_limit
from routes.locale import visitors_locale
from routes.operator_page import operators_page, wait_without_turn, without_database
from routes.services import services
from routes.status_figures import duration

admin_audit = Blueprint("admin_audit", __name__)
wait_without_turn(admin_audit)

PAGE = 100  # acts


@admin_audit.errorhandler(DatabaseError)
@admin_audit.errorhandler(SQLAlchemyError)
def no_database(error: Exception) -> ResponseReturnValue:
    """Say that the database cannot be used."""
    return without_database(error, "audit")


@admin_audit.get("/status/audit")
def index() -> str:
    """List administrative acts; `before` goes on behind the act of this number."""
    asked = request.args.get("before", "")
    before = int(asked) if WHOLE.fullmatch(asked) else None
    found = acts(services().database.engine(), before, PAGE + 1)
    shown = [
        {
            "at": read_time(act.at),
            "actor": act.actor,
            "address": act.address,
            "action": act.action,
            "target": act.target,
            "key": act.target.removeprefix("key:") if act.target.startswith("key:") else None,
            "details": _details(act.details),
        }
        for act in found[:PAGE]
    ]
    return operators_page(
        "audit.html", page="audit", acts=shown, more=found[PAGE - 1].id if len(found) > PAGE else None
    )


def _details(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the details of an act with the names of their fields, in the reader's language."""
    texts = visitors_locale().texts
    names = texts["client_keys"]["fields"] | {"grace": texts["client_keys"]["grace"]}
    ordered = [*(name for name in FIELDS if name in details), *(name for name in details if name not in FIELDS)]
    return [(names.get(name, name), _shown(name, details[name], texts)) for name in ordered]


def _shown(name: str, value: Any, texts: dict[str, Any]) -> str:
    """Return a detail as the page of keys shows it; what was taken back to its default is a dash."""
    if value is None or value == "":
        return "–"
    if name in LIMITS:
        return shown_limit(name, value)
    if name == "expires_at":
        return read_time(value)
    if name == "grace":
        return duration(value, texts["status"])
    return str(texts["client_keys"]["priorities"].get(value, value) if name == "priority" else value)
