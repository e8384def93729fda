"""Writes the shapes of a schema as a schema of the few keywords that the grammar library enforces exactly.

What repeats, or refers to itself, becomes one definition. Objects are closed unless the schema says what else they may
hold: a closed one is valid too, and a model that may invent names goes on until the limit. Numbers without a bound get
one of 15 digits, which every reader holds exactly; without it a model may write 1e999.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from engine.text.schema import meeting, multiples
from engine.text.schema.counting import of_count
from engine.text.schema.expander import Expander, Work
from engine.text.schema.formats import FORMATS
from engine.text.schema.probe import Satisfiability, satisfiability, tried
from engine.text.schema.reach import Reach, inside
from engine.text.schema.refusal import COMPLEX, UNSUPPORTED, SchemaRefused
from engine.text.schema.shapes import (
    ANYTHING,
    Array,
    Constant,
    Number,
    Object,
    State,
    String,
    union,
)

LARGEST = 10**15 - 1
NARROWED = 1000  # the part of a range of numbers that is left out at an end
DEFINITION = "#/$defs/s"
CHARACTERS_A_UNIT = 2000  # of values that are written out, for each unit of work
MAX_ROUNDS = 20  # of merging definitions: one for each level of what they contain


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A schema as the library takes it. place: the pointer of its first keyword; strings: each with where it stands."""

    schema: dict[str, Any]
    place: str
    strings: tuple[tuple[dict[str, Any], str], ...]

    def blamed(self, has_time: Callable[[], bool] = lambda: True) -> SchemaRefused:
        """Return the refusal of a schema that the library cannot match after all: its first string that is hard by
        itself, else the longest pattern, else all of it. has_time: whether there is time to try another string.
        """
        for schema, pointer in self.strings:
            if not has_time():
                break
            if tried(schema) is not Satisfiability.FINE:
                return SchemaRefused(COMPLEX, pointer)
        patterned = [(len(json.dumps(schema)), pointer) for schema, pointer in self.strings if len(schema) > 1]
        return SchemaRefused(COMPLEX, max(patterned)[1] if patterned else self.place)


def rewrite(schema: Any, work: Work | None = None) -> Rewritten:
    """Return a schema rewritten. work: that is left for it, None for as much as one schema may take.

    Raises SchemaRefused.
    """
    try:
        return _Emission(Expander(schema, work)).written()
    except RecursionError:  # references nest deeper than the text that they stand in
        raise SchemaRefused(COMPLEX, "") from None


