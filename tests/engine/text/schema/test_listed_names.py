"""Patterns of names beside listed properties: where all names of a pattern are listed, no further one is offered."""

import random
import re

import pytest

from engine.text.schema.emission import rewrite
from engine.text.schema.probe import has_names
from engine.text.schema.refusal import SchemaRefused

INTEGER, POSITIVE = {"type": "integer"}, {"minimum": 0}
BOTH = {"type": "object", "properties": {"a": INTEGER, "b": INTEGER}, "required": ["a", "b"]}
WHOLE = {
    "closed": (BOTH | {"patternProperties": {"^[ab]$": POSITIVE}, "additionalProperties": False}, '{"a": 3, "b": 4'),
    "silent of others": (BOTH | {"patternProperties": {"^[ab]$": POSITIVE}}, '{"a": 3, "b": 4'),
    "two patterns": (BOTH | {"patternProperties": {"^a$": POSITIVE, "^b$": POSITIVE}}, '{"a": 3, "b": 4'),
    "two that overlap": (BOTH | {"patternProperties": {"^[ab]$": POSITIVE, "^b$": POSITIVE}}, '{"a": 3, "b": 4'),
    "optional": ({"type": "object", "properties": {"a": INTEGER}, "patternProperties": {"^a$": POSITIVE}}, '{"a": 3'),
    "required only": ({"type": "object", "required": ["a"], "patternProperties": {"^a$": INTEGER}}, '{"a": 3'),
    "without a letter": ({"type": "object", "required": [""], "patternProperties": {"^$": INTEGER}}, '{"": 3'),
    "names": (BOTH | {"propertyNames": {"pattern": "^(a|b)$"}, "additionalProperties": INTEGER}, '{"a": 3, "b": 4'),
    "one left out": ({"type": "object", "properties": {"a": INTEGER, "b": False}, "required": ["a"]}
                     | {"patternProperties": {"^[ab]$": POSITIVE}}, '{"a": 3'),
    "enough": (BOTH | {"patternProperties": {"^[ab]$": POSITIVE}, "minProperties": 2}, '{"a": 3, "b": 4'),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "begun"), WHOLE.values(), ids=WHOLE)
def test_an_answer_with_every_name_of_a_pattern_ends(answers, schema, begun):
    """A comma would lead to no name, and fail the answer."""
    assert answers.allow(schema, f"{begun}}}")
    assert not answers.allow(schema, f'{begun}, "')


def test_a_listed_property_obeys_a_pattern_that_stands_for_no_other_name(answers):
    """What the pattern says of it stays."""
    schema, _ = WHOLE["optional"]
    assert not answers.allow(schema, '{"a": -3}')


@pytest.mark.parametrize("pattern", ["^[abc]$", "^[ab]", "b$", "^.{1,2}$", "^a?c?$"])
def test_names_of_a_pattern_that_are_not_listed_are_offered(answers, pattern):
    """Listing some takes none of the others away."""
    schema = BOTH | {"patternProperties": {pattern: POSITIVE}, "additionalProperties": False}
    other = next(name for name in ("c", "ab", "cb", "ac") if re.search(pattern, name))
    assert answers.allow(schema, f'{{"a": 3, "b": 4, "{other}": 5}}')
    assert not answers.allow(schema, f'{{"a": 3, "b": 4, "{other}": -5}}')


@pytest.mark.parametrize("required", [[], ["a"]])
def test_no_more_properties_are_asked_for_than_there_are_names(answers, required):
    """A schema that asks for more allows no object."""
    schema = {"required": required, "patternProperties": {"^[ab]$": INTEGER}, "additionalProperties": False}
    listed = schema | {"type": "object", "properties": {"a": {}, "b": {}}}
    assert answers.allow(listed | {"minProperties": 2}, '{"a": 3, "b": 4}')
    with pytest.raises(SchemaRefused, match="allows no answer"):
        rewrite(listed | {"minProperties": 3})
    with pytest.raises(SchemaRefused):
        rewrite(schema | {"type": "object", "minProperties": 3})


