"""The operator's page of usage: who used how much, when, of which model."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from config import MILLION
from database.connect import DatabaseError
from routes.bars import Bars, stacked
from routes.locale import Locale, visitors_locale
from routes.operator_page import operators_page, wait_without_turn, without_database
from routes.services import services
from usage.charts import SPANS, Charted, Choice, Sums, charted

admin_usage = Blueprint("admin_usage", __name__)
wait_without_turn(admin_usage)

LONGEST = 160  # characters of an account or a model


@admin_usage.errorhandler(DatabaseError)
@admin_usage.errorhandler(SQLAlchemyError)
def no_database(error: Exception) -> ResponseReturnValue:
    """Say that the database cannot be used."""
    return without_database(error, "usage")


@admin_usage.get("/status/usage")
def index() -> str:
    """Show usage by period, model and account; `span` is day, week, month or year, `account` and `model` choose one."""
    locale = visitors_locale()
    span = request.args.get("span", "month")
    span = span if span in SPANS else "month"
    account, model = (request.args.get(name, "").strip()[:LONGEST] for name in ("account", "model"))
    found = charted(services().database.engine(), Choice(SPANS[span], account, model), time.time())
    return operators_page(
        "usage.html",
        page="usage",
        span=span,
        spans=list(SPANS),
        account=account,
        model=model,
        csv=_csv(found.starts[0], account, model),
        plots=_plots(found, span, locale),
        total=_shown(found.total, locale),
        accounts=[(one, name, _shown(sums, locale)) for one, name, sums in found.accounts],
        models=[(name, _shown(_sum(line), locale)) for name, line in found.by_model.items()],
        currency=services().settings.spending.currency,
        costs=bool(services().settings.spending.prices) or found.total["cost"] > 0,
    )


def _csv(first: int, account: str, model: str) -> str:
    """Return the address of the same as a table. first: the second that it begins with."""
    chosen: dict[str, Any] = {
        "from": datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%d"),
        "account": account or None,
        "model": model or None,
    }
    return url_for("usage.everybody_in_csv", **chosen)


def _plots(found: Charted, span: str, locale: Locale) -> dict[str, Bars]:
    """Return the charts by what they show: tokens, requests, and cost where there is any."""
    periods = [_date(start, span) for start in found.starts]

    def chart(value: Callable[[Sums], float], shown: Callable[[float], str], least: float) -> Bars:
        series = {name: [value(sums) for sums in line] for name, line in found.by_model.items()}
        return stacked(series, periods, shown, least)

    plots = {
        "tokens": chart(lambda sums: sums["input_tokens"] + sums["output_tokens"], locale.number, 10),
        "requests": chart(lambda sums: sums["requests"], locale.number, 4),
    }
    if found.total["cost"]:
        plots["cost"] = chart(lambda sums: sums["cost"] / MILLION, lambda value: _money(value, locale), 0.01)
    return plots


def _date(start: int, span: str) -> str:
    form = {"day": "%H:%M", "week": "%m-%d %H:%M", "month": "%m-%d", "year": "%Y-%m"}[span]
    return datetime.fromtimestamp(start, UTC).strftime(form)


def _sum(line: list[Sums]) -> Sums:
    return {name: sum(sums[name] for sums in line) for name in line[0]}


def _shown(sums: Sums, locale: Locale) -> dict[str, Any]:
    """Return sums as a table shows them, times in seconds."""
    shown = {name: locale.number(value) for name, value in sums.items()}
    return shown | {
        "seconds": locale.number(sums["milliseconds"] / 1000),
        "cost": _money(sums["cost"] / MILLION, locale),
    }


def _money(value: float, locale: Locale) -> str:
    """Return an amount with two decimal places, one below 1 to the millionth."""
    return locale.number(value, 2) if value >= 1 or value == 0 else locale.number(value, 6).rstrip("0")
