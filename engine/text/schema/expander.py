"""Expands a schema into shapes: references followed, compositions resolved, each type on its own.

Expansion is exact, or, where that cannot be, narrower: all that a shape allows satisfies the schema. `upper` asks for
the opposite, shapes that allow no less than the schema, which is what may be subtracted from others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from engine.text.schema import applying, meeting, settling, subtraction
from engine.text.schema.document import Document, Subschema
from engine.text.schema.keywords import ARRAY_KEYWORDS, ASSERTING, CLOSING, OBJECT_KEYWORDS, SIMPLE
from engine.text.schema.probe import Satisfiability
from engine.text.schema.reading import (
    count,
    names,
    origins,
    read_numbers,
    read_pattern,
    read_strings,
    schemas_by_name,
    types_of,
)
from engine.text.schema.refusal import COMPLEX, INVALID, UNSUPPORTED, SchemaRefused, below
from engine.text.schema.shapes import (
    ANYTHING,
    EVERY_SHAPE,
    Array,
    Condition,
    Constant,
    Contains,
    Object,
    Shape,
    State,
    joined,
    key_of,
)

MAX_WORK = 50_000  # on one schema: combinations of two shapes, about ten microseconds each
MAX_SHAPES = 256  # of one state, apart from single values
MAX_VALUES = 4096  # of one state, shapes and single values together

LISTED = ("const", "enum")  # values, which must satisfy all other keywords

Shapes = tuple[Shape, ...]
Expansion = tuple[Shapes, bool]  # and whether it is exact
Key = TypeVar("Key")


class Work:
    """What may be done on the schemas of one request."""

    def __init__(self, most: int = MAX_WORK) -> None:
        self.left = most


class _Spending:
    """Counts the work of one schema, and refers to nothing of it, so that nothing refers to itself."""

    def __init__(self, work: Work) -> None:
        self._work, self._at = work, ""

    def spend(self, amount: int, pointer: str) -> None:
        """Count work. Raises SchemaRefused once it is too much."""
        self._work.left -= amount
        self._at = pointer or self._at
        if self._work.left < 0:
            raise SchemaRefused(COMPLEX, self._at)


class Expander:
    """The states of one schema. Raises SchemaRefused for what cannot be expanded, or only with too much work.

    work: shared with other schemas of a request, None for its own.
    """

    def __init__(self, schema: Any, work: Work | None = None) -> None:
        self.spend = _Spending(Work() if work is None else work).spend
        self.document = Document(schema, self.spend)
        self._conditions: dict[Any, Condition] = {}
        self._memo: dict[tuple[State, bool], Expansion] = {}
        self._settled: dict[State, Expansion] = {}
        self._own: dict[tuple[int, bool], Expansion] = {}
        self._open: set[tuple[int, bool]] = set()  # the conditions that are being expanded
        self.level = 0  # how deep `alive` looks into a value
        self._emptied = ""  # the place that allowed no value last
        self.emptied: dict[State, str] = {}  # the same of each state without a shape
        self.exact = True  # whether all shapes so far allow what the schema does, neither less nor, if `upper`, more
        self.satisfiabilities: dict[tuple[Any, ...], Satisfiability] = {}  # of strings, which `meeting` asks for
        self.never = self._state("never", Subschema(False, "", ""))
        self.root = self.state(self.document.root)

    def state(self, subschema: Subschema) -> State:
        """Return the state of values that satisfy a schema."""
        if subschema.raw is True:
            return ANYTHING
        if subschema.raw is False:
            self._emptied = subschema.pointer
            return self.never
        if not isinstance(subschema.raw, dict):
            raise SchemaRefused(INVALID, subschema.pointer, "neither an object nor a boolean")
        return self._state(id(subschema.raw), subschema)

    def inner(self, subschema: Subschema, *tokens: str | int) -> State:
        """Return the state of a schema that stands inside another one."""
        return self.state(self.document.inside(subschema, *tokens))

    def opposite(self, state: State, subschema: Subschema) -> State:
        """Return the state of values that do not satisfy a state. subschema: of the keyword that asks for it."""
        if not state:
            return self.never
        if self.never[0] in state:
            return ANYTHING
        denied = self.denied(state)
        if denied is not None:
            return denied
        return self._state(("not", state), subschema if subschema.pointer else state[0].subschema, state)

    def denied(self, state: State) -> State | None:
        """Return the state whose opposite another one is; None if it says anything else. What a schema speaks of within
        a `not` is no mention for an `unevaluated` keyword, so with one of these it is None too.
        """
        if len(state) != 1 or self.document.closes:
            return None
        subschema = state[0].subschema
        if state[0].negates is not None or not isinstance(subschema.raw, dict):
            return state[0].negates
        return self.inner(subschema, "not") if ASSERTING & subschema.raw.keys() == {"not"} else None

    def value_state(self, value: Any, pointer: str) -> State:
        """Return the state of one value."""
        return self._state(("value", key_of(value)), Subschema({"const": value}, pointer, ""))

    def _state(self, key: Any, subschema: Subschema, negates: State | None = None) -> State:
        condition = self._conditions.get(key)
        if condition is None:
            condition = self._conditions[key] = Condition(len(self._conditions), subschema, negates)
        return (condition,)

    def is_never(self, state: State) -> bool:
        """Return whether a state says itself that nothing satisfies it."""
        return self.never[0] in state

    def expand(self, state: State, upper: bool = False) -> Shapes:
        """Return the shapes of a state."""
        if upper:
            return self.unsettled(state, upper)
        shapes = self._once(self._settled, state, lambda: settling.settled(self, self.unsettled(state)))
        if not shapes:
            self.emptied.setdefault(state, self._emptied)
        return shapes

    def unsettled(self, state: State, upper: bool = False) -> Shapes:
        """Return the same with all that can be said of arrays and objects, also what the library cannot say."""
        return self._once(self._memo, (state, upper), lambda: self._of_conditions(state, upper))

    def _of_conditions(self, state: State, upper: bool) -> Shapes:
        shapes: Shapes = EVERY_SHAPE
        for condition in state:
            if condition.negates is None:
                shapes = self.both(shapes, self.shapes_of(condition, upper), condition.subschema.pointer, upper)
        for condition in state:
            if condition.negates is not None and upper:
                self.exact = False
            elif condition.negates is not None:
                shapes = self.without(shapes, condition.negates, condition.subschema.pointer)[0]
        return shapes

    def _once(self, made: dict[Key, Expansion], key: Key, make: Callable[[], Shapes]) -> Shapes:
        """Return what was made, or make it; whether it is exact is known each time."""
        if key not in made:
            before, self.exact = self.exact, True
            try:
                made[key] = make(), self.exact
            finally:
                self.exact = before
        shapes, exact = made[key]
        self.exact = self.exact and exact
        return shapes

    def shapes_of(self, condition: Condition, upper: bool) -> Shapes:
        """Return the shapes of one condition, without regard to others that hold at the same place."""
        key, subschema = (condition.number, upper), condition.subschema
        if subschema.raw is False:
            return ()
        if key in self._open:
            raise SchemaRefused(UNSUPPORTED, subschema.pointer, "it refers to itself")
        self._open.add(key)
        try:
            return self._once(self._own, key, lambda: self._read(subschema, upper))
        finally:
            self._open.discard(key)

    def _read(self, subschema: Subschema, upper: bool) -> Shapes:
        raw, shapes, simple = subschema.raw, EVERY_SHAPE, False
        keywords = ["$ref"] if self.document.reference_alone and "$ref" in raw else list(raw)
        closing = [keyword for keyword in keywords if keyword in CLOSING]
        for keyword in keywords:
            if keyword in SIMPLE and not simple:
                shapes, simple = self.both(shapes, self._simple(subschema), subschema.pointer, upper), True
            elif keyword in applying.APPLICATORS and not (closing and keyword in LISTED):
                shapes = applying.APPLICATORS[keyword](self, shapes, subschema, keyword, upper)
        for keyword in CLOSING:
            if keyword in closing and upper:
                self.exact = False
            elif keyword in closing:
                closed = [self._closed(shape, self.inner(subschema, keyword), keyword) for shape in shapes]
                shapes = tuple(shape for shape in closed if shape is not None)
        for keyword in LISTED if closing else ():
            if keyword in keywords:
                shapes = applying.APPLICATORS[keyword](self, shapes, subschema, keyword, upper)
        return shapes

    def _simple(self, subschema: Subschema) -> Shapes:
        shapes: list[Shape | None] = []
        for name in types_of(subschema):
            if name == "null":
                shapes.append(Constant(None))
            elif name == "boolean":
                shapes += [Constant(True), Constant(False)]
            elif name in ("number", "integer"):
                shapes.append(read_numbers(subschema, name == "integer"))
            elif name == "string":
                shapes.append(read_strings(subschema, self.spend))
            else:
                shapes.append(self._arrays(subschema) if name == "array" else self._objects(subschema))
        return tuple(shape for shape in shapes if shape is not None)

    def _arrays(self, subschema: Subschema) -> Array | None:
        raw, least, most = subschema.raw, count(subschema, "minItems") or 0, count(subschema, "maxItems")
        listed = "items" if isinstance(raw.get("items"), list) else "prefixItems"
        prefix = raw.get(listed, [])
        if not isinstance(prefix, list):
            raise SchemaRefused(INVALID, below(subschema.pointer, listed), "not a list of schemas")
        rest = "additionalItems" if listed == "items" else "items"
        if most is not None and least > most:
            return None
        return Array(
            tuple(self.inner(subschema, listed, index) for index in range(len(prefix))),
            self.inner(subschema, rest) if rest in raw else None,
            least,
            most,
            raw.get("uniqueItems") is True,
            self._contains(subschema),
            origins=origins(subschema, ARRAY_KEYWORDS),
        )

    def _contains(self, subschema: Subschema) -> tuple[Contains, ...]:
        if "contains" not in subschema.raw:
            return ()
        least, most = count(subschema, "minContains"), count(subschema, "maxContains")
        return (Contains(self.inner(subschema, "contains"), 1 if least is None else least, most),)

    def _objects(self, subschema: Subschema) -> Object | None:
        raw, least, most = subschema.raw, count(subschema, "minProperties") or 0, count(subschema, "maxProperties")
        patterns = {
            read_pattern(pattern, below(subschema.pointer, "patternProperties", pattern), self.spend): self.inner(
                subschema, "patternProperties", pattern
            )
            for pattern in schemas_by_name(subschema, "patternProperties")
        }
        properties = {
            name: self.inner(subschema, "properties", name) for name in schemas_by_name(subschema, "properties")
        }
        for name in properties if patterns else ():
            matching = meeting.matching(self, patterns, name, below(subschema.pointer, "patternProperties"))
            properties[name] = joined(properties[name], *matching)
        required = names(raw.get("required", []), below(subschema.pointer, "required"))
        if most is not None and max(least, len(required)) > most:
            return None
        return Object(
            properties,
            required,
            patterns,
            self.inner(subschema, "additionalProperties") if "additionalProperties" in raw else None,
            self.inner(subschema, "propertyNames") if "propertyNames" in raw else ANYTHING,
            least,
            most,
            origins=origins(subschema, OBJECT_KEYWORDS),
        )

    def _closed(self, shape: Shape, rest: State, keyword: str) -> Shape | None:
        """Apply an `unevaluated` keyword: what no other keyword has spoken of must satisfy it."""
        if isinstance(shape, Constant):  # of a composition, which does not tell what it spoke of: nothing, to be safe
            values = meeting.values_inside(shape.value, dict if keyword == "unevaluatedProperties" else list)
            self.exact = self.exact and not values
            return shape if all(meeting.state_admits(self, rest, value) for value in values) else None
        unsaid = isinstance(shape, Array) and (shape.rest is None or shape.unspoken_rest)
        if isinstance(shape, Array) and keyword == "unevaluatedItems" and unsaid:
            spoken = len(shape.prefix) if shape.spoken is None else shape.spoken
            prefix = [state if i < spoken else joined(state, rest) for i, state in enumerate(shape.prefix)]
            return replace(shape, prefix=tuple(prefix), rest=joined(shape.rest or ANYTHING, rest), spoken=None)
        if isinstance(shape, Object) and keyword == "unevaluatedProperties" and shape.rest is None:
            only_excluded = {name: joined(shape.properties[name], rest) for name in shape.unspoken}
            return replace(shape, properties={**shape.properties, **only_excluded}, rest=rest, unspoken=frozenset())
        return shape

    def branch(self, state: State, upper: bool) -> Shapes:
        """Return the shapes of a branch, still open for what stands beside it."""
        return self.shapes_of(state[0], upper) if state else EVERY_SHAPE

    def both(
        self, some: Shapes, others: Iterable[Shape], pointer: str, upper: bool = False, counted: bool = True
    ) -> Shapes:
        """Return the shapes of values that have a shape of either side."""
        others = tuple(others)
        if others is EVERY_SHAPE:
            return some
        if some and not others:
            self._emptied = self._emptied if self._emptied.startswith(pointer) else pointer
        if some is EVERY_SHAPE:
            return self.bounded(others, pointer) if counted else others
        found: list[Shape] = []
        for one in some:
            for other in others:
                self.spend(1, pointer)
                met = meeting.meet(self, one, other, upper)
                if met is not None and (len(some) == 1 or meeting.alive(self, met, upper)):
                    found.append(met)
        if some and others and not found:
            self._emptied = pointer
        return self.bounded(found, pointer) if counted else tuple(found)

    def overlap(self, shapes: Shapes, branch: State, pointer: str) -> bool:
        met = self.both(shapes, self.branch(branch, True), pointer, upper=True)
        return any(meeting.alive(self, shape, upper=True) for shape in met)

    def without(self, shapes: Shapes, state: State, pointer: str, lenient: bool = False) -> tuple[Shapes, bool]:
        """Return shapes of values that do not satisfy a state, and whether these are all that do not have its shapes.

        Raises SchemaRefused if nothing is left only because it cannot be expressed, unless `lenient`.
        """
        denied, left, whole = self.denied(state), shapes, True
        if denied is not None:
            return self.both(shapes, self.unsettled(denied), pointer), True
        for taken in self.expand(state, upper=True):
            parts: list[Shape] = []
            for shape in left:
                self.spend(1, pointer)
                some, all_of_it = subtraction.subtract(self, shape, taken)
                parts += [part for part in some if meeting.alive(self, part)]
                whole = whole and all_of_it
            left = self.bounded(parts, pointer)
        self.exact = self.exact and whole
        if shapes and not left:
            self._emptied = pointer
        if shapes and not left and not whole and not lenient:
            raise SchemaRefused(UNSUPPORTED, pointer)
        return left, whole

    @staticmethod
    def bounded(shapes: Iterable[Shape], pointer: str) -> Shapes:
        """Return shapes as they are, no more of them taken than one state may have. Raises SchemaRefused."""
        taken = tuple(islice(shapes, MAX_VALUES + 1))
        if len(taken) > MAX_VALUES or sum(not isinstance(shape, Constant) for shape in taken) > MAX_SHAPES:
            raise SchemaRefused(COMPLEX, pointer)
        return taken
