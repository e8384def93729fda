"""The form that an answer must have: an object, an object of a schema, or a call of a tool, held to it by a grammar."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field

from engine.backend import Backend
from engine.errors import NotReady, ServiceError, Unsupported, ValidationError
from engine.text.grammar import Grammars, json_grammar, lark_grammar
from engine.types import Status, TokenMask
from routes.openai.base import OpenaiRequest
from routes.openai.tools import Toolbox
from routes.sse import compact

MAX_SCHEMA_BYTES = 64 * 1024
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
    """A schema and its name; strict is accepted, the answer always keeps to the schema."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(OpenaiRequest):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Discriminator("type")]
NewMask = Callable[[], TokenMask | None]
RETRY_AFTER = 5  # seconds


class GrammarShelf:
    """The grammars of every model, made when the first request asks for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the field below
        self._shelf: dict[str, Grammars] = {}

    def of(self, backend: Backend) -> Grammars:
        """Return a model's grammars. Raises Unsupported for a backend that cannot follow any, NotReady before it is."""
        name = backend.info.name
        with self._lock:
            if name not in self._shelf:
                vocabulary = backend.vocabulary()
                if vocabulary is None:
                    raise _refusal(backend)
                self._shelf[name] = Grammars(vocabulary)
            return self._shelf[name]


def _refusal(backend: Backend) -> ServiceError:
    if backend.state().status is Status.READY:
        return Unsupported("This model cannot hold its answer to a form.", "response_format")
    return NotReady("The model is not ready.", RETRY_AFTER)


def masks(
    wanted: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
    toolbox: Toolbox,
    backend: Backend,
    shelf: GrammarShelf,
) -> NewMask:
    """Return what makes the mask of each answer. Raises ValidationError and its kin, with the field to blame."""
    field, grammar = _grammar(wanted, toolbox)
    if grammar is None:
        return lambda: None
    grammars = shelf.of(backend)
    try:
        grammars.mask(grammar)  # compiled and kept here, in the request's own time
    except ValidationError as error:
        raise ValidationError(f"{field} {error.message}.", field) from None
    return lambda: grammars.mask(grammar)


def _grammar(
    wanted: TextFormat | JsonObjectFormat | JsonSchemaFormat | None, toolbox: Toolbox
) -> tuple[str, str | None]:
    free = wanted is None or isinstance(wanted, TextFormat)
    if toolbox.forced:
        if not free:
            raise ValidationError("response_format and a forced tool_choice contradict each other.", "response_format")
        for schema in toolbox.schemas():
            check_schema(schema, TOOLS)
        return TOOLS, lark_grammar(toolbox.lark())
    if free:
        return SCHEMA, None
    if toolbox.names:
        raise ValidationError("response_format and tools cannot be combined here.", "response_format")
    own = wanted.json_schema.schema_ if isinstance(wanted, JsonSchemaFormat) else None
    schema = {"type": "object"} if own is None else own
    check_schema(schema, SCHEMA)
    return SCHEMA, json_grammar(compact(schema))


def check_schema(schema: Any, field: str) -> None:
    """Raise ValidationError for a schema that is too long, too deep or too large to be compiled."""
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