class _Emission:
    def __init__(self, expander: Expander) -> None:
        self._expander = expander
        self._reach = Reach(expander)
        self._prefix = _unused(json.dumps(expander.document.root.raw))
        self._names: dict[State, str] = {}
        self._waiting: list[State] = []
        self._strings: dict[str, tuple[dict[str, Any], str]] = {}
        self._matched: dict[str, bool] = {}
        self._multiples: set[str] = set()  # the schemas of numbers whose remainders are counted

    def written(self) -> Rewritten:
        root = self._expander.root
        schema = self._of_shapes(root)
        definitions: dict[str, Any] = {}
        while self._waiting:
            state = self._waiting.pop()
            definitions[self._names[state]] = self._of_shapes(state)
        schema, definitions = _merged(schema, definitions, re.compile(f'"({re.escape(self._prefix)}[0-9]+)"'))
        if definitions:
            schema["$defs"] = definitions
        place = next((meeting.pointer_of(shape.origins) for shape in self._reach.shapes[root] if shape.origins), "")
        return Rewritten(schema, place, tuple(self._strings.values()))

    def _of_state(self, state: State) -> dict[str, Any]:
        if state not in self._names:
            self._names[state] = f"{self._prefix}{len(self._names)}"
            self._waiting.append(state)
        return {"$ref": self._names[state]}

    def _of_shapes(self, state: State) -> dict[str, Any]:
        shapes = [shape for shape in self._reach.shapes[state] if self._reach.is_full(shape)]
        values = [shape.value for shape in shapes if isinstance(shape, Constant)]
        if values:  # by whom they are referred to does not matter: each writes them out
            self._expander.spend(len(json.dumps(values)) // CHARACTERS_A_UNIT, "")
        options: list[dict[str, Any]] = [{"enum": values}] if values else []
        for shape in shapes:
            if isinstance(shape, Number):
                options.append(self._number(shape))
            elif isinstance(shape, String):
                options.append(self._string(shape))
            elif isinstance(shape, Array):
                options.append(self._array(shape))
            elif isinstance(shape, Object):
                options += [self._object(part) for part in of_count(self._reach, self._expander, state, shape)]
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _number(self, shape: Number) -> dict[str, Any]:
        """Each remainder is a unit of work: it takes less time, but memory as long as the grammar is kept."""
        schema = _range_of(shape)
        if shape.multiple is not None and repr(schema) not in self._multiples:
            self._multiples.add(repr(schema))
            pointer = meeting.pointer_of(shape.origins, "multipleOf")
            self._expander.spend(multiples.remainders(schema["multipleOf"]), pointer)
        return schema

    def _string(self, shape: String) -> dict[str, Any]:
        """A format that nothing else of the string allows is left out, as what it is: an annotation."""
        self._expander.spend(meeting.work_of_excluded(shape), meeting.pointer_of(shape.origins, "not"))
        schema = meeting.string_schema(shape)
        if any(name in FORMATS for name in shape.formats):
            if schema.keys() - {"type", "pattern"} and not self._is_matched(schema, shape):
                schema = meeting.string_schema(shape, with_format=False)
        self._strings.setdefault(repr(schema), (schema, meeting.pointer_of(shape.origins, "pattern", "format")))
        return schema

    def _is_matched(self, schema: dict[str, Any], shape: String) -> bool:
        """Return whether the library can generate what a schema of strings asks for; it is asked once for each."""
        key = repr(schema)
        if key not in self._matched:
            self._expander.spend(meeting.work_of_a_check(shape), meeting.pointer_of(shape.origins, "format"))
            self._matched[key] = satisfiability(schema) is Satisfiability.FINE
        return self._matched[key]

    def _array(self, shape: Array) -> dict[str, Any]:
        length = next((i for i, state in enumerate(shape.prefix) if state not in self._reach.full), len(shape.prefix))
        rest = shape.rest or ANYTHING
        closed = length < len(shape.prefix) or rest not in self._reach.full
        schema: dict[str, Any] = {"type": "array"}
        if length:
            schema["prefixItems"] = [self._of_state(state) for state in shape.prefix[:length]]
        schema["items"] = False if closed else self._of_state(rest)
        if shape.least:
            schema["minItems"] = shape.least
        if shape.most is not None and not (closed and length <= shape.most):
            schema["maxItems"] = shape.most
        return schema

    @cached_property
    def _ending(self) -> set[State]:
        """The states in which no state contains itself, found from those that contain none: each is visited once."""
        left = {
            state: {part for shape in shapes for part in inside(shape)} for state, shapes in self._reach.shapes.items()
        }
        users: dict[State, list[State]] = {state: [] for state in left}
        for state, parts in left.items():
            for part in parts:
                users[part].append(state)
        ending: set[State] = set()
        waiting = [state for state, parts in left.items() if not parts]
        while waiting:
            state = waiting.pop()
            ending.add(state)
            for user in users[state]:
                left[user].discard(state)
                if not left[user]:
                    waiting.append(user)
        return ending

    def _without_shared(self, shape: Object) -> Object:
        """Return an object without patterns that match a listed name too, if their states refer to themselves: the
        library meets both states again, without end.
        """
        endless = [pattern for pattern, state in shape.patterns.items() if state not in self._ending]
        listed = [name for name, state in shape.properties.items() if state in self._reach.full]
        pointer = meeting.pointer_of(shape.origins, "patternProperties")
        shared = {
            pattern
            for pattern in endless
            if any(meeting.is_match(self._expander, pattern, name, pointer) for name in listed)
        }
        if not shared:
            return shape
        patterns = {pattern: state for pattern, state in shape.patterns.items() if pattern not in shared}
        return replace(shape, patterns=patterns, rest=self._expander.never)

    def _object(self, shape: Object) -> dict[str, Any]:
        shape = self._without_shared(shape)
        names = union(shape.properties, shape.required)
        self._expander.spend(len(names), meeting.pointer_of(shape.origins, "properties"))
        states = {name: meeting.named(self._expander, shape, name) for name in names}
        properties = {
            name: self._of_state(state) if state in self._reach.full else False for name, state in states.items()
        }
        schema: dict[str, Any] = {"type": "object"}
        if properties:
            schema["properties"] = properties
        if shape.required:
            schema["required"] = list(shape.required)
        patterns = {pattern: state for pattern, state in shape.patterns.items() if state in self._reach.full}
        free = shape.rest is None and not properties and not shape.patterns
        rest = ANYTHING if free else self._expander.never if shape.rest is None else shape.rest
        # What excludes names says nothing where all others are excluded, but the library applies it to listed ones.
        written = shape.patterns if rest in self._reach.full else patterns
        if written:
            schema["patternProperties"] = {
                pattern: self._of_state(state) if pattern in patterns else False for pattern, state in written.items()
            }
        schema["additionalProperties"] = self._of_state(rest) if rest in self._reach.full else False
        if shape.least > len(shape.required):
            schema["minProperties"] = shape.least
        if shape.most is not None and (rest in self._reach.full or patterns):
            schema["maxProperties"] = shape.most
        return schema


def _unused(text: str) -> str:
    """Return the beginning of the references to definitions, which stands nowhere in the text of a schema."""
    prefix = DEFINITION
    while prefix in text:  # once, and then by chance
        prefix = f"{DEFINITION}{sha256((text + prefix).encode('utf-8', 'surrogatepass')).hexdigest()[:16]}_"
    return prefix


def _merged(
    root: dict[str, Any], definitions: dict[str, Any], reference: re.Pattern[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a schema with one definition for all that say the same: the library then matches them by one lexeme.

    definitions: by the references to them; reference: a pattern of these, quoted.
    """
    texts = {name: json.dumps(definition) for name, definition in definitions.items()}
    written = json.dumps(root)
    for _ in range(MAX_ROUNDS):
        kept: dict[str, str] = {}
        same = {name: kept.setdefault(text, name) for name, text in texts.items()}
        if len(kept) == len(texts):
            break
        texts = {name: _renamed(text, same, reference) for text, name in kept.items()}
        written = _renamed(written, same, reference)
    return json.loads(written), {name.rpartition("/")[2]: json.loads(text) for name, text in texts.items()}


def _renamed(text: str, names: dict[str, str], reference: re.Pattern[str]) -> str:
    return reference.sub(lambda found: f'"{names[found[1]]}"', text)


def _range_of(shape: Number) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer" if shape.integer else "number"}
    shape = _off_whole_numbers(shape)
    low, high = shape.low, shape.high
    beyond = (low is not None and low > LARGEST) or (high is not None and high < -LARGEST)
    if beyond:  # the library computes with 64 bits
        keywords = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
        raise SchemaRefused(UNSUPPORTED, meeting.pointer_of(shape.origins, *keywords), "numbers of more than 15 digits")
    if low is None or low < -LARGEST:
        schema["minimum"] = -LARGEST
    else:
        schema["exclusiveMinimum" if shape.low_open else "minimum"] = low
    if high is None or high > LARGEST:
        schema["maximum"] = LARGEST
    else:
        schema["exclusiveMaximum" if shape.high_open else "maximum"] = high
    if shape.multiple is not None:
        schema["multipleOf"] = multiples.written(shape.multiple)
        if (reason := multiples.trouble(schema["multipleOf"])) is not None:
            raise SchemaRefused(UNSUPPORTED, meeting.pointer_of(shape.origins, "multipleOf"), reason)
    return schema


def _off_whole_numbers(shape: Number) -> Number:
    """Return numbers without an open bound that is whole and within 1 of the other one: the library includes it."""
    low, high = shape.low, shape.high
    if shape.integer or low is None or high is None or high - low >= 1:
        return shape
    if shape.low_open and low == int(low):
        shape = replace(shape, low=low + (high - low) / NARROWED, low_open=False)
    if shape.high_open and high == int(high):
        shape = replace(shape, high=high - (high - low) / NARROWED, high_open=False)
    return shape
