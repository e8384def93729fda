"""The tables. A column that is added here needs a migration (database/migrations/versions/); a test compares both.

Times are seconds since the epoch, money is in millionths of the operator's currency, and both are whole numbers.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()
FIGURES = ("requests", "failed", "input_tokens", "output_tokens", "cached_tokens", "images", "milliseconds", "cost")

# One row for each kind of data whose changes other copies look for; the value grows with each change.
REVISIONS = Table(
    "revisions",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Client keys. `revision` is the value of REVISIONS at a row's last change; `models` have commas between them, and NULL
# is all; `previous_hash` is of the secret before the last rotation, which is good until `previous_until`.
API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("disabled_at", BigInteger),
    Column("previous_hash", String(64)),
    Column("previous_until", BigInteger),
    Column("priority", String(16), nullable=False, server_default="normal"),
    Column("models", Text),
    Column("notes", Text, nullable=False, server_default=""),
    Column("requests_per_minute", BigInteger),
    Column("requests_per_hour", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("tokens_per_month", BigInteger),
    Column("money_per_day", BigInteger),
    Column("money_per_month", BigInteger),
    Column("revision", BigInteger, nullable=False, index=True),
)

# Who did what: administrative acts, and nothing that a client asked or was answered.
AUDIT = Table(
    "audit",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("target", String(128), nullable=False),
    Column("details", Text, nullable=False, server_default="{}"),
)


def _figures() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, server_default="0") for name in FIGURES]


# Usage by hour for a month and by day for longer. `account` is an Account's id, `period` the first second of it in UTC.
USAGE_HOURS, USAGE_DAYS = (
    Table(
        name,
        METADATA,
        Column("period", BigInteger, primary_key=True),
        Column("account", String(160), primary_key=True),
        Column("model", String(160), primary_key=True),
        *_figures(),
        Index(f"ix_{name}_account_period", "account", "period"),
    )
    for name in ("usage_hours", "usage_days")
)

# The `user` or `safety_identifier` that a request named, under its account.
USAGE_USERS = Table(
    "usage_users",
    METADATA,
    Column("period", BigInteger, primary_key=True),
    Column("account", String(160), primary_key=True),
    Column("user", String(128), primary_key=True),
    *_figures(),
)

# The name that each account had last; `at`: in which hour that was.
USAGE_ACCOUNTS = Table(
    "usage_accounts",
    METADATA,
    Column("account", String(160), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
)

# How far each journal has been added to the usage, in bytes, and when: written in the transaction of the figures.
USAGE_JOURNALS = Table(
    "usage_journals",
    METADATA,
    Column("journal", String(64), primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False, server_default="0"),
)

# Which budgets the operator was told to be nearly spent, or spent: once a period. `account`: "" for the whole service.
BUDGET_WARNINGS = Table(
    "budget_warnings",
    METADATA,
    Column("period", BigInteger, primary_key=True),
    Column("account", String(160), primary_key=True),
    Column("budget", String(32), primary_key=True),
    Column("percent", Integer, primary_key=True, autoincrement=False),
)
