"""The keywords that apply other schemas at the same place: what each leaves of the shapes so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.text.schema.document import Place
from engine.text.schema.reading import finite, names, schemas_by_name
from engine.text.schema.refusal import INVALID, UNSUPPORTED, SchemaRefused, below
from engine.text.schema.shapes import EVERY_SHAPE, Constant, Object, Shape, State, key_of

if TYPE_CHECKING:
    from engine.text.schema.expander import Expander

Shapes = tuple[Shape, ...]


def apply_const(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """The value itself."""
    pointer = below(place.pointer, keyword)
    constant = Constant(finite(place.raw[keyword], pointer), {keyword: pointer})
    return expander.both(shapes, (constant,), pointer, upper)


def apply_enum(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """Each value itself, once."""
    pointer, values = below(place.pointer, keyword), place.raw[keyword]
    if not isinstance(values, list):
        raise SchemaRefused(INVALID, pointer, "not a list")
    found = {key_of(value): value for value in (finite(values, pointer))}
    constants = [Constant(value, {keyword: pointer}) for value in found.values()]
    return expander.both(shapes, constants, pointer, upper, counted=False)


def apply_all(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """All of them."""
    for branch in _branches(expander, place, keyword):
        shapes = expander.both(shapes, expander.branch(branch, upper), below(place.pointer, keyword), upper)
    return shapes


def apply_any(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """The shapes of one or another."""
    pointer = below(place.pointer, keyword)
    options = (shape for branch in _branches(expander, place, keyword) for shape in expander.branch(branch, upper))
    return expander.both(shapes, expander.bounded(options, pointer), pointer, upper)


def apply_one(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """The shapes of each, without what another one that overlaps allows."""
    if upper:
        return apply_any(expander, shapes, place, keyword, upper)
    branches, pointer = _branches(expander, place, keyword), below(place.pointer, keyword)
    options = [expander.both(shapes, expander.branch(branch, False), pointer) for branch in branches]
    found: list[Shape] = []
    for index, option in enumerate(options):
        left, exact = option, True
        for other, branch in enumerate(branches):
            if other != index and expander.overlap(left, branch, pointer):
                left, whole = expander.without(left, branch, pointer, lenient=True)
                exact = exact and whole
        if option and not left and not exact:
            raise SchemaRefused(UNSUPPORTED, below(pointer, index), "it overlaps another one")
        found += left
    return expander.bounded(found, pointer)


def apply_not(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """All but what the schema allows."""
    if upper:
        return shapes
    return expander.without(shapes, expander.inner(place, keyword), below(place.pointer, keyword))[0]


def apply_if(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """What satisfies `if` and `then`, and what does not satisfy `if`, but `else`."""
    if "then" not in place.raw and "else" not in place.raw:
        return shapes
    condition, pointer = expander.inner(place, keyword), below(place.pointer, keyword)
    met = expander.both(shapes, expander.branch(condition, upper), pointer, upper)
    unmet = shapes if upper else expander.without(shapes, condition, pointer, lenient=True)[0]
    if "then" in place.raw:
        met = expander.both(
            met, expander.branch(expander.inner(place, "then"), upper), below(place.pointer, "then"), upper
        )
    if "else" in place.raw:
        other = expander.branch(expander.inner(place, "else"), upper)
        unmet = expander.both(unmet, other, below(place.pointer, "else"), upper)
    return expander.bounded([*met, *unmet], pointer)


def apply_reference(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """The shapes of what is referred to."""
    target = expander.state(expander.document.resolve(place, keyword))
    return expander.both(shapes, expander.branch(target, upper), below(place.pointer, keyword), upper)


def apply_dependencies(expander: Expander, shapes: Shapes, place: Place, keyword: str, upper: bool) -> Shapes:
    """An object without the name, or one with it that satisfies what depends on it."""
    if upper:
        return shapes
    for name, needed in schemas_by_name(place, keyword).items():
        pointer = below(place.pointer, keyword, name)
        others = tuple(shape for shape in EVERY_SHAPE if not isinstance(shape, Object))
        without = Object({name: expander.never}, origins={keyword: pointer})
        having: Shapes = (Object(required=(name,), origins={keyword: pointer}),)
        if isinstance(needed, list):
            having = (Object(required=(name, *names(needed, pointer)), origins={keyword: pointer}),)
        else:
            having = expander.both(having, expander.branch(expander.inner(place, keyword, name), False), pointer)
        shapes = expander.both(shapes, (*others, without, *having), pointer)
    return shapes


def _branches(expander: Expander, place: Place, keyword: str) -> list[State]:
    listed = place.raw[keyword]
    if not isinstance(listed, list) or not listed:
        raise SchemaRefused(INVALID, below(place.pointer, keyword), "not a list of schemas")
    return [expander.inner(place, keyword, index) for index in range(len(listed))]


APPLICATORS: dict[str, Callable[[Expander, Shapes, Place, str, bool], Shapes]] = {
    "const": apply_const,
    "enum": apply_enum,
    "allOf": apply_all,
    "anyOf": apply_any,
    "oneOf": apply_one,
    "not": apply_not,
    "if": apply_if,
    "$ref": apply_reference,
    "$dynamicRef": apply_reference,
    "$recursiveRef": apply_reference,
    "dependentRequired": apply_dependencies,
    "dependentSchemas": apply_dependencies,
    "dependencies": apply_dependencies,
}
