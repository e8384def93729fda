"""Schemas of random keywords: an answer that ends validates, and a schema that is none is refused, not a failure."""

import contextlib
import random

import pytest

from engine.text.schema.emission import rewrite
from engine.text.schema.refusal import SchemaRefused

NAMES = ["a", "b", "c", "x1"]
TYPES = ["object", "array", "string", "integer", "number", "boolean", "null", ["object", "null"], ["string", "integer"]]
BROKEN = [None, True, 3, "x", [], {}, -1, 1.5, [1], {"a": 1}, float("inf"), "(", "#/nothing"]
SCHEMAS = "additionalProperties items contains not if then else unevaluatedProperties unevaluatedItems".split()
LISTS = "allOf anyOf oneOf prefixItems".split()
MAPS = {"properties": NAMES, "patternProperties": ["^a", "b", "^x"], "dependentSchemas": NAMES, "dependencies": NAMES}
COUNTS = "minProperties maxProperties minItems maxItems minContains maxContains minLength maxLength".split()
VALUES = {
    "required": [[], ["a"], ["b", "x1"]],
    "propertyNames": [{"pattern": "^[ab]"}, {"maxLength": 1}, {"enum": ["a", "c"]}, {"type": "string"}],
    "uniqueItems": [False, False, True],
    "pattern": ["^a", "b$", "^[a-c]+$", "^.{2}$", "x|y"],
    "format": ["date", "ipv4", "foo"],
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), [0, 1, 2.5, -1, 5]),
    "multipleOf": [1, 2, 0.5, 3],
    "enum": [[1, "a", None], [{"a": 1}, {}, [1]], ["ab", "b"], [2.5, True]],
    "const": [0, "a", {"a": {"b": []}}, [1, 2], None],
    "$ref": ["#/$defs/p", "#/$defs/q", "#"],
    "dependentRequired": [{"a": ["b"]}, {"b": ["x1"]}],
}
KEYWORDS = [*SCHEMAS, *LISTS, *MAPS, *COUNTS, *VALUES]


def some_schema(rng, depth, broken=0.0):
    """Return a random schema. broken: how often a keyword has a value of a wrong kind."""
    if rng.random() < 0.06:
        return rng.random() < 0.5
    schema = {"type": rng.choice(TYPES)} if rng.random() < 0.5 else {}
    for keyword in rng.choices(KEYWORDS, k=rng.randint(1, 4)):
        inner = lambda: some_schema(rng, depth - 1, broken) if depth else rng.choice([True, {"type": "string"}])  # noqa: E731
        if rng.random() < broken:
            schema[keyword] = rng.choice(BROKEN)
        elif keyword in SCHEMAS:
            schema[keyword] = inner()
        elif keyword in LISTS:
            schema[keyword] = [inner() for _ in range(rng.randint(1, 3))]
        elif keyword in MAPS:
            schema[keyword] = {name: inner() for name in rng.sample(MAPS[keyword], rng.randint(0, 2))}
        else:
            schema[keyword] = rng.randint(0, 3) if keyword in COUNTS else rng.choice(VALUES[keyword])
    return schema


def whole_schema(seed, broken=0.0):
    """Return a random schema with the definitions that it may refer to."""
    rng = random.Random(seed)
    schema = some_schema(rng, 2, broken)
    definitions = {"p": some_schema(rng, 1, broken), "q": some_schema(rng, 1, broken)}
    return (schema if isinstance(schema, dict) else {"allOf": [schema]}) | {"$defs": definitions}


@pytest.mark.parametrize("start", range(0, 160, 20))
def test_answers_of_random_schemas_validate(answers, start):
    """Whatever is combined, the result allows nothing but what the schema allows."""
    schemas = [whole_schema(seed) for seed in range(start, start + 20)]
    assert sum(answers.ended_valid(schema, count=4, most=120) for schema in schemas) >= 5


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_random_nonsense_is_rewritten_or_refused(start):
    """No value of a keyword is a failure of ours."""
    written = 0
    for seed in range(start, start + 100):
        with contextlib.suppress(SchemaRefused):
            written += bool(rewrite(whole_schema(seed, broken=0.2)).schema)
    assert 0 < written < 100
