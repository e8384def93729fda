"""Shapes of what is left of one shape without another, as far as shapes can say it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.text.schema import meeting
from engine.text.schema.document import Subschema
from engine.text.schema.multiples import common
from engine.text.schema.shapes import (
    ANYTHING,
    Array,
    Constant,
    Number,
    Object,
    Shape,
    State,
    String,
    joined,
    lower,
    meet_arrays,
    meet_numbers,
    meet_strings,
    union,
)

if TYPE_CHECKING:
    from engine.text.schema.expander import Expander

MAX_EXCLUDED = 2000  # characters of all texts that a string is not

Parts = tuple[list[Shape], bool]


def subtract(expander: Expander, shape: Shape, taken: Shape) -> Parts:
    """Return shapes of values that have one shape and not the other, and whether these are all of them."""
    if isinstance(shape, Constant):
        return ([] if meeting.admits(expander, taken, shape.value, upper=True) else [shape]), True
    if isinstance(taken, Constant):
        return _without_value(expander, shape, taken)
    if isinstance(shape, Number) and isinstance(taken, Number):
        return _numbers(shape, taken)
    if isinstance(shape, String) and isinstance(taken, String):
        return _strings(expander, shape, taken)
    if isinstance(shape, Array) and isinstance(taken, Array):
        return _arrays(expander, shape, taken)
    if isinstance(shape, Object) and isinstance(taken, Object):
        return _objects(expander, shape, taken)
    return [shape], True


def _present(parts: Iterator[Shape | None]) -> list[Shape]:
    return [part for part in parts if part is not None]


def _without_value(expander: Expander, shape: Shape, taken: Constant) -> Parts:
    value = taken.value
    if not meeting.admits(expander, shape, value, upper=True):
        return [shape], True
    if isinstance(shape, String):
        excluded = shape.excluded | {value}
        if sum(map(len, excluded)) > MAX_EXCLUDED:
            return [], False
        return [replace(shape, excluded=excluded)], True
    if isinstance(shape, Number):
        below, above = Number(high=value, high_open=True), Number(low=value, low_open=True)
        return _present(meet_numbers(shape, part) for part in (below, above)), True
    pointer = meeting.pointer_of(taken.origins)
    if isinstance(shape, Array):
        items = tuple(expander.value_state(item, pointer) for item in value)
        return _arrays(expander, shape, Array(items, expander.never, len(items), len(items)))
    assert isinstance(shape, Object)
    properties = {name: expander.value_state(inner, pointer) for name, inner in value.items()}
    return _objects(expander, shape, Object(properties, tuple(properties), rest=expander.never))


def _numbers(shape: Number, taken: Number) -> Parts:
    parts: list[Number | None] = []
    if taken.low is not None:
        parts.append(meet_numbers(shape, Number(high=taken.low, high_open=not taken.low_open)))
    if taken.high is not None:
        parts.append(meet_numbers(shape, Number(low=taken.high, low_open=not taken.high_open)))
    whole = (shape.integer or not taken.integer) and common(shape.multiple, taken.multiple) == shape.multiple
    return [part for part in parts if part is not None], whole


def _strings(expander: Expander, shape: String, taken: String) -> Parts:
    parts: list[String | None] = []
    if taken.least:
        parts.append(meet_strings(shape, String(most=taken.least - 1)))
    if taken.most is not None:
        parts.append(meet_strings(shape, String(least=taken.most + 1)))
    listed: list[Shape] = [
        Constant(text, shape.origins) for text in sorted(taken.excluded) if meeting.admits(expander, shape, text)
    ]
    met = meet_strings(shape, taken)
    apart = met is None or not meeting.alive(expander, met)
    if apart:
        return [shape], True
    whole = set(taken.patterns) <= set(shape.patterns) and set(taken.formats) <= set(shape.formats)
    return [*(part for part in parts if part is not None), *listed], whole


def _arrays(expander: Expander, shape: Array, taken: Array) -> Parts:
    parts: list[Array | None] = []
    each = max(len(taken.prefix), len(shape.prefix))
    expander.spend(len(taken.prefix) * each // meeting.NAMES_OF_WORK, meeting.pointer_of(shape.origins))
    if taken.least:
        parts.append(meet_arrays(shape, Array(most=taken.least - 1)))
    if taken.most is not None:
        parts.append(meet_arrays(shape, Array(least=taken.most + 1)))
    for index, state in enumerate(taken.prefix):
        parts.append(_with_item(expander, shape, index, state))
    if taken.rest:
        parts.append(_with_item(expander, shape, len(taken.prefix), taken.rest))
    for some in taken.contains:
        if some.least == 1:
            none = expander.opposite(some.state, _subschema(shape))
            parts.append(meet_arrays(shape, Array(rest=none, unspoken_rest=True)))
    whole = not taken.rest and not taken.unique and not taken.contains
    return [part for part in parts if part is not None], whole


def _with_item(expander: Expander, shape: Array, index: int, state: State) -> Array | None:
    """Return the arrays of a shape in which one item does not satisfy a state."""
    other = expander.opposite(state, _subschema(shape))
    prefix = (*(ANYTHING for _ in range(index)), other)
    return meet_arrays(shape, Array(prefix=prefix, least=index + 1, spoken=0))


def _objects(expander: Expander, shape: Object, taken: Object) -> Parts:
    parts: list[Shape] = []
    changes = len(taken.required) + len(taken.properties) + len(shape.properties)
    expander.spend(changes * (1 + len(shape.properties) // meeting.NAMES_OF_WORK), meeting.pointer_of(shape.origins))
    for name in taken.required:
        if name not in shape.required:
            parts.append(_with_property(shape, name, expander.never, required=False))
    for name, state in taken.properties.items():
        if state:
            other = joined(meeting.named(expander, shape, name), expander.opposite(state, _subschema(shape)))
            parts.append(_with_property(shape, name, other))
    if taken.rest or taken.patterns:
        for name in union(shape.properties, shape.required):
            if name not in taken.properties:
                state = meeting.named(expander, taken, name)
                other = joined(meeting.named(expander, shape, name), expander.opposite(state, _subschema(shape)))
                parts.append(_with_property(shape, name, other))
    if taken.least > len(shape.required):
        parts.append(replace(shape, most=lower(shape.most, taken.least - 1)))
    if taken.most is not None:
        parts.append(replace(shape, least=max(shape.least, taken.most + 1)))
    alone = shape.rest is not None and expander.is_never(shape.rest) and not shape.patterns
    whole = (alone or not (taken.rest or taken.patterns)) and not taken.names
    parts = [part for part in parts if not (isinstance(part, Object) and _contradicts(expander, part))]
    return parts, whole


def _with_property(shape: Object, name: str, state: State, required: bool = True) -> Object:
    """Return the objects of a shape whose property of that name satisfies a state."""
    all_required = union(shape.required, (name,)) if required else shape.required
    unspoken = shape.unspoken if name in shape.properties else shape.unspoken | {name}
    return replace(shape, properties={**shape.properties, name: state}, required=all_required, unspoken=unspoken)


def _contradicts(expander: Expander, shape: Object) -> bool:
    if shape.most is not None and max(shape.least, len(shape.required)) > shape.most:
        return True
    return any(name in shape.required and expander.is_never(state) for name, state in shape.properties.items())


def _subschema(shape: Shape) -> Subschema:
    """Return where a refusal of what is left of a shape points."""
    return Subschema({}, meeting.pointer_of(shape.origins), "")
