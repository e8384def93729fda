"""The keywords that apply other schemas at the same place: what each leaves of the shapes so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.text.schema.document import Subschema
from engine.text.schema.reading import finite, names, schemas_by_name
from engine.text.schema.refusal import INVALID, UNSUPPORTED, SchemaRefused, below
from engine.text.schema.shapes import EVERY_SHAPE, Constant, Object, Shape, State, key_of

if TYPE_CHECKING:
    from engine.text.schema.expander import Expander

Shapes = tuple[Shape, ...]


def apply_const(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """The value itself."""
    pointer = below(subschema.pointer, keyword)
    constant = Constant(finite(subschema.raw[keyword], pointer), {keyword: pointer})
    return expander.both(shapes, (constant,), pointer, upper)


def apply_enum(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """Each value itself, once."""
    pointer, values = below(subschema.pointer, keyword), subschema.raw[keyword]
    if not isinstance(values, list):
        raise SchemaRefused(INVALID, pointer, "not a list")
    found = {key_of(value): value for value in (finite(values, pointer))}
    constants = [Constant(value, {keyword: pointer}) for value in found.values()]
    return expander.both(shapes, constants, pointer, upper, counted=False)


def apply_all(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """All of them."""
    for branch in _branches(expander, subschema, keyword):
        shapes = expander.both(shapes, expander.branch(branch, upper), below(subschema.pointer, keyword), upper)
    return shapes


def apply_any(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """The shapes of one or another."""
    pointer = below(subschema.pointer, keyword)
    options = (shape for branch in _branches(expander, subschema, keyword) for shape in expander.branch(branch, upper))
    return expander.both(shapes, expander.bounded(options, pointer), pointer, upper)


def apply_one(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """The shapes of each, without what another one that overlaps allows."""
    if upper:
        expander.exact = False
        return apply_any(expander, shapes, subschema, keyword, upper)
    branches, pointer = _branches(expander, subschema, keyword), below(subschema.pointer, keyword)
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


def apply_not(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """All but what the schema allows."""
    state, pointer = expander.inner(subschema, keyword), below(subschema.pointer, keyword)
    if not upper:
        return expander.without(shapes, state, pointer)[0]
    denied = expander.denied(state)
    if denied is None:
        expander.exact = False
        return shapes
    return expander.both(shapes, expander.unsettled(denied, upper), pointer, upper)


def apply_if(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """What satisfies `if` and `then`, and what does not satisfy `if`, but `else`."""
    if "then" not in subschema.raw and "else" not in subschema.raw:
        return shapes
    condition, pointer = expander.inner(subschema, keyword), below(subschema.pointer, keyword)
    met = expander.both(shapes, expander.branch(condition, upper), pointer, upper)
    if upper:
        unmet, expander.exact = shapes, False
    else:
        unmet = expander.without(shapes, condition, pointer, lenient=True)[0]
    if "then" in subschema.raw:
        met = expander.both(
            met, expander.branch(expander.inner(subschema, "then"), upper), below(subschema.pointer, "then"), upper
        )
    if "else" in subschema.raw:
        other = expander.branch(expander.inner(subschema, "else"), upper)
        unmet = expander.both(unmet, other, below(subschema.pointer, "else"), upper)
    return expander.bounded([*met, *unmet], pointer)


def apply_reference(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """The shapes of what is referred to."""
    target = expander.state(expander.document.resolve(subschema, keyword))
    return expander.both(shapes, expander.branch(target, upper), below(subschema.pointer, keyword), upper)


def apply_dependencies(expander: Expander, shapes: Shapes, subschema: Subschema, keyword: str, upper: bool) -> Shapes:
    """An object without the name, or one with it that satisfies what depends on it."""
    if upper:
        expander.exact = False
        return shapes
    for name, needed in schemas_by_name(subschema, keyword).items():
        pointer = below(subschema.pointer, keyword, name)
        others = tuple(shape for shape in EVERY_SHAPE if not isinstance(shape, Object))
        without = Object({name: expander.never}, origins={keyword: pointer})
        having: Shapes = (Object(required=(name,), origins={keyword: pointer}),)
        if isinstance(needed, list):
            having = (Object(required=(name, *names(needed, pointer)), origins={keyword: pointer}),)
        else:
            having = expander.both(having, expander.branch(expander.inner(subschema, keyword, name), False), pointer)
        shapes = expander.both(shapes, (*others, without, *having), pointer)
    return shapes


def _branches(expander: Expander, subschema: Subschema, keyword: str) -> list[State]:
    listed = subschema.raw[keyword]
    if not isinstance(listed, list) or not listed:
        raise SchemaRefused(INVALID, below(subschema.pointer, keyword), "not a list of schemas")
    return [expander.inner(subschema, keyword, index) for index in range(len(listed))]


APPLICATORS: dict[str, Callable[[Expander, Shapes, Subschema, str, bool], Shapes]] = {
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
