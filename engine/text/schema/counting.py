"""Objects of a number of properties, in the forms in which the grammar library can count them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb

from engine.text.schema import meeting
from engine.text.schema.expander import Expander
from engine.text.schema.reach import Reach
from engine.text.schema.refusal import UNSUPPORTED, SchemaRefused
from engine.text.schema.shapes import ANYTHING, Object, union

MAX_CHOICES = 64  # sets of names that are written out for a number of properties


def of_count(reach: Reach, expander: Expander, shape: Object) -> list[Object]:
    """Return objects, each with a number of properties that the library can hold, for `minProperties` and
    `maxProperties` beside properties that may be absent.
    """
    states = {name: meeting.named(expander, shape, name) for name in union(shape.properties, shape.required)}
    full = {name: state for name, state in states.items() if state in reach.full}
    optional = [name for name in full if name not in shape.required]
    closed = shape.rest is None and bool(shape.properties or shape.required or shape.patterns)
    closed = closed or (shape.rest is not None and shape.rest not in reach.full)
    more = [state for state in shape.patterns.values() if state in reach.full]
    needed = max(0, shape.least - len(shape.required))
    if closed and not more and needed > len(optional):
        closed, shape = False, replace(shape, rest=ANYTHING)  # names that are not listed are needed
    absent = {name: expander.never for name in states if name not in full}
    shape = replace(shape, properties={**full, **absent}, rest=expander.never if closed else shape.rest)
    room = None if shape.most is None else shape.most - len(shape.required)
    if room is not None and optional and (len(optional) > room or not closed or more):
        chosen = _sets(optional, min(room, len(optional)))
        return [_at_least(_with_only(expander, shape, optional, names), names, needed) for names in chosen]
    if needed and needed <= len(optional):
        return [_at_least(shape, names, needed) for names in _sets(optional, needed)]
    if needed:
        shape = _at_least(shape, tuple(optional), len(optional))
        if needed > len(optional) + 1:  # the library does not see that two names are the same
            raise SchemaRefused(UNSUPPORTED, meeting.pointer_of(shape.origins, "minProperties"))
        return [shape]
    return [replace(shape, least=0, most=None if optional or (closed and not more) else shape.most)]


def _with_only(expander: Expander, shape: Object, optional: list[str], names: tuple[str, ...]) -> Object:
    """Return an object without any optional properties but these."""
    absent = {name: expander.never for name in optional if name not in names}
    return replace(shape, properties={**shape.properties, **absent}, patterns={}, rest=expander.never)


def _at_least(shape: Object, names: tuple[str, ...], needed: int) -> Object:
    """Return an object in which as many of the names are required as are needed."""
    required = union(shape.required, names[:needed])
    return replace(shape, required=required, least=max(shape.least, len(required)), most=shape.most)


def _sets(names: list[str], size: int) -> list[tuple[str, ...]]:
    """Return the sets of names of one size; only the first of them if there are many."""
    if comb(len(names), size) > MAX_CHOICES:
        return [tuple(names[:size])]
    return list(combinations(names, size))
