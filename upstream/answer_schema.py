"""One JSON schema of a request, to which a whole answer is held.

The library keeps the interpreter's lock while it compiles and validates, and a schema of a few references takes time
that doubles with each of them. So whatever is not quick for certain is done by a process that can be killed, in an
order that is fair between clients.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jsonschema_rs

from engine.errors import Overloaded, ValidationError
from engine.wanted import Wanted
from upstream.fair_executor import CROWDED, FairExecutor
from upstream.quick_schema import is_quick
from upstream.schema_process import NO_SCHEMA, VALID, WORDS

PROCESSES = 3  # one of them is left by each client to the others
SECONDS = 5.0  # for one process
PATIENCE = 2 * SECONDS  # for a process, and for others' schemas to be done first
QUICK_SCHEMA = 64 * 1024  # characters, which compile within about 20 ms
QUICK_WORK = 10_000_000  # characters of the schema times those of the value: about 10 ms
PROGRAM = str(Path(__file__).with_name("schema_process.py"))

_executor = FairExecutor(PROCESSES, "schemas")


class AnswerSchema:
    """A schema that answers must satisfy. field: which has it; client: whose it is.

    Raises ValidationError for one that is none, as far as that is told here; `try_schemas` tells the rest.
    """

    def __init__(self, schema: Mapping[str, Any], field: str, client: str = "") -> None:
        self._text, self._field, self._client = json.dumps(schema), field, client
        self._validator: jsonschema_rs.Validator | None = None
        if len(self._text) > QUICK_SCHEMA or not is_quick(schema):
            return
        try:
            self._validator = jsonschema_rs.validator_for(dict(schema), offline=True)
        except (ValueError, TypeError, RecursionError, jsonschema_rs.ReferencingError):
            raise self._refusal("is not a JSON schema that can be enforced") from None

    async def allows(self, value: Any, text: str) -> bool:
        """Return whether a value satisfies the schema. text: its JSON.

        Raises ValidationError if that takes long, and Overloaded where others' checks do.
        """
        if self._validator is not None and len(self._text) * len(text) <= QUICK_WORK:
            return self._validator.is_valid(value)
        try:
            async with asyncio.timeout(PATIENCE):
                said = await asyncio.wrap_future(self._judged(text))
        except TimeoutError:
            raise Overloaded(CROWDED, 1) from None
        if not said:
            raise self._too_complex()
        return said == VALID

    def _judged(self, *values: str) -> Future[str]:
        return _submitted([self], *values)

    def _too_complex(self) -> ValidationError:
        return self._refusal("is too complex to be enforced")

    def _refusal(self, why: str) -> ValidationError:
        return ValidationError(f"{self._field} {why}.", self._field)


def try_schemas(schemas: Sequence[AnswerSchema], wanted: Wanted) -> None:
    """Compile the schemas of one field that are not compiled here, by one process.

    Raises ValidationError where one is none, or all of them together take long; Overloaded where others' schemas do;
    and as `wanted` does, soon after the request is left or its time is over.
    """
    slow = [one for one in schemas if one._validator is None]
    if not slow:
        return
    wanted.check()
    tried = _submitted(slow)
    try:
        said = _result(tried, wanted)
    finally:
        tried.cancel()  # that of one that is done already does nothing
        del tried  # an error would keep itself by its traceback
    if said == NO_SCHEMA:
        raise slow[0]._refusal("is not a JSON schema that can be enforced")
    if not said:
        raise slow[0]._too_complex()


def _result(tried: Future[str], wanted: Wanted) -> str:
    tried.add_done_callback(lambda _: wanted.changed.set())
    until = time.monotonic() + PATIENCE
    while not tried.done():
        left = until - time.monotonic()
        if left <= 0:
            raise Overloaded(CROWDED, 1)
        wanted.wait(left)
    return tried.result()


def _submitted(schemas: Sequence[AnswerSchema], *values: str) -> Future[str]:
    """Return what a process will say of schemas of one client, and of values."""
    texts = f"[{','.join(one._text for one in schemas)}]"
    return _executor.submit(schemas[0]._client, lambda: judge(texts, *values))


def judge(schemas: str, *values: str, seconds: float = SECONDS) -> str:
    """Return what a process says of a list of schemas and of values, all in JSON; "" where it comes to no end."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", PROGRAM],
            input=f"[{','.join((schemas, *values))}]".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            env={"MALLOC_ARENA_MAX": "1"},
        )
    except (subprocess.TimeoutExpired, OSError):
        return ""
    said = done.stdout.decode().strip()
    return said if said in WORDS else ""
