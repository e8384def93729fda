"""Shapes: the values of one JSON type that satisfy some keywords; a schema is a disjunction of them.

What stands inside a value is described by a `State`: the conditions that hold there together, which are expanded into
shapes of their own when they are needed, so that a schema may refer to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

from engine.text.schema.document import Subschema
from engine.text.schema.multiples import common


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One schema that a value must satisfy; or, if `negates` is a state, must not satisfy. number: its rank."""

    number: int
    subschema: Subschema
    negates: State | None = None


State = tuple[Condition, ...]  # ordered by number, without repetition
ANYTHING: State = ()


def joined(*states: State) -> State:
    """Return the state of values that satisfy all these states."""
    conditions = {condition.number: condition for state in states for condition in state}
    return tuple(conditions[number] for number in sorted(conditions))


# The keywords that a shape comes from, each with its JSON pointer.
Origins = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Constant:
    """One value."""

    value: Any
    origins: Origins = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Number:
    """Numbers between two bounds. multiple: what they are multiples of."""

    integer: bool = False
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    multiple: Fraction | None = None
    origins: Origins = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class String:
    """Strings of a length in characters. patterns: in the library's syntax; excluded: single texts."""

    least: int = 0
    most: int | None = None
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    origins: Origins = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contains:
    """How many items satisfy a state."""

    state: State
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Array:
    """Arrays. rest: of the items after `prefix`; None where nothing is said of them. spoken: how many items of the
    prefix the schema speaks of, for `unevaluatedItems`, None for all; unspoken_rest: it only excludes values of `rest`.
    """

    prefix: tuple[State, ...] = ()
    rest: State | None = None
    least: int = 0
    most: int | None = None
    unique: bool = False
    contains: tuple[Contains, ...] = ()
    spoken: int | None = None
    unspoken_rest: bool = False
    origins: Origins = field(default_factory=dict)

    def item(self, index: int) -> State:
        """Return the state of one item."""
        return self.prefix[index] if index < len(self.prefix) else self.rest or ANYTHING


@dataclass(frozen=True, slots=True)
class Object:
    """Objects. patterns: states by the pattern of a name; rest: of all other names, None where nothing is said of them;
    names: of every name; least, most: how many names; unspoken: properties of which the schema only excludes a value,
    which is no mention for `unevaluatedProperties`.
    """

    properties: Mapping[str, State] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    patterns: Mapping[str, State] = field(default_factory=dict)
    rest: State | None = None
    names: State = ANYTHING
    least: int = 0
    most: int | None = None
    unspoken: frozenset[str] = frozenset()
    origins: Origins = field(default_factory=dict)


Shape = Constant | Number | String | Array | Object
EVERY_SHAPE: tuple[Shape, ...] = (
    Constant(None),
    Constant(True),
    Constant(False),
    Number(),
    String(),
    Array(),
    Object(),
)


def key_of(value: Any) -> Any:
    """Return a hashable key that is equal for equal JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((name, key_of(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return "array", tuple(key_of(inner) for inner in value)
    return ("boolean" if isinstance(value, bool) else "other"), value


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number, which booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def merged(one: Origins, other: Origins) -> Origins:
    """Return the origins of what two shapes have in common."""
    return {**one, **other} if other else one


def higher(one: Any, other: Any) -> Any:
    """Return the larger of two bounds, None being none."""
    return other if one is None else one if other is None else max(one, other)


def lower(one: Any, other: Any) -> Any:
    """Return the smaller of two bounds, None being none."""
    return other if one is None else one if other is None else min(one, other)


def meet_numbers(one: Number, other: Number) -> Number | None:
    """Return the numbers of both shapes; None if there are none."""
    low, high = higher(one.low, other.low), lower(one.high, other.high)
    met = Number(
        integer=one.integer or other.integer,
        low=low,
        high=high,
        low_open=any(shape.low_open and shape.low == low for shape in (one, other)),
        high_open=any(shape.high_open and shape.high == high for shape in (one, other)),
        multiple=common(one.multiple, other.multiple),
        origins=merged(one.origins, other.origins),
    )
    return tidy_number(met)


def tidy_number(shape: Number) -> Number | None:
    """Return a number shape with whole bounds and a whole multiple if its numbers are whole; None if it has none."""
    low, high = shape.low, shape.high
    if shape.integer:
        if low is not None:
            low = floor(low) + 1 if shape.low_open else ceil(low)
        if high is not None:
            high = ceil(high) - 1 if shape.high_open else floor(high)
        whole = 1 if shape.multiple is None else shape.multiple.numerator
        multiple = Fraction(whole) if whole > 1 else None
        shape = replace(shape, low=low, high=high, low_open=False, high_open=False, multiple=multiple)
    if low is not None and high is not None:
        if low > high or (low == high and (shape.low_open or shape.high_open)):
            return None
    return shape


def meet_strings(one: String, other: String) -> String | None:
    """Return the strings of both shapes; None if their lengths exclude each other."""
    met = String(
        least=max(one.least, other.least),
        most=lower(one.most, other.most),
        patterns=tuple(dict.fromkeys(one.patterns + other.patterns)),
        formats=tuple(dict.fromkeys(one.formats + other.formats)),
        excluded=one.excluded | other.excluded,
        origins=merged(one.origins, other.origins),
    )
    return None if met.most is not None and met.least > met.most else met


def meet_arrays(one: Array, other: Array) -> Array | None:
    """Return the arrays of both shapes; None if their lengths exclude each other."""
    length = max(len(one.prefix), len(other.prefix))
    met = Array(
        prefix=tuple(joined(one.item(index), other.item(index)) for index in range(length)),
        rest=rest_of_both(one.rest, other.rest),
        least=max(one.least, other.least),
        most=lower(one.most, other.most),
        unique=one.unique or other.unique,
        contains=one.contains + other.contains,
        spoken=max(len(shape.prefix) if shape.spoken is None else shape.spoken for shape in (one, other)),
        unspoken_rest=all(shape.rest is None or shape.unspoken_rest for shape in (one, other)),
        origins=merged(one.origins, other.origins),
    )
    return None if met.most is not None and met.least > met.most else met


def rest_of_both(one: State | None, other: State | None) -> State | None:
    """Return what is said of the rest by two shapes."""
    return other if one is None else one if other is None else joined(one, other)


def union(*names: Iterable[str]) -> tuple[str, ...]:
    """Return all names, each once, in the order in which they come."""
    return tuple(dict.fromkeys(name for some in names for name in some))
