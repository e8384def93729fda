"""What runs elsewhere: Redis, the database, the collector of traces, servers that answer for models."""

from __future__ import annotations

import os
import sqlite3
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from checks.finding import Finding, State, reason_of
from config import Settings, Upstream
from database.connect import DatabaseError, open_database

REDIS_SECONDS = 2.0
COLLECTOR_SECONDS = 3.0
UPSTREAM_SECONDS = 5.0
KEY, KEY_SECONDS = "avito_ai/check", 10
TRACES = "/v1/traces"


def check_redis(settings: Settings) -> Finding:
    """Write to the Redis of the rate limits as a request does: one that is full or read-only does not count."""
    url = settings.limits.rate_limit_storage
    if url == "memory":
        return Finding(State.OFF, "RATE_LIMIT_STORAGE=memory: each copy of the service counts on its own.")
    import redis  # as in edge/shared_windows.py: only if used
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis.from_url(
        url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=Retry(NoBackoff(), 0)
    )
    try:
        client.set(KEY, "1", ex=KEY_SECONDS)
    except (redis.RedisError, OSError, ValueError) as error:
        return Finding(State.FAILED, f"RATE_LIMIT_STORAGE, {_address(url)}: {reason_of(error)}.")
    finally:
        client.close()
    return Finding(State.OK, f"Redis at {_address(url)} takes writes.")


def check_database(settings: Settings) -> Finding:
    """Read from the database, and ask whether its file may be written; nothing is made or migrated."""
    url = make_url(settings.data.database_url)
    if url.get_backend_name() == "sqlite":
        return _check_sqlite(Path(url.database or ""))
    where = f"DATABASE_URL, {url.host or 'a socket'}:{url.port or 5432}"
    try:
        engine = open_database(settings.data.database_url)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()
    except (DatabaseError, SQLAlchemyError) as error:
        return Finding(State.FAILED, f"{where}: {_of_driver(error)}.")
    return Finding(State.OK, f"PostgreSQL at {where.partition(', ')[2]} answers.")


def check_collector(settings: Settings) -> Finding:
    """Send the collector an export of no spans, which is an empty message, with the headers of the settings."""
    wanted = settings.tracing
    if wanted.otel_exporter_otlp_endpoint is None:
        return Finding(State.OFF, "OTEL_EXPORTER_OTLP_ENDPOINT is not set: there are no traces.")
    headers = {"Content-Type": "application/x-protobuf", **dict(wanted.otel_exporter_otlp_headers or ())}
    where = _address(wanted.otel_exporter_otlp_endpoint)
    asked = urllib.request.Request(f"{wanted.otel_exporter_otlp_endpoint.rstrip('/')}{TRACES}", b"", headers)
    try:
        with _open(asked, COLLECTOR_SECONDS):
            return Finding(State.OK, f"The collector at {where} takes spans.")
    except urllib.error.HTTPError as error:
        error.close()
        return Finding(State.FAILED, f"OTEL_EXPORTER_OTLP_ENDPOINT, {where}: it answers {error.code}.")
    except (OSError, ValueError, HTTPException) as error:
        cause = getattr(error, "reason", error)
        return Finding(
            State.FAILED,
            f"OTEL_EXPORTER_OTLP_ENDPOINT, {where}: {reason_of(cause if isinstance(cause, Exception) else error)}.",
        )


def check_upstreams(settings: Settings) -> Finding:
    """Ask each server elsewhere for its models, with its key, which costs nothing there."""
    upstreams = settings.model.upstreams
    if not upstreams:
        return Finding(State.OFF, "No server elsewhere answers for a model.")
    said = {f"{name} at {_address(url)}": _ask(url, one) for name, one in upstreams.items() for url in one.urls}
    away = [f"{who}: {trouble}" for who, trouble in said.items() if trouble]
    if away:
        return Finding(State.FAILED, f"{'; '.join(away)}.")
    return Finding(State.OK, f"{', '.join(said)}: they answer.")


def _ask(url: str, upstream: Upstream) -> str:
    """Return what is wrong with a server, "" for nothing. What has no list of models may still answer."""
    headers = {"Authorization": f"Bearer {upstream.key}"} if upstream.key else {}
    asked = urllib.request.Request(f"{url.rstrip('/')}/models", headers=headers)
    try:
        context = ssl.create_default_context(cafile=str(upstream.ca_file) if upstream.ca_file else None)
        with _open(
            asked, UPSTREAM_SECONDS, urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return "" if error.code in (404, 405) else f"it answers {error.code}"
    except (OSError, ValueError, HTTPException) as error:
        cause = getattr(error, "reason", error)
        return reason_of(cause if isinstance(cause, Exception) else error)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever is asked elsewhere would get the key, or the headers, of the one that is named in the settings."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the redirect itself is the answer."""


def _open(asked: urllib.request.Request, seconds: float, *handlers: urllib.request.BaseHandler) -> Any:
    """Send a request to the server that it names, and to no other."""
    return urllib.request.build_opener(_NoRedirects, *handlers).open(asked, timeout=seconds)


def _check_sqlite(file: Path) -> Finding:
    folder = next(one for one in file.absolute().parents if one.exists())
    if not os.access(folder, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.W_OK)):
        return Finding(State.FAILED, f"The database {file} cannot be written by this user.")
    if not file.exists():
        return Finding(State.OK, f"The database {file} is made at its first use.")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        return Finding(State.FAILED, f"The database {file} cannot be read: {_of_driver(error)}.")
    return Finding(State.OK, f"The database {file} can be read and written.")


def _of_driver(error: Exception) -> str:
    """Return the first line of the driver's own words, which name host and user, and never the password."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0].rstrip(".")


def _address(url: str) -> str:
    """Return the host and the port of a URL, nothing else of it."""
    address = urlsplit(url)
    return f"{address.hostname or 'localhost'}:{address.port}" if address.port else address.hostname or "localhost"
