"""Schemas of every keyword: an answer that ends validates, checked by two libraries that the service does not use."""

import jsonschema
import jsonschema_rs
import pytest
from jsonschema.validators import validator_for

NAME = {"type": "string", "maxLength": 3}
NODE = {"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}, "v": NAME}}}}
SEVENTH, FOURTH = "http://json-schema.org/draft-07/schema#", "http://json-schema.org/draft-04/schema#"

SCHEMAS = {
    "closed": {"type": "object", "properties": {"a": NAME, "b": {"type": "integer"}}, "required": ["a"]},
    "all of": {"allOf": [{"properties": {"a": NAME}}, {"properties": {"b": NAME}, "required": ["b", "c"]}]},
    "any of in all of": {
        "allOf": [
            {"anyOf": [{"properties": {"a": NAME}, "required": ["a"]}, {"required": ["b"]}]},
            {"anyOf": [{"properties": {"c": NAME}, "required": ["c"]}, {"properties": {"d": {"const": 1}}}]},
        ],
        "type": "object",
    },
    "one of required": {
        "type": "object",
        "properties": {"a": NAME, "b": NAME},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "one of with a common part": {"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 2}]},
    "one of tagged": {
        "oneOf": [
            {"properties": {"kind": {"const": "x"}, "v": NAME}, "required": ["kind"]},
            {"properties": {"kind": {"const": "y"}, "v": {"type": "null"}}, "required": ["kind"]},
        ]
    },
    "one of string and its values": {"oneOf": [{"type": "string", "maxLength": 4}, {"enum": ["auto"]}]},
    "not a value": {"type": "string", "maxLength": 2, "not": {"enum": ["", "a", "ab"]}},
    "not a type": {"not": {"type": ["object", "array", "string"]}},
    "not a property": {"type": "object", "properties": {"a": NAME, "b": NAME}, "not": {"required": ["a"]}},
    "not an object of a form": {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "not": {"properties": {"a": {"const": 1}}, "required": ["a"]},
    },
    "if then else": {
        "type": "object",
        "properties": {"c": {"enum": ["US", "FR"]}, "z": NAME, "p": NAME},
        "if": {"properties": {"c": {"const": "US"}}, "required": ["c"]},
        "then": {"required": ["z"]},
        "else": {"required": ["p"], "properties": {"z": False}},
    },
    "if without then": {"type": "string", "maxLength": 2, "if": {"minLength": 1}},
    "then without if": {"type": "integer", "then": False, "else": False},
    "dependent required": {"properties": {"a": NAME, "b": NAME}, "dependentRequired": {"a": ["b"]}},
    "dependent schemas": {
        "properties": {"a": NAME, "b": True},
        "dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}, "required": ["b"]}},
    },
    "dependencies": {
        "$schema": SEVENTH,
        "properties": {"a": NAME},
        "dependencies": {"a": ["b"], "b": {"minProperties": 2}},
    },
    "property names": {"type": "object", "propertyNames": {"pattern": "^x_"}, "additionalProperties": {"type": "null"}},
    "listed names": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": NAME},
    "names of a length": {"type": "object", "propertyNames": {"maxLength": 2}, "additionalProperties": {"const": 0}},
    "any names": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"const": 0}},
    "patterns": {
        "type": "object",
        "properties": {"x1": {"minimum": 3}, "y": NAME},
        "patternProperties": {"^x": {"type": "integer"}},
        "additionalProperties": False,
    },
    "patterns that overlap": {
        "type": "object",
        "patternProperties": {"a": {"type": "integer"}, "b": {"type": "integer", "maximum": 9}},
        "additionalProperties": False,
    },
    "patterns of two sides": {
        "allOf": [
            {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "number"}},
            {"patternProperties": {"^b": {"maximum": 3}}, "additionalProperties": {"type": ["integer", "null"]}},
        ],
        "type": "object",
    },
    "some properties": {"type": "object", "properties": {"a": NAME, "b": NAME, "c": NAME}, "minProperties": 2},
    "few properties": {"type": "object", "properties": {"a": NAME, "b": NAME, "c": NAME}, "maxProperties": 1},
    "more than are named": {"type": "object", "properties": {"a": NAME}, "minProperties": 2},
    "unevaluated properties": {
        "allOf": [{"properties": {"a": NAME}}],
        "oneOf": [{"required": ["b"], "properties": {"b": {"const": 1}}}, {"required": ["c"]}],
        "properties": {"c": NAME},
        "unevaluatedProperties": False,
        "type": "object",
    },
    "unevaluated items": {"allOf": [{"prefixItems": [NAME]}], "type": "array", "unevaluatedItems": {"const": 7}},
    "unevaluated and listed": {
        "properties": {"a": {"const": 1}},
        "enum": [{"a": 1}, {"a": 1, "b": 2}, {}],
        "unevaluatedProperties": False,
    },
    "unevaluated and listed within": {"anyOf": [{"enum": [{"a": 1}, {}, [1], []]}], "unevaluatedProperties": False},
    "unevaluated and excluded": {
        "type": "array",
        "not": {"contains": {"const": 1}},
        "unevaluatedItems": {"enum": [1, 2]},
    },
    "few names of a pattern": {"patternProperties": {"^a": {"const": 1}}, "type": "object", "maxProperties": 1},
    "between whole numbers": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
    "below a whole number": {"type": "number", "minimum": -2.5, "exclusiveMaximum": -2},
    "contains": {"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 5}, "maxItems": 3},
    "contains a few": {
        "type": "array",
        "contains": {"const": 1},
        "minContains": 2,
        "maxContains": 3,
        "items": {"enum": [1, 2]},
    },
    "contains none": {"type": "array", "contains": {"const": 1}, "minContains": 0, "maxContains": 0, "maxItems": 2},
    "unique values": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 1},
    "unique by place": {"type": "array", "prefixItems": [{"const": 1}, NAME], "items": False, "uniqueItems": True},
    "not unique": {"type": "array", "items": {"const": 1}, "uniqueItems": False, "maxItems": 3},
    "tuple of old": {
        "$schema": SEVENTH,
        "type": "array",
        "items": [NAME],
        "additionalItems": {"const": 1},
        "maxItems": 3,
    },
    "exclusive of old": {"$schema": FOURTH, "type": "integer", "minimum": 1, "exclusiveMinimum": True, "maximum": 3},
    "reference alone": {
        "$schema": SEVENTH,
        "properties": {"a": {"$ref": "#/definitions/n", "maxLength": 0}},
        "required": ["a"],
        "definitions": {"n": {"const": "abc"}},
    },
    "recursive": NODE,
    "recursive in both": NODE | {"allOf": [{"properties": {"next": {"properties": {"v": {"const": "x"}}}}}]},
    "anchors": {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "integer", "maximum": 3}}},
    "own names": {"$id": "http://x/y.json", "$ref": "z.json", "$defs": {"a": {"$id": "z.json", "const": 4}}},
    "names in pointers": {"$ref": "#/$defs/a~1b~0c%25d", "$defs": {"a/b~c%d": {"type": "null"}}},
    "pattern and length": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 3},
    "look-ahead": {"type": "string", "pattern": "^(?=.*[0-9])(?!\\s*$)[a-z0-9 ]{2,4}$"},
    "two patterns": {"allOf": [{"pattern": "^a"}, {"pattern": "b$"}], "type": "string", "maxLength": 5},
    "format that contradicts": {"type": "string", "format": "date", "maxLength": 3},
    "unknown format": {"type": "string", "format": "cuid", "maxLength": 3},
    "values and a type": {"type": "string", "enum": ["a", 1, None]},
    "values and limits": {"enum": [1, 5, 10, "x"], "minimum": 4, "maximum": 6},
    "objects as values": {"enum": [{"a": [1, {"b": None}]}, []]},
    "multiples": {"allOf": [{"multipleOf": 4}, {"multipleOf": 6}], "type": "integer", "minimum": 1, "maximum": 99},
    "beyond 64 bits": {"type": "integer", "minimum": 0, "maximum": 2**64},
    "annotations": {
        "type": "integer",
        "title": "x",
        "$comment": "x",
        "default": "x",
        "examples": [1],
        "deprecated": True,
        "readOnly": True,
        "writeOnly": False,
        "x-order": {"not": {}},
        "contentEncoding": "base64",
        "contentMediaType": "text/plain",
        "contentSchema": False,
        "$vocabulary": {},
        "nullable": True,
        "discriminator": {"propertyName": "x"},
    },
    "neutral values": {
        "minLength": 0,
        "minItems": 0,
        "minProperties": 0,
        "required": [],
        "dependentRequired": {},
        "patternProperties": {},
        "additionalProperties": True,
        "items": True,
        "unevaluatedProperties": True,
        "type": ["string", "null"],
        "maxLength": 3,
    },
}


