"""Schemas that say what a value is not: the opposite of an opposite, and what no pattern of values can say."""

import jsonschema_rs
import pytest

from engine.text.schema.emission import rewrite
from engine.text.schema.refusal import SchemaRefused

INTEGER = {"type": "integer", "minimum": 0, "maximum": 99}
TWICE = {"not": {"not": INTEGER}}
A = {"type": "object", "properties": {"a": INTEGER}}

SCHEMAS = {
    "twice": TWICE,
    "with a title": {"title": "x", "not": {"description": "y", "not": INTEGER}},
    "four times": {"not": {"not": TWICE}},
    "three times": {"not": {"not": {"not": {"type": ["string", "array", "object", "number"]}}}},
    "of a property": A | {"not": {"not": {"required": ["a"]}}},
    "in a property": {"type": "object", "properties": {"a": TWICE}, "required": ["a"]},
    "in all": {"allOf": [TWICE, {"minimum": 5}]},
    "in one of two": {
        "type": "object",
        "properties": {"a": INTEGER, "b": INTEGER},
        "oneOf": [{"required": ["a"], "properties": {"a": TWICE}}, {"required": ["b"]}],
    },
    "as a condition": A | {"if": {"not": {"required": ["a"]}}, "else": {"properties": {"a": {"minimum": 5}}}},
    "few": {"type": "array", "items": {"enum": ["x", "y"]}, "contains": {"not": {"const": "x"}}, "maxContains": 1},
    "listed": {"enum": [1, "a", 200], "not": {"not": {"not": {"not": INTEGER}}}},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_the_opposite_of_an_opposite_is_the_schema_itself(answers, schema):
    """It is answered, and answers validate."""
    values = answers.of(schema)
    assert values
    assert [value for value in values if not jsonschema_rs.Draft202012Validator(schema).is_valid(value)] == []


def test_a_property_that_is_not_missing_is_required(answers):
    """Nothing of the inner schema is lost on the way."""
    assert not answers.allow(SCHEMAS["of a property"], "{}")
    assert answers.allow(SCHEMAS["in one of two"], '{"a": 1}')
    assert not answers.allow(SCHEMAS["in one of two"], '{"a": 1, "b": 1}')
    assert answers.allow(SCHEMAS["as a condition"], '{"a": 5}')
    assert not answers.allow(SCHEMAS["as a condition"], '{"a": 4}')


def test_what_is_spoken_of_within_an_opposite_is_no_mention():
    """A property of it is not evaluated, however often it is turned round."""
    schema = {"enum": [{"a": 1}, {}], "not": {"not": A}, "unevaluatedProperties": False}
    try:
        kept = rewrite(schema).schema["enum"]
    except SchemaRefused:
        kept = []
    assert {"a": 1} not in kept


UNKNOWN = {
    "not what is referred to": {"not": {"$ref": "#/$defs/n"}, "$defs": {"n": {"not": INTEGER}}},
    "not a dependency": {"enum": [{"a": 1}], "not": {"dependentRequired": {"a": ["b"]}}},
    "not one of two": {"not": {"oneOf": [{"type": "integer"}, {"minimum": 3}]}},
    "not if": {"type": "string", "not": {"if": {"type": "string"}, "then": False}},
    "not without others": {"enum": [{"b": 1}], "not": {"unevaluatedProperties": False}},
    "not of two patterns": {"enum": [{"ac": 1}], "not": {"allOf": [
        {"patternProperties": {"^a": True}, "additionalProperties": False},
        {"patternProperties": {"b": True}, "additionalProperties": False},
    ]}},
    "in a property": A | {"required": ["a"], "properties": {"a": {"enum": [1], "not": {"oneOf": [{}, {}]}}}},
    "another item": {"type": "array", "prefixItems": [{"const": 1}], "contains": {"const": 2}},
    "another item of two": {"type": "array", "allOf": [{"contains": {"const": n}, "maxItems": 2} for n in (1, 2)]},
    "items of a row": {"type": "array", "contains": {"const": 2}, "prefixItems": [{"const": 1}], "maxContains": 1},
    "another name": A | {"propertyNames": {"pattern": "^b"}, "minProperties": 1},
}  # fmt: skip


@pytest.mark.parametrize("schema", UNKNOWN.values(), ids=UNKNOWN)
def test_a_schema_with_answers_is_not_said_to_allow_none(schema):
    """What cannot be expressed of it is refused as that, unless it is answered."""
    refusal = "uses what cannot be enforced"
    try:
        rewrite(schema)
    except SchemaRefused as error:
        refusal = error.message
    assert "uses what cannot be enforced" in refusal


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"not": False}},
        {"allOf": [INTEGER, {"not": {"not": {"type": "string"}}}]},
        {"type": "string", "not": {"type": ["string", "null"]}},
        {"enum": ["a"], "not": {"pattern": "^a"}},
        {"enum": [{"a": 1}], "not": {"patternProperties": {"^a": INTEGER}}},
    ],
)
def test_a_schema_without_answers_is_said_to_allow_none(schema):
    """Where that is certain."""
    with pytest.raises(SchemaRefused, match="allows no answer"):
        rewrite(schema)
