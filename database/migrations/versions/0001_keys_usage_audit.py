"""Keys, usage and audit: the first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    whole = sa.BigInteger
    op.create_table(
        "revisions", sa.Column("name", sa.String(32), primary_key=True), sa.Column("value", whole, nullable=False)
    )
    requests = "requests_per_minute requests_per_hour concurrent_requests"
    amounts = "tokens_per_minute tokens_per_day tokens_per_month money_per_day money_per_month"
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", whole, nullable=False),
        sa.Column("expires_at", whole),
        sa.Column("disabled_at", whole),
        sa.Column("previous_hash", sa.String(64)),
        sa.Column("previous_until", whole),
        sa.Column("priority", sa.String(16), nullable=False, server_default="normal"),
        sa.Column("models", sa.Text),
        sa.Column("notes", sa.Text, nullable=False, server_default=""),
        *(sa.Column(name, whole) for name in f"{requests} {amounts}".split()),
        sa.Column("revision", whole, nullable=False, index=True),
    )
    op.create_table(
        "audit",
        sa.Column("id", whole().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", whole, nullable=False, index=True),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("target", sa.String(128), nullable=False),
        sa.Column("details", sa.Text, nullable=False, server_default="{}"),
    )
    for name in ("usage_hours", "usage_days"):
        op.create_table(name, *_key_columns("model", 160), *_figures())
        op.create_index(f"ix_{name}_account_period", name, ["account", "period"])
    op.create_table("usage_users", *_key_columns("user", 128), *_figures())
    op.create_table(
        "usage_accounts",
        sa.Column("account", sa.String(160), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("at", whole, nullable=False, index=True),
    )
    op.create_table(
        "usage_journals",
        sa.Column("journal", sa.String(64), primary_key=True),
        sa.Column("offset", whole, nullable=False),
        sa.Column("at", whole, nullable=False, server_default="0"),
    )
    op.create_table(
        "budget_warnings",
        *_key_columns("budget", 32),
        sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
    )


def _key_columns(last: str, length: int) -> list[sa.Column[Any]]:
    period = sa.Column("period", sa.BigInteger, primary_key=True)
    account = sa.Column("account", sa.String(160), primary_key=True)
    return [period, account, sa.Column(last, sa.String(length), primary_key=True)]


def _figures() -> list[sa.Column[int]]:
    names = "requests failed input_tokens output_tokens cached_tokens images milliseconds cost".split()
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in names]