def checks(schema):
    """Return the checks of a value, by both libraries."""
    python = validator_for(schema, default=jsonschema.Draft202012Validator)
    return python(schema).is_valid, jsonschema_rs.validator_for(schema).is_valid


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_an_answer_that_ends_validates(answers, schema):
    """And some answers end."""
    values = answers.of(schema)
    assert values
    for check in checks(schema):
        assert all(check(value) for value in values), values


@pytest.mark.parametrize("name", ["closed", "all of", "any of in all of", "one of tagged", "recursive"])
def test_objects_that_do_not_say_are_closed(answers, name):
    """Whatever they are composed of: a model that may invent names goes on until its limit."""

    def names(value):
        return {*value, *(inner for child in value.values() if isinstance(child, dict) for inner in names(child))}

    objects = [value for value in answers.of(SCHEMAS[name]) if isinstance(value, dict)]
    assert set().union(*map(names, objects)) <= {*"abcdv", "kind", "next"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": NAME}, "additionalProperties": True},
        {"type": "object", "properties": {"a": NAME}, "additionalProperties": {}},
        {"type": "object", "allOf": [{"properties": {"a": NAME}}, {"additionalProperties": True}]},
    ],
)
def test_objects_that_say_so_stay_open(answers, schema):
    """So do those that name no property at all."""
    assert answers.allow(schema, '{"zzz": 1}')