@pytest.mark.parametrize(
    "pattern", ["^a$", "^[ab]$", "^a", "^(a|bc|)$", "^a{0,2}$", '^["\\\\]$', "^я?$", "^[^\\x{0}-z]$"]
)
def test_whether_a_pattern_has_further_names_is_asked_of_the_library(pattern):
    """It finds what a search among short names does."""
    names = ["", "a", "b", "bc", "aa", "aaa", '"', "\\", "я", "{"]
    matching = [name for name in names if re.search(pattern.replace("\\x{0}", "\\x00"), name)]
    assert [has_names(pattern, matching[:count]) for count in range(len(matching))] == [True] * len(matching)
    assert has_names(pattern, matching) == (pattern in ("^a", "^[^\\x{0}-z]$"))


def test_whether_a_hard_pattern_has_further_names_is_not_guessed():
    """The library finds so many names too much, or the pattern wrong."""
    names = [f"property_{number * 7919 % 9973}" for number in range(1000)]
    assert has_names(f"^({'|'.join(names)})$", names) is None
    assert has_names("(", ["a"]) is None


TWO_TYPES = {"allOf": [{"type": "string"}, {"type": "null"}]}
ENDLESS = {
    "$defs": {"endless": {"type": "object", "required": ["x"], "properties": {"x": {"$ref": "#/$defs/endless"}}}}
}
PATTERN, BOUNDED = {"pattern": "^[a-z_]+$"}, {"pattern": "^[a-z_]+$", "maxLength": 20}
CLOSED = {
    "a pattern": (PATTERN, False),
    "a length": ({"minLength": 1, "maxLength": 20}, False),
    "a pattern and a length": (BOUNDED, False),
    "two patterns": ({"anyOf": [{"pattern": "^a"}, {"pattern": "a$"}]}, False),
    "a pattern, closed by two types": (PATTERN, TWO_TYPES),
    "a pattern and a length, closed by two types": (BOUNDED, TWO_TYPES),
    "a pattern, closed by what contains nothing": (PATTERN, {"type": "array", "contains": False}),
    "a pattern, closed by what has no end": (PATTERN, {"$ref": "#/$defs/endless"}),
}


@pytest.mark.parametrize(("names", "rest"), CLOSED.values(), ids=CLOSED)
def test_a_closed_object_may_say_what_its_names_are(answers, names, rest):
    """That no other name has a value takes nothing from a listed one."""
    schema = {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}
    schema |= {"propertyNames": names, "additionalProperties": rest} | ENDLESS
    assert answers.allow(schema, '{"a": 3}')
    assert not answers.allow(schema, '{"a": 3, "aa": 3}')
    assert answers.allow(schema | {"required": [], "minProperties": 1}, '{"a": 3}')


def test_names_of_a_pattern_without_a_value_are_kept_out_of_an_open_object(answers):
    """They are no other names."""
    schema = {"type": "object", "properties": {"a": INTEGER}, "patternProperties": {"^b": TWO_TYPES}}
    assert answers.allow(schema | {"additionalProperties": INTEGER}, '{"a": 3, "c": 3}')
    assert not answers.allow(schema | {"additionalProperties": INTEGER}, '{"b": 3}')


def some_object(rng):
    """Return a random schema of an object of few names."""
    names = ["a", "b", "ab"]
    schema = {
        "type": "object",
        "properties": {name: rng.choice([INTEGER, {}, False]) for name in rng.sample(names, rng.randint(0, 3))},
        "patternProperties": {
            pattern: rng.choice([INTEGER, POSITIVE])
            for pattern in rng.sample(["^a$", "^[ab]$", "^a?b?$", "b$", "^(ab|b)$"], rng.randint(1, 2))
        },
        "required": rng.sample(names, rng.choice([0, 0, 1, 2])),
        "minProperties": rng.choice([0, 0, 1, 2, 3]),
    }
    return schema | rng.choice([{}, {"additionalProperties": False}, {"additionalProperties": INTEGER}])


@pytest.mark.parametrize("start", range(0, 120, 30))
def test_answers_of_random_objects_come_to_an_end(answers, start):
    """No answer leads to where nothing is allowed, and all that end validate."""
    schemas = [some_object(random.Random(seed)) for seed in range(start, start + 30)]
    assert sum(answers.ended_valid(schema, count=3, most=80) for schema in schemas) >= 10
