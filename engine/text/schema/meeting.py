"""What two shapes have in common, whether a value has a shape, and whether a shape can have any value."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from engine.text.schema import probe
from engine.text.schema.formats import FORMATS
from engine.text.schema.multiples import exact
from engine.text.schema.patterns import any_but
from engine.text.schema.probe import Satisfiability, matches, satisfiability, tried
from engine.text.schema.refusal import COMPLEX, UNSUPPORTED, SchemaRefused
from engine.text.schema.shapes import (
    ANYTHING,
    Array,
    Constant,
    Number,
    Object,
    Origins,
    Shape,
    State,
    String,
    is_number,
    joined,
    key_of,
    lower,
    meet_arrays,
    meet_numbers,
    meet_strings,
    merged,
    rest_of_both,
    union,
)

if TYPE_CHECKING:
    from engine.text.schema.expander import Expander

LOOK_AHEAD = 3  # levels of required values, and items of an array, that are looked at to see that there is no value
_COUNTED, _REPEATED_GROUP = re.compile(r"\{\d"), re.compile(r"\)[*+{]")
MAX_PATTERNS = 12  # of one string; the library's time can double with each, and nothing ends it
WORK_OF_A_MATCH = 50  # compared with that of meeting two shapes
WORK_OF_A_CHECK, WORK_OF_A_TRIAL = 30, 300
WORK_OF_A_NAME = 4  # that is listed beside a pattern
WORK_OF_A_CLASS = 4  # of Unicode, in a pattern: some have hundreds of ranges
CHARACTERS_A_WORK = 50  # of patterns that are checked, for each unit of work more
MATCHED_A_WORK = 10  # characters of a text, which may be several bytes each
EXCLUDED_A_WORK = 3  # characters of texts that a string is not
NAMES_OF_WORK = 10  # how many properties of two objects are met in that time


def meet(expander: Expander, one: Shape, other: Shape, upper: bool) -> Shape | None:
    """Return the shape of values that have both shapes; None if there are none."""
    if isinstance(one, Constant) or isinstance(other, Constant):
        constant, shape = (one, other) if isinstance(one, Constant) else (other, one)
        if isinstance(constant, Constant) and admits(expander, shape, constant.value, upper):
            return Constant(constant.value, merged(one.origins, other.origins))
        return None
    if isinstance(one, Number) and isinstance(other, Number):
        return meet_numbers(one, other)
    if isinstance(one, String) and isinstance(other, String):
        return meet_strings(one, other)
    if isinstance(one, Array) and isinstance(other, Array):
        met = meet_arrays(one, other)
        if met is not None:
            expander.spend(sum(map(len, met.prefix), len(met.prefix)) // NAMES_OF_WORK, pointer_of(met.origins))
        return met
    if isinstance(one, Object) and isinstance(other, Object):
        return _meet_objects(expander, one, other, upper)
    return None


def _meet_objects(expander: Expander, one: Object, other: Object, upper: bool) -> Object | None:
    """What one side says of all other names holds for the names and patterns of the other side."""
    all_names = union(one.properties, other.properties)
    many = len(all_names) + len(one.patterns) + len(other.patterns) + len(one.required) + len(other.required)
    expander.spend(many // NAMES_OF_WORK, pointer_of(one.origins or other.origins))
    origins = merged(one.origins, other.origins)
    met = Object(
        {name: joined(named(expander, one, name), named(expander, other, name)) for name in all_names},
        union(one.required, other.required),
        {
            pattern: joined(_of_pattern(expander, one, pattern, upper), _of_pattern(expander, other, pattern, upper))
            for pattern in union(one.patterns, other.patterns)
        },
        rest_of_both(one.rest, other.rest),
        joined(one.names, other.names),
        max(one.least, other.least),
        lower(one.most, other.most),
        frozenset(all_names) - (one.properties.keys() - one.unspoken) - (other.properties.keys() - other.unspoken),
        origins,
    )
    return None if met.most is not None and max(met.least, len(met.required)) > met.most else met


def _of_pattern(expander: Expander, shape: Object, pattern: str, upper: bool) -> State:
    if pattern in shape.patterns:
        return shape.patterns[pattern]
    # A name may match a pattern of this shape too: asking for more than it must is safe, unless `upper`.
    expander.exact = expander.exact and not (shape.patterns and shape.rest)
    return ANYTHING if upper and shape.patterns else shape.rest or ANYTHING


def named(expander: Expander, shape: Object, name: str) -> State:
    """Return the state of one property of an object."""
    if name in shape.properties:
        return shape.properties[name]
    if shape.patterns:
        found = matching(expander, shape.patterns, name, pointer_of(shape.origins, "patternProperties"))
        if found:
            return joined(*found)
    return shape.rest or ANYTHING


def matching(expander: Expander, patterns: Mapping[str, State], name: str, pointer: str) -> list[State]:
    """Return the states of all patterns that match a name."""
    return [state for pattern, state in patterns.items() if is_match(expander, pattern, name, pointer)]


def is_match(expander: Expander, pattern: str, text: str, pointer: str) -> bool:
    """Return whether a text matches a pattern. Raises SchemaRefused if the library cannot tell."""
    expander.spend(WORK_OF_A_MATCH + _work_of((pattern,)) + len(text) // MATCHED_A_WORK, pointer)
    found = matches(pattern, text)
    if found is None:
        unread = pattern_satisfiability(expander, pattern) is Satisfiability.UNKNOWN
        raise SchemaRefused(UNSUPPORTED if unread else COMPLEX, pointer)
    return found


def has_names(expander: Expander, pattern: str, listed: Collection[str], pointer: str) -> bool:
    """Return whether names of a pattern are not listed. Raises SchemaRefused if the library cannot tell."""
    expander.spend(WORK_OF_A_CHECK + WORK_OF_A_NAME * len(listed) + _work_of((pattern, *listed)), pointer)
    found = probe.has_names(pattern, listed)
    if found is None:
        raise SchemaRefused(COMPLEX, pointer)
    return found


def pointer_of(origins: Origins, *keywords: str) -> str:
    """Return where one of the keywords stands, else where any does that a shape comes from."""
    for keyword in keywords:
        if keyword in origins:
            return origins[keyword]
    return next(iter(origins.values()), "")


def admits(expander: Expander, shape: Shape, value: Any, upper: bool = False) -> bool:
    """Return whether a value has a shape, or, if `upper`, may have it. A `format` is no reason to refuse a value that a
    schema lists.
    """
    if isinstance(shape, Constant):
        return bool(key_of(shape.value) == key_of(value))
    if isinstance(shape, Number):
        return is_number(value) and _in_bounds(shape, value)
    if isinstance(shape, String):
        return isinstance(value, str) and _is_string(expander, shape, value)
    if isinstance(shape, Array):
        return isinstance(value, list) and _is_array(expander, shape, value, upper)
    return isinstance(value, dict) and _is_object(expander, shape, value, upper)


def state_admits(expander: Expander, state: State, value: Any, upper: bool = False) -> bool:
    """Return whether a value satisfies a state, or, if `upper`, may satisfy it."""
    shapes = expander.unsettled(state, upper)
    expander.spend(1 + len(shapes) // NAMES_OF_WORK, "")
    return any(admits(expander, shape, value, upper) for shape in shapes)


def values_inside(value: Any, kind: type) -> list[Any]:
    """Return what an object or an array contains, if the value is one of that kind."""
    if isinstance(value, dict) and kind is dict:
        return list(value.values())
    return value if isinstance(value, list) and kind is list else []


def _in_bounds(shape: Number, value: float) -> bool:
    if shape.integer and value != int(value):
        return False
    if shape.low is not None and (value < shape.low or (shape.low_open and value == shape.low)):
        return False
    if shape.high is not None and (value > shape.high or (shape.high_open and value == shape.high)):
        return False
    return shape.multiple is None or exact(value) % shape.multiple == 0


def _is_string(expander: Expander, shape: String, value: str) -> bool:
    if len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
        return False
    pointer = pointer_of(shape.origins, "pattern")
    return value not in shape.excluded and all(
        is_match(expander, pattern, value, pointer) for pattern in shape.patterns
    )


def _is_array(expander: Expander, shape: Array, value: list[Any], upper: bool) -> bool:
    if len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
        return False
    if shape.unique and len({key_of(item) for item in value}) < len(value):
        return False
    for some in shape.contains:
        if sum(state_admits(expander, some.state, item, upper) for item in value) < some.least:
            return False
        # Too many are a reason against the value, so they are counted the other way round.
        if some.most is not None:
            if sum(state_admits(expander, some.state, item, not upper) for item in value) > some.most:
                return False
    return all(state_admits(expander, shape.item(index), item, upper) for index, item in enumerate(value))


def _is_object(expander: Expander, shape: Object, value: dict[str, Any], upper: bool) -> bool:
    if len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
        return False
    if any(name not in value for name in shape.required):
        return False
    if shape.names and not all(state_admits(expander, shape.names, name, upper) for name in value):
        return False
    return all(state_admits(expander, named(expander, shape, name), inner, upper) for name, inner in value.items())


def alive(expander: Expander, shape: Shape, upper: bool = False) -> bool:
    """Return False for a shape without any value that can be expressed, or, if `upper`, that certainly has no value at
    all; required values are looked at too, to some depth.
    """
    if isinstance(shape, String):
        return string_satisfiability(expander, shape) is not Satisfiability.EMPTY
    if isinstance(shape, Number):
        return _has_number(shape)
    if isinstance(shape, Array):
        return all(_state_alive(expander, shape.item(index), upper) for index in range(min(shape.least, LOOK_AHEAD)))
    if isinstance(shape, Object):
        expander.spend(len(shape.required) // NAMES_OF_WORK, pointer_of(shape.origins))
        return all(_state_alive(expander, named(expander, shape, name), upper) for name in shape.required)
    return True


def _state_alive(expander: Expander, state: State, upper: bool) -> bool:
    if not state or expander.level >= LOOK_AHEAD:
        return True
    expander.spend(expander.level, "")
    expander.level += 1
    try:
        return any(alive(expander, shape, upper) for shape in expander.expand(state, upper))
    except SchemaRefused:
        return True  # it is being expanded, or is refused once it is reached
    finally:
        expander.level -= 1


def _has_number(shape: Number) -> bool:
    if shape.low is None or shape.high is None or shape.multiple is None:
        return True
    low, high = exact(shape.low), exact(shape.high)
    first = -(-low // shape.multiple) * shape.multiple
    if shape.low_open and first == low:
        first += shape.multiple
    return first < high or (first == high and not shape.high_open)


def string_satisfiability(expander: Expander, shape: String) -> Satisfiability:
    """Return whether the library can generate strings of a shape, without regard to its formats."""
    if not shape.patterns:  # no list of texts is as long as that of all texts of one character
        return Satisfiability.EMPTY if shape.most == 0 and "" in shape.excluded else Satisfiability.FINE
    return _satisfiability(expander, String(shape.least, shape.most, shape.patterns, excluded=shape.excluded))


def pattern_satisfiability(expander: Expander, *patterns: str) -> Satisfiability:
    """Return whether the library can generate strings that match all of the patterns."""
    return _satisfiability(expander, String(patterns=patterns))


def work_of_a_check(shape: String) -> int:
    """Return the work of asking the library for strings of a shape."""
    return WORK_OF_A_CHECK + _work_of(shape.patterns) + work_of_excluded(shape)


def work_of_excluded(shape: String) -> int:
    """Return the work of writing a pattern of all texts but those that a string is not."""
    return sum(map(len, shape.excluded)) // EXCLUDED_A_WORK


def _work_of(texts: Collection[str]) -> int:
    """Return the work of the library's reading patterns, or names beside them."""
    classes = sum(text.count(r"\p{") + text.count(r"\P{") for text in texts)
    return WORK_OF_A_CLASS * classes + sum(map(len, texts)) // CHARACTERS_A_WORK


