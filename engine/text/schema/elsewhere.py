"""Rewriting a schema in another process: the job and what comes of it, as JSON.

Rewriting is Python of up to half a second, and blaming a part of a schema takes a second; here either would keep the
interpreter lock from the engine and from all requests.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields
from typing import Any

from engine.text.schema.emission import rewrite
from engine.text.schema.expander import Work
from engine.text.schema.refusal import SchemaRefused


@dataclass(frozen=True, slots=True)
class Job:
    """A schema to rewrite. work: that is left for it; blame_seconds: how long to look for the part of it that is too
    hard to match, None to rewrite it only.
    """

    schema: Any
    work: int
    blame_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job. work: that is left; schema: as the grammar library takes it, None where there is a refusal.

    message: of the refusal, a predicate; keyword: that it blames.
    """

    work: int
    schema: dict[str, Any] | None = None
    message: str = ""
    keyword: str = ""


def outcome_of(job: Job) -> Outcome:
    """Do a job here."""
    work = Work(job.work)
    try:
        rewritten = rewrite(job.schema, work)
    except SchemaRefused as refusal:
        return Outcome(work.left, message=refusal.message, keyword=refusal.keyword)
    if job.blame_seconds is None:
        return Outcome(work.left, rewritten.schema)
    until = time.monotonic() + job.blame_seconds
    blamed = rewritten.blamed(lambda: time.monotonic() < until)
    return Outcome(work.left, message=blamed.message, keyword=blamed.keyword)


def packed(what: Job | Outcome) -> bytes:
    """Return a job or an outcome as bytes."""
    return json.dumps({field.name: getattr(what, field.name) for field in fields(what)}).encode()


def job_of(data: bytes) -> Job:
    """Return a packed job."""
    return Job(**json.loads(data))


def unpacked(data: bytes) -> Outcome:
    """Return a packed outcome."""
    return Outcome(**json.loads(data))
