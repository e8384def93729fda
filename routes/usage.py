"""What was used, and who did what: for the operator of everybody, for a client of itself. As JSON or CSV."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import cast

from flask import Blueprint, Response, jsonify, request
from sqlalchemy.exc import SQLAlchemyError

from database import audit
from database.connect import DatabaseError
from edge.gate import growing_body
from edge.request_state import request_state
from edge.turns import elsewhere
from engine.errors import NotReady, Overloaded, ValidationError
from keys.written import in_words
from routes.csv_answer import csv_answer, csv_rows, wants_csv
from routes.json_writing import Written, json_response
from routes.services import services
from routes.usage_bodies import (
    AuditAct,
    AuditQuery,
    AuditTrail,
    BudgetLeft,
    OwnUsage,
    OwnUsageQuery,
    UsageLine,
    UsageQuery,
    UsageReport,
)
from routes.usage_writing import AGAIN_SECONDS, TOO_MANY, as_json, as_rows, bounded, columns_of, figures_of
from routes.validation import validated
from usage.periods import DAY
from usage.prices import as_money
from usage.report import Line, Question, Report, contradiction, days_of, report, second_of
from usage.store import NAMED

usage = Blueprint("usage", __name__)

AWAY_SECONDS = 10
REPORTS_AT_ONCE = 2
PLACE_SECONDS = 2.0  # that a report waits for others that are being made
MOST_LINES = 100_000
OF_A_PAGE = 1_000


@usage.get("/api/admin/usage")
def everybody() -> Response:
    """Return what was used, by day, hour, account, model or user."""
    asked = validated(UsageQuery, UsageQuery.values(request.args))
    in_csv = wants_csv(request, asked.format)
    question = _question(asked, in_csv, asked.account)
    return _in_csv(question) if in_csv else json_response(_body(question))


@usage.get("/status/usage.csv")
def everybody_in_csv() -> Response:
    """Return the same as CSV, by day, account and model unless the query says otherwise, to a signed-in operator."""
    asked = validated(UsageQuery, {"by": "day,account,model", **UsageQuery.values(request.args)})
    return _in_csv(_question(asked, True, asked.account))


@usage.get("/api/v1/usage")
def own() -> Response:
    """Return what the caller has used, and what is left of its budgets."""
    asked = validated(OwnUsageQuery, OwnUsageQuery.values(request.args))
    account, in_csv = request_state().account, wants_csv(request, asked.format)
    question = _question(asked, in_csv, account.id)
    if "user" in question.by and not account.id.startswith(NAMED):
        raise ValidationError("by=user needs a key: behind an address there may be several people.", "by")
    if in_csv:
        return _in_csv(question)
    body = _body(question)
    left = [
        BudgetLeft(
            limit=one.limit,
            amount=_amount(one.limit, one.amount),
            used=_amount(one.limit, one.used),
            remaining=_amount(one.limit, one.remaining),
            renews_at=in_words(one.period.end),
        )
        for one in services().spending.budgets.standings(account)
    ]
    return json_response(OwnUsage(account=account.id, name=account.name, budgets=left, **body))


@usage.get("/api/admin/audit")
def audit_trail() -> Response:
    """List administrative acts, the newest first; `before` goes on behind the act of this number."""
    asked = validated(AuditQuery, AuditQuery.values(request.args))
    try:
        with elsewhere():
            found = audit.acts(services().database.engine(), asked.before, asked.limit + 1)
    except (DatabaseError, SQLAlchemyError) as error:
        raise _away() from error
    shown, before = found[: asked.limit], found[asked.limit - 1].id if len(found) > asked.limit else None
    if wants_csv(request, asked.format):
        return csv_answer("audit.csv", list(AuditAct.__annotations__), [csv_rows(map(_cells, shown))])
    acts = [
        AuditAct(
            id=act.id,
            at=in_words(act.at),
            actor=act.actor,
            address=act.address,
            action=act.action,
            target=act.target,
            details=dict(act.details),
        )
        for act in shown
    ]
    return jsonify(AuditTrail(acts=acts, before=before))


def _cells(act: audit.Act) -> list[str | int]:
    details = json.dumps(dict(act.details), ensure_ascii=False)
    return [act.id, in_words(act.at), act.actor, act.address, act.action, act.target, details]


def _question(asked: OwnUsageQuery, in_csv: bool, account: str | None) -> Question:
    """Return what the query asks for. Raises ValidationError."""
    by = tuple(dict.fromkeys(asked.by.split(",")))
    if (wrong := contradiction(by, asked.model)) is not None:
        raise ValidationError(f"Usage is not kept by {wrong} together.", "by")
    start, end = _span(asked)
    if end <= start:
        raise ValidationError("The first day is after the last one.", "from")
    limit = asked.limit or (MOST_LINES if in_csv else OF_A_PAGE)
    return Question(by, start, end, account, asked.model, limit, asked.offset)


def _span(asked: OwnUsageQuery) -> tuple[int, int]:
    """Return the first second and that behind the last one: of the month or the days, else of this month so far."""
    today = int(time.time() // DAY) * DAY
    if asked.month is not None and (asked.from_ or asked.to):
        raise ValidationError("Ask for a month, or for days, not for both.", "month")
    try:
        if asked.month is not None:
            return days_of(asked.month)
        first = datetime.fromtimestamp(today, UTC).strftime("%Y-%m-01")
        start = second_of(asked.from_ or (min(first, asked.to) if asked.to else first))
        return start, (second_of(asked.to) if asked.to else today) + DAY
    except ValueError as error:
        raise ValidationError("Give dates as 2026-01-31, and a month as 2026-01.") from error


def _answer(question: Question, write: Callable[[list[Line]], bytes]) -> tuple[Report[bytes], bool]:
    """Return the report, and whether everything that this process has recorded is in it.

    Raises NotReady, and Overloaded where there is no room for it.
    """
    write_bounded = bounded(write, growing_body(request))
    try:
        with elsewhere():
            current = services().usage.catch_up()
            engine = services().database.engine()
            with _place():
                return report(engine, question, write_bounded), current
    except (DatabaseError, SQLAlchemyError, OSError) as error:
        raise _away() from error


@contextmanager
def _place() -> Iterator[None]:
    """Make a report beside few others, since it takes processor time without a turn. Raises Overloaded."""
    places = services().report_places
    if not places.acquire(timeout=PLACE_SECONDS):
        raise Overloaded(TOO_MANY, AGAIN_SECONDS)
    try:
        yield
    finally:
        places.release()


def _oldest(question: Question) -> int:
    """Return the second from which on what is asked for is kept."""
    data = services().settings.data
    return int(time.time()) - DAY * (data.usage_hour_days if "hour" in question.by else data.usage_days)


def _away() -> NotReady:
    return NotReady("The database of usage is away; what is used is kept until it is back.", AWAY_SECONDS)


def _body(question: Question) -> UsageReport:
    found, current = _answer(question, as_json)
    return UsageReport(
        begins=in_words(question.start),
        ends=in_words(question.end),
        by=list(question.by),
        currency=services().settings.spending.currency,
        lines=cast(list[UsageLine], Written(found.lines)),
        next_offset=question.offset + question.limit if found.more else None,
        total=figures_of(found.total),
        complete=current and question.start >= _oldest(question),
    )


def _in_csv(question: Question) -> Response:
    """Return the lines as a table. Raises ValidationError where it would leave some out unasked."""
    found, _ = _answer(question, as_rows(question.by, services().settings.spending.currency))
    if found.more and question.limit == MOST_LINES:
        raise ValidationError(f"More than {MOST_LINES} lines: ask for less time, or by page with limit and offset.")
    response = csv_answer("usage.csv", columns_of(question.by), found.lines)
    if found.more:
        response.headers["X-Next-Offset"] = str(question.offset + question.limit)
    return response


def _amount(limit: str, amount: int) -> str | int:
    return as_money(amount) if limit.startswith("money") else amount
