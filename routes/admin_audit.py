"""The operator's page of the audit trail: who changed what, the newest first."""

from __future__ import annotations

import json

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from database.audit import acts
from database.connect import DatabaseError
from routes.key_form import shown_time
from routes.operator_page import operators_page, without_database
from routes.services import services

admin_audit = Blueprint("admin_audit", __name__)

PAGE = 100  # acts


@admin_audit.errorhandler(DatabaseError)
@admin_audit.errorhandler(SQLAlchemyError)
def no_database(error: Exception) -> ResponseReturnValue:
    """Say that the database cannot be used."""
    return without_database(error, "audit")


@admin_audit.get("/status/audit")
def index() -> str:
    """List administrative acts; `before` goes on behind the act of this number."""
    found = acts(services().database.engine(), request.args.get("before", None, type=int), PAGE + 1)
    shown = [
        {
            "at": shown_time(act.at).replace("T", " "),
            "actor": act.actor,
            "address": act.address,
            "action": act.action,
            "target": act.target,
            "key": act.target.removeprefix("key:") if act.target.startswith("key:") else None,
            "details": json.dumps(act.details, ensure_ascii=False) if act.details else "",
        }
        for act in found[:PAGE]
    ]
    return operators_page(
        "audit.html", page="audit", acts=shown, more=found[PAGE - 1].id if len(found) > PAGE else None
    )