def _satisfiability(expander: Expander, shape: String) -> Satisfiability:
    """Ask the library once for a schema: one of another client's would be told by its time that somebody had asked."""
    if len(shape.patterns) > MAX_PATTERNS:
        return Satisfiability.COMPLEX
    key = (shape.least, shape.most, shape.patterns, shape.excluded)
    if key not in expander.satisfiabilities:
        expander.spend(work_of_a_check(shape), "")
        schema = string_schema(shape)
        found = satisfiability(schema)
        hard = found is Satisfiability.FINE and any(map(_nested, shape.patterns))
        if hard:
            expander.spend(WORK_OF_A_TRIAL, "")
            found = tried(schema)
        expander.satisfiabilities[key] = found
    return expander.satisfiabilities[key]


def _nested(pattern: str) -> bool:
    """Return whether a group is repeated behind something counted: it may become harder with each character."""
    counted = _COUNTED.search(pattern)
    return counted is not None and _REPEATED_GROUP.search(pattern, counted.end()) is not None


def string_schema(shape: String, with_format: bool = True) -> dict[str, Any]:
    """Return a string shape as the library takes it, with or without its formats."""
    schema: dict[str, Any] = {"type": "string"}
    if shape.least:
        schema["minLength"] = shape.least
    if shape.most is not None:
        schema["maxLength"] = shape.most
    patterns = string_patterns(shape, with_format)
    if len(patterns) == 1:
        schema["pattern"] = patterns[0]
    elif patterns:
        schema["allOf"] = [{"type": "string", "pattern": pattern} for pattern in patterns]
    return schema


def string_patterns(shape: String, with_format: bool = True) -> list[str]:
    """Return all patterns that the strings of a shape match; a format that is not known has none."""
    patterns = [*shape.patterns]
    if with_format:
        patterns += [FORMATS[name] for name in shape.formats if name in FORMATS]
    if shape.excluded:
        patterns.append(any_but(shape.excluded))
    return patterns
