"""Turns what the grammar library cannot say of arrays and objects into shapes that it can, or refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

from engine.text.schema import meeting
from engine.text.schema.probe import Satisfiability
from engine.text.schema.refusal import COMPLEX, UNSUPPORTED, SchemaRefused
from engine.text.schema.shapes import (
    ANYTHING,
    Array,
    Constant,
    Contains,
    Object,
    Shape,
    State,
    String,
    joined,
    key_of,
    union,
)

if TYPE_CHECKING:
    from engine.text.schema.expander import Expander

MAX_LISTED_ARRAYS = 130  # arrays of distinct values that are written out
MAX_COUNTED = 4  # how many more items than necessary satisfy a `contains` with an upper limit


def settled(expander: Expander, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Return shapes without `contains`, `uniqueItems` and `propertyNames`, of a part of the same values."""
    found: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, Array):
            for part in _without_contains(expander, shape):
                found += _without_unique(expander, part)
        elif isinstance(shape, Object):
            named = _without_names(expander, shape) if shape.names else [shape]
            found += [_without_listed(expander, _with_patterns_apart(expander, part)) for part in named]
        else:
            found.append(shape)
    return tuple(found)


# contains: what satisfies it comes first.


def _without_contains(expander: Expander, shape: Array) -> Iterator[Array]:
    pointer = meeting.pointer_of(shape.origins, "maxContains", "contains")
    if shape.contains and (shape.prefix or len(shape.contains) > 1):
        expander.exact = False  # it may be another item that satisfies it
    if len(shape.contains) > 1 and any(some.most is not None for some in shape.contains):
        raise SchemaRefused(UNSUPPORTED, pointer)
    if len(shape.contains) == 1 and shape.contains[0].most is not None:
        yield from _counted(expander, shape, shape.contains[0])
        return
    first: list[State] = []
    for some in shape.contains:
        expander.spend(some.least, pointer)
        if not any(some.state == shape.item(index) for index in range(some.least)):
            first += [some.state] * some.least
        elif some.least > shape.least:
            shape = replace(shape, least=some.least)
    yield from _starting(shape, first, shape.rest)


def _counted(expander: Expander, shape: Array, some: Contains) -> Iterator[Array]:
    assert some.most is not None
    subschema = some.state[0].subschema if some.state else expander.document.root
    other = expander.opposite(some.state, subschema)
    rest = joined(shape.rest or ANYTHING, other)
    for number in range(some.least, min(some.most, some.least + MAX_COUNTED) + 1):
        expander.spend(number, some.state[0].subschema.pointer if some.state else "")
        prefix = tuple(joined(state, other) if index >= number else state for index, state in enumerate(shape.prefix))
        yield from _starting(replace(shape, prefix=prefix), [some.state] * number, rest)


def _starting(shape: Array, first: list[State], rest: State | None) -> Iterator[Array]:
    """Yield the arrays of a shape whose first items satisfy these states too."""
    least = max(shape.least, len(first))
    if shape.most is not None and least > shape.most:
        return
    length = max(len(first), len(shape.prefix))
    prefix = [joined(shape.item(index), first[index] if index < len(first) else ANYTHING) for index in range(length)]
    yield replace(shape, prefix=tuple(prefix), rest=rest, least=least, contains=())


# uniqueItems: few values are written out, others can only be told apart by their place.


def _without_unique(expander: Expander, shape: Array) -> list[Shape]:
    if not shape.unique or (shape.most is not None and shape.most <= 1):
        return [replace(shape, unique=False)]
    none_after = shape.rest is not None and not expander.expand(shape.rest)
    last = len(shape.prefix) if none_after else shape.most
    if last is not None and last <= len(shape.prefix) and _apart(expander, shape.prefix[:last]):
        return [replace(shape, unique=False)]
    if not shape.prefix and shape.rest:
        listed = _listed(expander, shape)
        if listed is not None:
            return listed
    if last is not None and last <= 1:
        return [replace(shape, unique=False)]
    raise SchemaRefused(UNSUPPORTED, meeting.pointer_of(shape.origins, "uniqueItems"))


