"""What a schema leaves of listed values: none that another keyword excludes, however that has to be found out."""

import random

import jsonschema_rs
import pytest

from engine.text.schema.emission import rewrite
from engine.text.schema.refusal import SchemaRefused

CANDIDATES = [None, True, 0, 1, 2, 2.5, -1, "a", "ab", "b", "x1", {}, {"a": 1}, {"a": 1, "b": 2}, {"ab": 1}, [], [1]]
CANDIDATES += [{"x1": None, "b": []}, {"a": {"b": 1}}, [1, 2], [1, 1], ["a", 1], [[2, 1], [1]], [[1], [1, 2], [3]]]
CANDIDATES += [{"a": 1, "c": 2, "x1": 3}]
LEAVES = [{"const": 1}, {"const": 2}, {"type": "integer"}, {"type": "array"}, {"required": ["a"]}, {"minItems": 2}]
LEAVES += [{"pattern": "b$"}]
LONG = "a" * 5000
HARD = "a[ab]{200}$"  # beyond the library's limits, though it is a match


def some_schema(rng, depth):
    """Return a random schema of the keywords that need to know both what a schema allows and what it may allow."""

    def inner():
        return some_schema(rng, depth - 1)

    if not depth:
        return rng.choice(LEAVES)
    kind = rng.randrange(9)
    if kind < 2:
        return {"not": inner()}
    if kind < 4:
        return {"contains": inner(), "minContains": rng.randint(0, 1), "maxContains": rng.randint(1, 2)}
    if kind == 4:
        patterns = {rng.choice(["^a", "b$", "x"]): rng.choice([True, inner()])}
        return {"patternProperties": patterns, "additionalProperties": rng.choice([False, inner()])}
    if kind < 7:
        return {rng.choice(["allOf", "oneOf"]): [inner(), inner()]}
    if kind == 7:
        return {"if": inner(), "then": inner()}
    return rng.choice([{"items": inner()}, {"properties": {rng.choice("ab"): inner()}}])


@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_values_that_random_schemas_keep_validate(start):
    """Each is taken or left without an answer; and where there is one, no schema is said to allow none."""
    kept = 0
    for seed in range(start, start + 250):
        schema = {"enum": CANDIDATES, "allOf": [some_schema(random.Random(seed), 4)]}
        check = jsonschema_rs.Draft202012Validator(schema).is_valid
        values, refusal = [], ""
        try:
            values = rewrite(schema).schema["enum"]
        except SchemaRefused as error:
            refusal = error.message
        kept += len(values)
        assert [value for value in values if not check(value)] == [], schema
        assert "allows no answer" not in refusal or not any(map(check, CANDIDATES)), schema
    assert kept > 1000


def closed(*patterns):
    """Return a schema of objects all whose names match each of the patterns."""
    return {"allOf": [{"patternProperties": {name: True}, "additionalProperties": False} for name in patterns]}


ONLY = {"type": "object", "properties": {"ab": {"type": "integer"}}, "required": ["ab"], "additionalProperties": False}
EXCLUDED = {
    "not few others": {"enum": [[1, 2]], "not": {"contains": {"not": {"const": 2}}, "maxContains": 1}},
    "few that are found behind others": {
        "enum": [[[2, 1], [1]]],
        "contains": {"type": "array", "contains": {"const": 1}},
        "maxContains": 1,
    },
    "few within a property": {
        "enum": [{"a": [[2, 1], [1]]}],
        "properties": {"a": {"contains": {"contains": {"const": 1}}, "maxContains": 1}},
    },
    "not of names with two patterns": ONLY | {"not": closed("^a", "b$")},
    "not of a value with such a name": {"enum": [{"ab": 1}], "not": closed("^a", "b$")},
    "not of names with three patterns": {"enum": [{"abc": 1}], "not": closed("^a", "b", "c$")},
    "not the beginning of a long text": {"enum": [LONG], "not": {"pattern": "^a"}},
    "a long name of a pattern": {"enum": [{LONG: "x"}], "patternProperties": {"^a": {"type": "integer"}}},
    "a long name that is listed": {
        "type": "object",
        "properties": {LONG: {"type": "string"}},
        "required": [LONG],
        "patternProperties": {"^a": {"type": "integer"}},
    },
}


@pytest.mark.parametrize("schema", EXCLUDED.values(), ids=EXCLUDED)
def test_a_schema_whose_only_value_is_excluded_is_refused(schema):
    """No value of it is left for an answer."""
    with pytest.raises(SchemaRefused):
        rewrite(schema)


def test_branches_that_overlap_by_what_cannot_be_expressed_are_told_apart(answers):
    """A value of both is none of `oneOf`, also where its part of one branch is found only from above."""
    whole = {"if": {"not": {"type": "integer"}}, "then": False, "else": True}
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "oneOf": [{"required": ["a"], "properties": {"a": whole}}, {"required": ["b"]}],
    }
    assert not answers.allow(schema, '{"a": 1, "b": 2}')
    assert answers.allow(schema, '{"b": 2}')


TOO_HARD = {
    "not": {"enum": ["a" * 300, "c"], "not": {"pattern": HARD}},
    "one of": {"enum": ["a" * 300, "c"], "oneOf": [{"pattern": HARD}, {"maxLength": 300}]},
    "names": {"enum": [{"a" * 300: "x"}, {}], "patternProperties": {HARD: {"type": "integer"}}},
    "listed names": {"properties": {"a" * 300: {}}, "patternProperties": {HARD: {}}, "required": ["a" * 300]},
}


@pytest.mark.parametrize("schema", TOO_HARD.values(), ids=TOO_HARD)
def test_a_text_that_is_too_hard_to_match_is_told(schema):
    """Neither that it matches is assumed then, nor that it does not."""
    with pytest.raises(SchemaRefused, match="is too complex: pattern"):
        rewrite(schema)


def test_a_pattern_that_cannot_be_read_is_no_complex_one():
    """Whoever asks first whether a name matches it."""
    with pytest.raises(SchemaRefused, match='cannot be enforced: patternProperties at "/patternProperties'):
        rewrite({"properties": {"a": {}}, "patternProperties": {"(": {}}})


def test_a_long_text_is_matched_like_a_short_one():
    """Whatever its length, it is counted as work."""
    assert rewrite({"enum": [LONG, "b", f"{LONG}b"], "pattern": "a$"}).schema == {"enum": [LONG]}
