"""Stored responses as requests name them: the conversation that one goes on from, and the items of its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, dropwhile, islice
from typing import Any

from flask import request

from edge.compression import BODIES_FULL
from edge.errors import NotFound, PreviousNotFound
from edge.gate import grow_body
from edge.request_state import request_state
from engine.errors import Overloaded, ValidationError
from routes.chat.body_limits import body_limits
from routes.json_text import read_json
from routes.json_writing import json_bytes
from routes.openai.responses.bodies import InputItemList
from routes.openai.responses.conversation import PREVIOUS
from routes.openai.responses.items import InputItem, StoredItems
from routes.openai.responses.shown_items import shown_items
from routes.openai.responses.store import Draft, StoredResponse, Turn
from routes.services import services
from routes.validation import validated

MAX_CONVERSATION = 8192  # items
MAX_CONTAINERS = 40_000  # braces and brackets of their JSON, twice as many as a request may have
SEARCHED_BYTES = 1024 * 1024  # of a turn, at once
TURN_ITEMS = 64  # of an input that are kept, and read, together: a page is read without the whole conversation
TOO_MANY = f"The stored conversation has more than {MAX_CONVERSATION} items; go on with a new one."


def find(response_id: str) -> StoredResponse:
    """Return a stored response of this caller. Raises NotFound, whoever else may have one of that id."""
    found = services().responses.find(_owner(), response_id)
    if found is None:
        raise NotFound("There is no stored response of this id; it may have expired.")
    return found


def delete(response_id: str) -> None:
    """Delete a stored response of this caller. Raises NotFound."""
    if not services().responses.delete(_owner(), response_id):
        raise NotFound("There is no stored response of this id; it may have expired.")


def find_previous(response_id: str) -> StoredResponse:
    """Return the stored response that a request goes on from. Raises PreviousNotFound."""
    found = services().responses.find(_owner(), response_id)
    if found is None:
        raise PreviousNotFound(
            "There is no stored response of this id. A response is stored for an hour, if its request has store: true.",
            PREVIOUS,
        )
    return found


def items_of(response: StoredResponse | None) -> Sequence[InputItem]:
    """Return the conversation up to and with a stored response. Raises ValidationError for one of too many items."""
    found: list[InputItem] = []
    if response is not None:
        containers = sum(_number_of(b"{", turn.items) + _number_of(b"[", turn.items) for turn in response.turns)
        if containers > MAX_CONTAINERS:  # all of them are read for each request that goes on
            raise ValidationError(TOO_MANY, PREVIOUS)
    for items in _items(response.turns) if response is not None else ():
        found += validated(StoredItems, {"items": items}).items
        if len(found) > MAX_CONVERSATION:
            raise ValidationError(TOO_MANY, PREVIOUS)
    return found


def draft(previous: StoredResponse | None, asked: str | Sequence[InputItem]) -> Draft:
    """Return the room for a response to this input. Raises as `ResponseStore.draft` does."""
    shown = shown_items(asked)
    turns = [json_bytes(shown[start : start + TURN_ITEMS]) for start in range(0, len(shown), TURN_ITEMS)]
    return services().responses.draft(_owner(), previous, turns)


def input_items(response: StoredResponse, limit: int, newest_first: bool, after: str | None) -> InputItemList:
    """Return a page of the items that a stored response answers. Raises ValidationError for an unknown `after`."""
    turns = response.turns[-2::-1] if newest_first else response.turns[:-1]
    rest = chain.from_iterable(reversed(items) if newest_first else items for items in _items(_from(turns, after)))
    if after is not None and not any(item["id"] == after for item in rest):
        raise ValidationError("after is the id of no item of this response.", "after")
    found = list(islice(rest, limit + 1))
    page = found[:limit]
    return InputItemList(
        object="list",
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(found) > limit,
    )


def _from(turns: Sequence[Turn], after: str | None) -> Iterator[Turn]:
    """Return the turns without the first ones, which do not name the id; all of them where no id is given."""
    name = b"" if after is None else b'"id":' + json_bytes(after)
    return dropwhile(lambda turn: not _has(turn.items, name), turns)


# Turns have up to a hundred megabytes: no call searches so much of one that others wait for the interpreter lock.


def _has(items: bytes, name: bytes) -> bool:
    starts, reach = range(0, len(items), SEARCHED_BYTES), SEARCHED_BYTES + len(name) - 1
    return any(items.find(name, start, start + reach) >= 0 for start in starts)


def _number_of(character: bytes, items: bytes) -> int:
    return sum(items.count(character, at, at + SEARCHED_BYTES) for at in range(0, len(items), SEARCHED_BYTES))


def _items(turns: Iterable[Turn]) -> Iterator[list[dict[str, Any]]]:
    """Yield the items of each turn. They may have images, which are read like those of a request, and count like them.

    Raises Overloaded where the budget of bodies has no room for a turn.
    """
    limits = body_limits(services().settings.generation.max_model_len)
    for turn in turns:
        if not grow_body(request, len(turn.items)):
            raise Overloaded(BODIES_FULL)
        yield read_json(turn.items, limits)


def _owner() -> str:
    """Return whose responses a request may name: its client's, as budgets are charged."""
    return request_state().account.id
