"""The declarations of settings of clients: who they are, what is kept of them, and what they may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from settings import kinds, money
from settings.kinds import ANY_COUNT, whole
from settings.table import Group, setting

ANY_TOKENS = 1_000_000_000_000


@dataclass(frozen=True, repr=False)
class AccessSettings(Group):
    auth: tuple[str, ...] = setting(
        ("open",),
        kinds.ways_in(),
        "who may use the service: open to all, holders of client keys, of tokens of your issuer (jwt), or of either",
    )
    api_keys_file: Path | None = setting(
        None, kinds.file(), "file of client keys, one JSON object a line, beside those in the database"
    )
    jwt_secret_key: str | None = setting(
        None, kinds.signing_key(), "key of your issuer's tokens that are signed with HS256", secret=True
    )
    jwt_jwks_file: Path | None = setting(
        None, kinds.file(), "JWK set with the public keys of your issuer's tokens that are signed with RS256 or ES256"
    )
    jwt_issuer: str | None = setting(None, kinds.text(), "issuer (iss) that a token must name", unset="any")
    jwt_audience: str | None = setting(
        None, kinds.text(), "audience (aud) that a token must name", unset="none: a token for any audience is refused"
    )
    jwt_subject_claim: str = setting("sub", kinds.text(), "claim with the id that a token's usage is kept under")
    jwt_name_claim: str = setting("name", kinds.text(), "claim with the name that logs and pages show")
    jwt_models_claim: str | None = setting(
        None, kinds.text(), "claim with the models that a token may use: a list, or names with spaces between them"
    )
    jwt_limits_claim: str | None = setting(
        None, kinds.text(), 'claim with limits of the token, as an object such as {"requests_per_minute": 60}'
    )


@dataclass(frozen=True, repr=False)
class DataSettings(Group):
    state_dir: Path = setting(
        None,
        kinds.folder(),
        "folder of the database and of the journal of usage",
        unset="the unit's StateDirectory, else .state beside config.py",
    )
    database_url: str = setting(
        None,
        kinds.database(),
        "database of keys, usage and the audit trail, as an SQLAlchemy URL such as postgresql://user@host/name",
        secret=True,
        unset="SQLite in STATE_DIR",
    )
    backup_status: Path = setting(
        Path("/var/lib/avito-ai-backup/status.json"),
        kinds.file(),
        "file in which deploy/backup.sh notes the last backup, for /metrics and /health/detailed",
    )
    usage_days: int = setting(
        400,
        whole(32, 36_500),
        "days for which usage is kept by day, account, model and user",
    )
    usage_hour_days: int = setting(31, whole(8, 36_500), "days for which usage is kept by hour, account and model too")
    audit_days: int = setting(400, whole(1, 36_500), "days for which the audit trail is kept")


@dataclass(frozen=True, repr=False)
class SpendingSettings(Group):
    prices: Mapping[str, tuple[int, int, int]] | None = setting(
        None,
        money.prices(),
        "prices of a million tokens as input/output or input/output/cached, one for both models or "
        "avibe=0.2/0.6,avision=...; cached: prompt tokens found in a cache, as input if left out",
    )
    currency: str = setting("USD", kinds.word(), "name of the currency of prices and budgets; shown, never converted")
    budget_per_day: int | None = setting(
        None, money.amount(), "money that all answers of a day (UTC) may cost together; then requests are refused"
    )
    budget_per_month: int | None = setting(
        None, money.amount(), "money that all answers of a month (UTC) may cost together; then requests are refused"
    )
    budget_webhook_url: str | None = setting(
        None,
        money.webhook(),
        "address to which a JSON message is posted when 80% of a budget is used, and when it is spent",
        secret=True,
    )
    default_concurrent_requests: int | None = setting(
        None, whole(1, ANY_COUNT), "generation requests in flight of a caller without a limit of its own"
    )
    default_tokens_per_minute: int | None = setting(
        None, whole(1, ANY_TOKENS), "tokens per minute of a caller without a limit of its own"
    )
    default_tokens_per_day: int | None = setting(
        None, whole(1, ANY_TOKENS), "tokens per day (UTC) of a caller without a budget of its own"
    )
    default_tokens_per_month: int | None = setting(
        None, whole(1, ANY_TOKENS), "tokens per month (UTC) of a caller without a budget of its own"
    )
    default_money_per_day: int | None = setting(
        None, money.amount(), "money per day (UTC) of a caller without a budget of its own"
    )
    default_money_per_month: int | None = setting(
        None, money.amount(), "money per month (UTC) of a caller without a budget of its own"
    )
