"""Stored responses as requests name them: the conversation that one goes on from, and the items of its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
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
    for items in _items(response.turns) if response is not None else ():
        found += validated(StoredItems, {"items": items}).items
        if len(found) > MAX_CONVERSATION:
            raise ValidationError(TOO_MANY, PREVIOUS)
    return found


def draft(previous: StoredResponse | None, asked: str | Sequence[InputItem]) -> Draft:
    """Return the room for a response to this input. Raises as `ResponseStore.draft` does."""
    return services().responses.draft(_owner(), previous, json_bytes(shown_items(asked)))


def input_items(response: StoredResponse, limit: int, newest_first: bool, after: str | None) -> InputItemList:
    """Return a page of the items that a stored response answers. Raises ValidationError for an unknown `after`."""
    items = list(chain.from_iterable(_items(response.turns[:-1])))
    if newest_first:
        items.reverse()
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise ValidationError("after is the id of no item of this response.", "after")
    rest = items if after is None else items[ids.index(after) + 1 :]
    page = rest[:limit]
    return InputItemList(
        object="list",
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(rest) > len(page),
    )


def _items(turns: Sequence[Turn]) -> Iterator[list[dict[str, Any]]]:
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
