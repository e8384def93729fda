"""Objects of a number of properties, in the forms in which the grammar library can count them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import combinations
from math import comb

from engine.text.schema import meeting
from engine.text.schema.expander import Expander
from engine.text.schema.reach import Reach
from engine.text.schema.shapes import ANYTHING, Object, State, union

MAX_CHOICES = 64  # sets of names that are written out for a number of properties


def of_count(reach: Reach, expander: Expander, state: State, shape: Object) -> list[Object]:
    """Return objects, each with a number of properties that the library can hold, for `minProperties` and
    `maxProperties` beside properties that may be absent. state: whose shape it is; if each value of the state needs one
    that is smaller, that is no reason to require one: some of the objects are met without it.
    """
    needed = max(0, shape.least - len(shape.required))
    optional = [name for name in shape.properties if name not in shape.required]
    endless = [name for name in optional if not reach.is_apart(shape.properties[name], state, shape)]
    patterns = [inner for inner in shape.patterns.values() if reach.is_apart(inner, state, shape)]
    if needed <= len(optional) - len(endless):
        return _of_count(reach, expander, shape, endless, needed)
    absent = dict.fromkeys(endless, expander.never)
    ending = replace(shape, properties={**shape.properties, **absent})
    found = _of_count(reach, expander, ending, [], needed, is_open=not patterns)
    if any(shape.properties[name] in reach.full for name in endless):
        found += _of_count(reach, expander, shape, endless, needed)
    return found


def _of_count(
    reach: Reach, expander: Expander, shape: Object, last: Collection[str], needed: int, is_open: bool = False
) -> list[Object]:
    """Return the same. last: the names that are required if the others are too few; is_open: whether names count that
    neither are listed nor match a pattern.
    """
    states = {name: meeting.named(expander, shape, name) for name in union(shape.properties, shape.required)}
    full = {name: state for name, state in states.items() if state in reach.full}
    optional = sorted((name for name in full if name not in shape.required), key=lambda name: name in last)
    silent = shape.rest is None and bool(shape.properties or shape.required or shape.patterns)
    closed = silent or (shape.rest is not None and shape.rest not in reach.full)
    more = [state for state in shape.patterns.values() if state in reach.full]
    if silent and (is_open or not more) and needed > len(optional):
        closed, shape = False, replace(shape, rest=ANYTHING)  # names that are not listed are needed
    absent = {name: expander.never for name in states if name not in full}
    shape = replace(shape, properties={**full, **absent}, rest=expander.never if closed else shape.rest)
    room = None if shape.most is None else shape.most - len(shape.required)
    is_chosen = bool(optional) and needed <= len(optional) and (len(optional) > (room or 0) or not closed or bool(more))
    if room is not None and is_chosen:
        chosen = _sets(optional, min(room, len(optional)))
        return [_at_least(_with_only(expander, shape, optional, names), names, needed) for names in chosen]
    if needed and needed <= len(optional):
        return [_at_least(shape, names, needed) for names in _sets(optional, needed)]
    if needed:
        return [_at_least(shape, tuple(optional), len(optional))]
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