def _apart(expander: Expander, states: tuple[State, ...]) -> bool:
    expander.spend(comb(len(states), 2) // 10, "")
    return all(
        not any(meeting.alive(expander, shape, upper=True) for shape in expander.expand(joined(one, other), upper=True))
        for one, other in combinations(states, 2)
    )


def _listed(expander: Expander, shape: Array) -> list[Shape] | None:
    """Return every array of distinct values in their order in the schema; None if there are too many."""
    items = expander.expand(shape.rest or ANYTHING)
    values = {key_of(item.value): item.value for item in items if isinstance(item, Constant)}
    most = len(values) if shape.most is None else min(shape.most, len(values))
    lengths = range(shape.least, most + 1)
    if len(values) < len(items) or sum(comb(len(values), length) for length in lengths) > MAX_LISTED_ARRAYS:
        return None
    return [Constant(list(some), shape.origins) for length in lengths for some in combinations(values.values(), length)]


# propertyNames: names that are listed become properties, a pattern of names becomes a pattern of properties.


def _without_names(expander: Expander, shape: Object) -> list[Object]:
    strings = [name for name in expander.expand(shape.names) if isinstance(name, String) or _is_text(name)]
    kept = {
        name: state
        for name, state in shape.properties.items()
        if meeting.state_admits(expander, shape.names, name) or name in shape.required
    }
    if any(not meeting.state_admits(expander, shape.names, name) for name in shape.required):
        return []
    shape = replace(shape, properties=kept, names=ANYTHING)
    if any(name == String(origins=name.origins) for name in strings if isinstance(name, String)):
        return [shape]  # every name
    listed = [name.value for name in strings if isinstance(name, Constant)]
    properties = {name: meeting.named(expander, shape, name) for name in (*kept, *listed, *shape.required)}
    patterned = [name for name in strings if isinstance(name, String)]
    rest = shape.rest
    if rest is None and shape.properties and not shape.patterns:
        patterned, expander.exact = [], False  # closed, as every object that says nothing of other names
    if rest is not None and not shape.patterns and not expander.unsettled(rest):
        patterned = []  # closed by itself
    if not patterned:
        return [replace(shape, properties=properties, patterns={}, rest=expander.never)]
    pattern = _one_pattern(patterned)
    if pattern is None or shape.patterns:
        raise SchemaRefused(UNSUPPORTED, meeting.pointer_of(shape.origins, "propertyNames"))
    return [replace(shape, properties=properties, patterns={pattern: rest or ANYTHING}, rest=expander.never)]


def _with_patterns_apart(expander: Expander, shape: Object) -> Object:
    """Return an object no name of which matches two patterns: those that some name matches become one."""
    pointer = meeting.pointer_of(shape.origins, "patternProperties", "propertyNames")
    apart: list[tuple[str, State]] = []
    for pattern, state in shape.patterns.items():
        found = meeting.pattern_satisfiability(expander, pattern)
        if found in (Satisfiability.UNKNOWN, Satisfiability.COMPLEX):
            raise SchemaRefused(UNSUPPORTED if found is Satisfiability.UNKNOWN else COMPLEX, pointer)
        for other in list(apart):
            expander.spend(meeting.WORK_OF_A_MATCH, pointer)
            if meeting.pattern_satisfiability(expander, pattern, other[0]) is not Satisfiability.EMPTY:
                apart.remove(other)
                expander.exact = False
                pattern, state = f"{other[0]}|{pattern}", joined(state, other[1])
        if found is not Satisfiability.EMPTY:
            apart.append((pattern, state))
    if len(apart) < len(shape.patterns) and any(not expander.expand(state) for _, state in apart):
        raise SchemaRefused(UNSUPPORTED, pointer, "two patterns match the same names")
    return replace(shape, patterns=dict(apart))


def _without_listed(expander: Expander, shape: Object) -> Object:
    """Return an object without patterns all whose names are listed: they say nothing more, and stand for no name."""
    names, pointer = union(shape.properties, shape.required), meeting.pointer_of(shape.origins, "patternProperties")
    more = {
        pattern: state
        for pattern, state in shape.patterns.items()
        if not names or meeting.has_names(expander, pattern, names, pointer)
    }
    if len(more) == len(shape.patterns):
        return shape
    return replace(shape, properties={name: meeting.named(expander, shape, name) for name in names}, patterns=more)


def _is_text(shape: Shape) -> bool:
    return isinstance(shape, Constant) and isinstance(shape.value, str)


def _one_pattern(shapes: list[String]) -> str | None:
    """Return one pattern of all the strings; None if that takes more than one for a shape."""
    parts = []
    for shape in shapes:
        patterns = meeting.string_patterns(shape)
        if shape.least or shape.most is not None:
            patterns.append(f"^(?s:.{{{shape.least},{'' if shape.most is None else shape.most}}})$")
        if len(patterns) != 1:
            return None
        parts += patterns
    return parts[0] if len(parts) == 1 else None
