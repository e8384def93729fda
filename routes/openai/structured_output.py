"""Structured output: a JSON object, JSON of a schema or a forced tool call, enforced by a grammar."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field

from engine.backend import Backend
from engine.errors import NotReady, ServiceError, Unsupported, ValidationError
from engine.text.grammar import Grammars, json_grammar, lark_grammar
from engine.types import Status, TokenMask
from engine.wanted import Wanted
from routes.openai.base import OpenaiRequest
from routes.openai.tools import Toolbox
from routes.sse import compact

MAX_SCHEMA_BYTES = 64 * 1024
MAX_FORCED_CHARACTERS = 256 * 1024  # of the schemas of all functions that one answer may call
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_VALUES = 2000
SCHEMA, TOOLS = "response_format.json_schema.schema", "tools"


class TextFormat(OpenaiRequest):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(OpenaiRequest):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchema(OpenaiRequest):
    """A schema and its name; strict is accepted and ignored: the answer always conforms to the schema."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(OpenaiRequest):
    """JSON that conforms to a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Discriminator("type")]
NewMask = Callable[[], TokenMask | None]


class GrammarCache:
    """The compiled grammars of every model, each built by the first request that needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the field below
        self._by_model: dict[str, Grammars] = {}

    def for_model(self, backend: Backend) -> Grammars:
        """Return a model's grammars. Raises Unsupported if it cannot follow any, NotReady while it is loading."""
        name = backend.info.name
        with self._lock:
            if name not in self._by_model:
                vocabulary = backend.vocabulary()
                if vocabulary is None:
                    raise _refusal(backend)
                self._by_model[name] = Grammars(vocabulary)
            return self._by_model[name]

    def size(self) -> tuple[int, int]:
        """Return how many compiled grammars are kept, and their bytes."""
        with self._lock:
            all_grammars = list(self._by_model.values())
        return sum(one.cached for one in all_grammars), sum(one.cached_bytes for one in all_grammars)


def _refusal(backend: Backend) -> ServiceError:
    if backend.state().status is Status.READY:
        return Unsupported("This model cannot hold its answer to a form.", "response_format")
    return NotReady("The model is not ready.")


def new_mask(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
    toolbox: Toolbox,
    backend: Backend,
    cache: GrammarCache,
    wanted: Wanted,
    owner: str,
) -> NewMask:
    """Return a function that makes the mask of one answer. Raises ServiceError with the field that is wrong, and as
    `wanted` does. owner: who may find the compiled grammar again.
    """
    field, grammar = _grammar(response_format, toolbox)
    if grammar is None:
        return lambda: None
    grammars = cache.for_model(backend)
    try:
        grammars.mask(grammar, wanted, field, owner)  # compiles it now, while the request's thread waits
    except ValidationError as error:
        raise ValidationError(f"{field} {error.message}.", field) from None
    return lambda: grammars.mask(grammar, field=field, owner=owner)


def _grammar(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None, toolbox: Toolbox
) -> tuple[str, str | None]:
    free = response_format is None or isinstance(response_format, TextFormat)
    if toolbox.forced:
        if not free:
            raise ValidationError("response_format and a forced tool_choice contradict each other.", "response_format")
        schemas = toolbox.schemas()
        for schema in schemas:
            check_schema(schema, TOOLS)
        if sum(len(compact(schema)) for schema in schemas) > MAX_FORCED_CHARACTERS:
            raise ValidationError(f"{TOOLS} are too long. Maximum: {MAX_FORCED_CHARACTERS // 1024} KiB", TOOLS)
        return TOOLS, lark_grammar(toolbox.lark())
    if free:
        return SCHEMA, None
    if toolbox.names:
        raise ValidationError("response_format and tools cannot be combined here.", "response_format")
    own = response_format.json_schema.schema_ if isinstance(response_format, JsonSchemaFormat) else None
    schema = {"type": "object"} if own is None else own
    check_schema(schema, SCHEMA)
    return SCHEMA, json_grammar(compact(schema))


def check_schema(schema: Any, field: str) -> None:
    """Raise ValidationError for a schema that is too long, too deep or too large to compile."""
    if len(compact(schema).encode()) > MAX_SCHEMA_BYTES:
        raise ValidationError(f"{field} is too long. Maximum: {MAX_SCHEMA_BYTES // 1024} KiB", field)
    values = 0
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        values += len(level)
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            break
    if level:
        raise ValidationError(f"{field} is nested too deeply. Maximum: {MAX_SCHEMA_DEPTH} levels", field)
    if values > MAX_SCHEMA_VALUES:
        raise ValidationError(f"{field} is too large. Maximum: {MAX_SCHEMA_VALUES} values", field)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