def test_every_property_may_come_in_the_order_of_the_schema(answers):
    """Closing an object takes none of its names away."""
    schema = {"allOf": [{"properties": {"a": {}}}, {"$ref": "#/$defs/b"}], "$defs": {"b": {"properties": {"b": {}}}}}
    assert answers.allow(schema, '{"a": 1, "b": "x"}')
    assert not answers.allow(schema, '{"a": 1, "b": "x", "c": 0}')


def test_keywords_of_one_type_mean_that_type(answers):
    """A schema with `properties` and without `type` allows a number too, which nobody means."""
    assert all(isinstance(value, dict) for value in answers.of({"properties": {"a": NAME}}))
    assert all(isinstance(value, list) for value in answers.of({"items": NAME, "maxItems": 2}))
    assert {type(value) for value in answers.of({}, count=60, most=60)} > {dict, list}


NOTHING = {
    "no first item": {"type": "array", "prefixItems": [False], "minItems": 1},
    "no property": {"type": "object", "properties": {"a": {"allOf": [NAME, {"type": "null"}]}}, "required": ["a"]},
    "no item of a type": {"type": "array", "items": {"type": "integer"}, "contains": NAME},
    "no end": {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}, "required": ["a"]},
    "a property of nothing": {
        "type": "object",
        "properties": {"a": {"anyOf": [{"type": "array", "contains": False}, {"type": "null", "enum": [1]}]}},
        "required": ["a"],
    },
}


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("everything", [{}, True, {"description": "anything"}])
def test_a_branch_that_allows_everything_counts_where_the_others_allow_nothing(answers, nothing, everything):
    """Elsewhere the type that another branch speaks of is meant."""
    schema = {"anyOf": [nothing, everything]}
    outer = {"type": "object", "properties": {"v": schema}, "required": ["v"]}
    outer |= {"$defs": {"none": nothing | {"additionalProperties": False}}}
    assert answers.allow(outer, '{"v": 1}')
    assert answers.allow(schema | {"$defs": outer["$defs"]}, "[null]")


def test_a_branch_that_allows_everything_counts_no_further_out_than_it_must(answers):
    """What it stands in keeps the type that is spoken of."""
    inner = {"anyOf": [NOTHING["no property"], {}]}
    schema = {"anyOf": [{"type": "object", "properties": {"a": inner}, "required": ["a"]}, {}]}
    assert answers.allow(schema, '{"a": [1]}')
    assert not answers.allow(schema, "[1]")


@pytest.mark.parametrize(("bounds", "text"), [((0, 0.5), "0"), ((2, 2.25), "2"), ((-1.5, -1), "-1"), ((0, 1e-7), "0")])
def test_an_open_bound_is_left_out(answers, bounds, text):
    """Also where the other bound is within 1 of it."""
    low, high = bounds
    assert not answers.allow({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}, text)
    assert answers.allow({"type": "number", "minimum": low, "maximum": high}, text)


@pytest.mark.parametrize("text", ["1e5", "1e999", "-1E-7", "1234567890123456", "0." + "3" * 400 + "e1"])
def test_numbers_are_ones_that_every_reader_holds(answers, text):
    """Without exponents and with at most 15 digits before the point."""
    assert not answers.allow({"type": "number"}, text)
    assert not answers.allow({}, text)
    assert answers.allow({"type": "number"}, "-99999999999999.25")


@pytest.mark.parametrize("name", ["a<|im_end|>b", "<|endoftext|>", "#/$defs/s0", "a/b~c"])
def test_any_text_may_be_a_value_or_a_name(answers, name):
    """Special tokens and references are text like any other."""
    assert answers.of({"enum": [name]}) == [name] * 12
    assert answers.of({"properties": {name: {"const": 1}}, "required": [name]}) == [{name: 1}] * 12
