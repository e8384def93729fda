"""Objects of a number of properties that refer to themselves: one has an end, or there is none."""

import random

import jsonschema_rs
import pytest

from engine.text.schema.emission import rewrite
from engine.text.schema.refusal import SchemaRefused

TEXT, ITSELF, AGAIN = {"type": "string", "maxLength": 2}, {"$ref": "#"}, {"$ref": "#/$defs/A"}
NEXT = {"type": "object", "properties": {"next": ITSELF}}
PAIR = {"type": "object", "properties": {"next": ITSELF, "v": TEXT}}
FURTHER = {"type": "object", "properties": {"a": {}, "b": AGAIN}, "minProperties": 2}
ENDING = {
    "another name": (NEXT | {"minProperties": 1, "additionalProperties": TEXT}, '{"x": "y"}'),
    "another name of any value": (NEXT | {"minProperties": 1}, '{"x": 1}'),
    "exactly one": (NEXT | {"minProperties": 1, "maxProperties": 1}, '{"x": 1}'),
    "itself too": (NEXT | {"minProperties": 1}, '{"next": {"x": 1}}'),
    "a listed one": (PAIR | {"minProperties": 1}, '{"v": "y"}'),
    "a listed one and another": (PAIR | {"minProperties": 2}, '{"v": "y", "x": 1}'),
    "exactly two": (PAIR | {"minProperties": 2, "maxProperties": 2}, '{"v": "y", "x": 1}'),
    "a required one": (PAIR | {"minProperties": 2, "required": ["v"]}, '{"v": "y", "x": 1}'),
    "a pattern": (NEXT | {"minProperties": 1, "patternProperties": {"^x": TEXT}}, '{"x": "y"}'),
    "a pattern of itself": (
        {"type": "object", "minProperties": 1, "patternProperties": {"^n": ITSELF}, "additionalProperties": TEXT},
        '{"n": {"x": "y"}}',
    ),
    "a pattern of itself and a listed one": (
        NEXT | {"minProperties": 1, "patternProperties": {"^n": ITSELF}, "additionalProperties": TEXT},
        '{"n": {"x": "y"}}',
    ),
    "a definition": (AGAIN | {"$defs": {"A": FURTHER | {"additionalProperties": TEXT}}}, '{"a": 1, "x": "y"}'),
    "of two": (
        NEXT | {"properties": {"a": AGAIN}, "minProperties": 1, "$defs": {"A": NEXT | {"minProperties": 1}}},
        '{"a": {"x": 1}}',
    ),
    "another type": (PAIR | {"type": ["object", "null"], "minProperties": 2}, '{"next": null, "v": "y"}'),
    "in an array": (
        {"type": "object", "properties": {"all": {"type": "array", "items": ITSELF, "minItems": 1}}}
        | {"minProperties": 1},
        '{"x": []}',
    ),
    "names of which some value is anything": (
        {"type": "object", "properties": {"b": {"anyOf": [{"type": "array", "contains": False}, {}]}}}
        | {"minProperties": 1, "propertyNames": {"enum": ["a", "b"]}},
        '{"a": 1}',
    ),
    "more than are listed": ({"type": "object", "properties": {"v": TEXT}, "minProperties": 2, "maxProperties": 2}
                             | {"additionalProperties": TEXT}, '{"v": "y", "x": "y"}'),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "text"), ENDING.values(), ids=ENDING)
def test_no_name_is_required_that_makes_an_object_endless(answers, schema, text):
    """What refers to the object itself counts where it comes, and is not asked for."""
    assert answers.allow(schema, text)
    values = answers.of(schema, most=150)
    assert values
    assert all(map(jsonschema_rs.Draft202012Validator(schema).is_valid, values))


@pytest.mark.parametrize(
    "schema", [NEXT | {"minProperties": 2}, PAIR | {"minProperties": 3}, {"type": "object", "minProperties": 2}]
)
def test_more_names_than_can_be_counted_are_refused_by_their_number(schema):
    """The library may write one name twice."""
    for whole in (schema, {"anyOf": [schema, False]}):
        with pytest.raises(SchemaRefused, match="what cannot be enforced: minProperties at"):
            rewrite(whole)


def test_an_object_that_only_contains_itself_allows_no_answer():
    """That is certain where no other name may come."""
    with pytest.raises(SchemaRefused, match="allows no answer: minProperties at"):
        rewrite(NEXT | {"minProperties": 1, "additionalProperties": False})


def test_an_option_that_cannot_be_counted_is_left_out(answers):
    """It would fail amid an answer."""
    inner = {"type": "object", "properties": {"a": AGAIN, "b": {}}, "additionalProperties": {}, "minProperties": 3}
    schema = {"type": "object", "properties": {"v": TEXT, "deep": AGAIN}, "$defs": {"A": inner}}
    assert answers.allow(schema, '{"v": "y"}')
    assert not answers.allow(schema, '{"deep": ')
    assert answers.allow(schema | {"properties": {"v": {"anyOf": [TEXT, AGAIN]}}}, '{"v": "y"}')


def some_object(rng, depth):
    """Return a random schema of an object, most of whose properties refer to objects."""

    def inner():
        if depth and rng.random() < 0.2:
            return some_object(rng, depth - 1)
        return rng.choice([ITSELF, ITSELF, AGAIN, {}, TEXT, False, {"anyOf": [AGAIN, {"type": "null"}]}])

    schema = {"type": "object", "properties": {name: inner() for name in rng.sample("abn", rng.randint(0, 3))}}
    schema["minProperties"] = rng.choice([0, 1, 1, 2, 3])
    if rng.random() < 0.3:
        schema["patternProperties"] = {rng.choice(["^x", "z", "^[^a-n]$"]): inner()}
    if rng.random() < 0.4:
        schema["additionalProperties"] = inner()
    return schema | rng.choice([{}, {}, {"required": ["a"]}, {"maxProperties": 3}])


@pytest.mark.parametrize("start", range(0, 120, 30))
def test_answers_of_random_objects_that_refer_to_themselves_come_to_an_end(answers, start):
    """Whatever is written has a grammar, and what ends validates."""
    ended = 0
    for seed in range(start, start + 30):
        rng = random.Random(seed)
        schema = some_object(rng, 1) | {"$defs": {"A": some_object(rng, 0)}}
        ended += answers.ended_valid(schema, count=3, most=100)
    assert ended >= 5
