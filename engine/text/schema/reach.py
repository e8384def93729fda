"""The states that a schema can reach, and which of them have a value at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from engine.text.schema import meeting
from engine.text.schema.expander import Expander
from engine.text.schema.probe import Satisfiability
from engine.text.schema.refusal import COMPLEX, EMPTY, UNSUPPORTED, SchemaRefused
from engine.text.schema.shapes import ANYTHING, EVERY_SHAPE, Array, Constant, Object, Shape, State, String

MAX_STATES = 4000
MAX_UNLISTED = 1  # names of an object that are not listed and must be there: the library may write one twice


class Reach:
    """The shapes of every state that values of a schema contain. Raises SchemaRefused.

    full: the states that have a finite value, each with how many were found in earlier rounds.
    """

    def __init__(self, expander: Expander) -> None:
        self._expander = expander
        self.shapes: dict[State, tuple[Shape, ...]] = {}
        self.full: dict[State, int] = {}
        self._found: dict[State, Shape] = {}  # by which a finite value of each state was found
        self._users: dict[State, set[State]] = {}  # the states that contain a state
        self._left_out: list[State] = []  # the states some of whose shapes are
        self._reach(expander.root)
        self._find_full()
        if expander.root not in self.full:
            origin = self._first_origin(expander.root)
            self._restore(self._left_out)
            certain = expander.exact and expander.root not in self.full and not self._beyond_count()
            raise SchemaRefused(EMPTY if certain else UNSUPPORTED, origin)

    def _reach(self, root: State) -> None:
        waiting = [root]
        while waiting:
            state = waiting.pop()
            if state in self.shapes:
                continue
            every = self._expander.expand(state)
            self.shapes[state] = _only_spoken_of(every)
            if len(self.shapes[state]) < len(every):
                self._left_out.append(state)
            self._check_strings(self.shapes[state])
            if len(self.shapes) > MAX_STATES:
                raise SchemaRefused(COMPLEX, state[-1].subschema.pointer)
            parts = [part for shape in self.shapes[state] for part in inside(shape)]
            self._expander.spend((4 + len(self.shapes[state]) + len(parts)) // 10, "")
            waiting += parts

    def _check_strings(self, shapes: Iterable[Shape]) -> None:
        for shape in shapes:
            if isinstance(shape, String):
                pointer = meeting.pointer_of(shape.origins, "pattern", "not", "maxLength", "minLength")
                found = meeting.string_satisfiability(self._expander, shape)
                if found is Satisfiability.UNKNOWN:
                    raise SchemaRefused(UNSUPPORTED, pointer)
                if found is Satisfiability.COMPLEX:
                    raise SchemaRefused(COMPLEX, pointer)

    def _find_full(self) -> None:
        """Find the states that have a finite value, beginning with those that contain no other.

        In rounds: a state is looked at once for all that were found inside it in the last one.
        """
        for state, shapes in self.shapes.items():
            for shape in shapes:
                for inner in inside(shape):
                    self._users.setdefault(inner, set()).add(state)
        self._add_full(set(self.shapes))
        empty = [state for state in self._left_out if state not in self.full]
        self._restore(state for state in empty if _has_everything(self._expander.expand(state)))

    def _add_full(self, waiting: set[State]) -> None:
        """Add those of the waiting states that have a value, then those of the states that contain one of them. None of
        the waiting ones is full.
        """
        while waiting:
            found = {state: shape for state in waiting for shape in [self._first_full(state)] if shape is not None}
            self._found.update(found)
            self.full.update(dict.fromkeys(found, len(self.full)))
            waiting = set().union(*(self._users.get(state, ()) for state in found)) - self.full.keys()

    def _first_full(self, state: State) -> Shape | None:
        """Return a shape of a state that has a finite value, one without a number of properties if it can be."""
        shapes = sorted(self.shapes[state], key=lambda shape: isinstance(shape, Object) and shape.least > 0)
        return next((shape for shape in shapes if self.is_full(shape)), None)

    def is_apart(self, inner: State, state: State, shape: Shape) -> bool:
        """Return whether what stands inside a shape of a state has a finite value that contains no such shape."""
        return inner in self.full and (shape is not self._found[state] or self.full[inner] < self.full[state])

    def _restore(self, states: Iterable[State]) -> None:
        """Give those of the states that have no value the shapes that were left out, from the inside out."""
        for state in reversed([*states]):
            if state not in self.full:
                self.shapes[state] = self._expander.expand(state)
                self._reach(ANYTHING)
                self._add_full({ANYTHING, state} - self.full.keys())

    def is_full(self, shape: Shape) -> bool:
        """Return whether a shape has a finite value."""
        if isinstance(shape, Array):
            return all(shape.item(index) in self.full for index in range(min(shape.least, len(shape.prefix) + 1)))
        if isinstance(shape, Object):
            return self._is_full_object(shape)
        return meeting.alive(self._expander, shape)

    def _is_full_object(self, shape: Object) -> bool:
        states = [meeting.named(self._expander, shape, name) for name in shape.required]
        if not all(state in self.full for state in states):
            return False
        if shape.most is not None and len(shape.required) > shape.most:
            return False
        listed = [state for name, state in shape.properties.items() if name not in shape.required]
        missing = shape.least - len(shape.required) - sum(state in self.full for state in listed)
        return missing <= 0 or (missing <= MAX_UNLISTED and self._has_unlisted(shape))

    def _has_unlisted(self, shape: Object) -> bool:
        rest = shape.rest
        return rest is None or any(state in self.full for state in (*shape.patterns.values(), rest))

    def _beyond_count(self) -> bool:
        """Return whether some objects have a value only with more names that are not listed than can be counted."""
        objects = [shape for shapes in self.shapes.values() for shape in shapes if isinstance(shape, Object)]
        empty = [shape for shape in objects if not self.is_full(shape) and self._has_unlisted(shape)]
        return any(self.is_full(replace(shape, least=0)) for shape in empty)

    def _first_origin(self, state: State) -> str:
        """Return the place to blame for a state without a value."""
        seen = set()
        while state not in seen:
            seen.add(state)
            for shape in self.shapes.get(state, ()):
                blamed = [inner for inner in _required(self._expander, shape) if inner not in self.full]
                if blamed:
                    state = blamed[0]
                    break
            else:
                shapes = self.shapes.get(state, ())
                origins = [meeting.pointer_of(shape.origins, "minProperties") for shape in shapes]
                found = self._expander.emptied.get(state) or next((origin for origin in origins if origin), "")
                return found or (state[-1].subschema.pointer if state else "")
        return state[-1].subschema.pointer


def inside(shape: Shape) -> list[State]:
    """Return the states that stand inside a shape."""
    if isinstance(shape, Array):
        return [*shape.prefix, shape.rest or ANYTHING]
    if isinstance(shape, Object):
        return [*shape.properties.values(), *shape.patterns.values(), shape.rest or ANYTHING]
    return []


def _required(expander: Expander, shape: Shape) -> list[State]:
    if isinstance(shape, Array):
        return [shape.item(index) for index in range(min(shape.least, len(shape.prefix) + 1))]
    if isinstance(shape, Object):
        return [meeting.named(expander, shape, name) for name in shape.required]
    return []


def _only_spoken_of(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Return the shapes of the types that a schema speaks of, if it names none: with `properties` it means objects."""
    plain = _plain(shapes)
    spoken = tuple(shape for shape in shapes if shape.origins and not any(_is_plain(shape, o) for o in EVERY_SHAPE))
    kinds = {type(shape) for shape in spoken}
    missing = [shape for shape in EVERY_SHAPE if shape not in plain and type(shape) not in kinds]
    others = len(shapes) - len(spoken) - len(plain)
    return spoken if spoken and plain and not missing and not others and Constant not in kinds else shapes


def _has_everything(shapes: tuple[Shape, ...]) -> bool:
    """Return whether a branch allows every value, whatever the others speak of."""
    return len(_plain(shapes)) == len(EVERY_SHAPE)


def _plain(shapes: tuple[Shape, ...]) -> list[Shape]:
    return [every for every in EVERY_SHAPE if any(_is_plain(shape, every) for shape in shapes)]


def _is_plain(shape: Shape, every: Shape) -> bool:
    if isinstance(shape, Constant) or isinstance(every, Constant):
        return isinstance(shape, Constant) and isinstance(every, Constant) and shape.value is every.value
    return type(shape) is type(every) and replace(shape, origins={}) == every
