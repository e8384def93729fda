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
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jsonschema_rs

from engine.errors import Overloaded, ValidationError
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

    Raises ValidationError for one that is none, and Overloaded where too many wait for a process.
    """

    def __init__(self, schema: Mapping[str, Any], field: str, client: str = "") -> None:
        self._text, self._field, self._client = json.dumps(schema), field, client
        self._validator: jsonschema_rs.Validator | None = None
        if len(self._text) > QUICK_SCHEMA or not is_quick(schema):
            self._try()
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
        return _executor.submit(self._client, lambda: judge(self._text, *values))

    def _try(self) -> None:
        tried = self._judged()
        try:
            said = tried.result(PATIENCE)
        except TimeoutError:
            tried.cancel()
            raise Overloaded(CROWDED, 1) from None
        if said == NO_SCHEMA:
            raise self._refusal("is not a JSON schema that can be enforced")
        if not said:
            raise self._too_complex()

    def _too_complex(self) -> ValidationError:
        return self._refusal("is too complex to be enforced")

    def _refusal(self, why: str) -> ValidationError:
        return ValidationError(f"{self._field} {why}.", self._field)


def judge(schema: str, *values: str, seconds: float = SECONDS) -> str:
    """Return what a process says of a schema and of values, all in JSON; "" where it does not come to an end."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", PROGRAM],
            input=f"[{','.join((schema, *values))}]".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            env={"MALLOC_ARENA_MAX": "1"},
        )
    except (subprocess.TimeoutExpired, OSError):
        return ""
    said = done.stdout.decode().strip()
    return said if said in WORDS else ""
