"""What cannot be followed is refused by its keyword and the place of that, in bounded time."""

import pytest

from engine.text.schema.emission import rewrite
from engine.text.schema.refusal import MAX_POINTER, SchemaRefused, keyword_of

OBJECT = {"type": "object", "properties": {}}
CANNOT, EMPTY, INVALID, COMPLEX = (
    "uses what cannot be enforced",
    "allows no answer",
    "is not a valid schema",
    "is too complex",
)


def inside(schema):
    """Return a schema some levels deep in another one."""
    return OBJECT | {"properties": {"a/b": {"type": "array", "items": schema, "minItems": 1}}, "required": ["a/b"]}


PLACE = "/properties/a~1b/items"


@pytest.mark.parametrize(
    ("schema", "what", "keyword", "pointer"),
    [
        ({"type": "array", "uniqueItems": True}, CANNOT, "uniqueItems", "/uniqueItems"),
        ({"type": "string", "not": {"pattern": "x"}}, CANNOT, "not", "/not"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, CANNOT, "oneOf", "/oneOf/0"),
        ({"$ref": "http://example.com/x.json"}, CANNOT, "$ref", "/$ref"),
        ({"$ref": "#/$defs/none"}, CANNOT, "$ref", "/$ref"),
        ({"$ref": "http://[x"}, CANNOT, "$ref", "/$ref"),
        ({"$ref": "#"}, CANNOT, "", ""),
        ({"$dynamicRef": "#none"}, CANNOT, "$dynamicRef", "/$dynamicRef"),
        ({"enum": [1, float("inf")]}, CANNOT, "enum", "/enum/1"),
        ({"const": 2**60 + 1}, CANNOT, "const", "/const"),
        ({"minimum": float("nan"), "type": "number"}, CANNOT, "minimum", "/minimum"),
        ({"type": "number", "minimum": 1e18}, CANNOT, "minimum", "/minimum"),
        ({"type": "number", "multipleOf": 0.123456789}, CANNOT, "multipleOf", "/multipleOf"),
        ({"type": "integer", "multipleOf": 604_800}, CANNOT, "multipleOf", "/multipleOf"),
        ({"type": "string", "pattern": "(?!a)b"}, CANNOT, "pattern", "/pattern"),
        ({"type": "string", "pattern": r"(a)\1"}, CANNOT, "pattern", "/pattern"),
        ({"type": "string", "pattern": "("}, CANNOT, "pattern", "/pattern"),
        ({"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}, COMPLEX, "pattern", "/pattern"),
        ({"patternProperties": {"(?=a)": {}}}, CANNOT, "patternProperties", "/patternProperties/(?=a)"),
        ({"type": "object", "minProperties": 3}, CANNOT, "minProperties", "/minProperties"),
        ({"type": "string", "pattern": "^a", "maxLength": 0}, EMPTY, "maxLength", "/maxLength"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, EMPTY, "", ""),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, EMPTY, "allOf", "/allOf"),
        ({"allOf": [True, False]}, EMPTY, "allOf", "/allOf/1"),
        ({"enum": []}, EMPTY, "enum", "/enum"),
        ({"not": {}}, EMPTY, "not", "/not"),
        ({"type": "array", "contains": False}, EMPTY, "contains", "/contains"),
        (OBJECT | {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, EMPTY, "properties", "/properties/a"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, CANNOT, "properties", "/properties/a"),
        (inside({"required": ["a"], "properties": {"a": False}}), CANNOT, "properties", f"{PLACE}/properties/a"),
        ({"prefixItems": [{"items": False, "minItems": 1}], "minItems": 1}, CANNOT, "items", "/prefixItems/0/items"),
        ({"minLength": "x"}, INVALID, "minLength", "/minLength"),
        ({"type": "text"}, INVALID, "type", "/type"),
        ({"properties": []}, INVALID, "properties", "/properties"),
        ({"anyOf": {}}, INVALID, "anyOf", "/anyOf"),
        ({"items": 3}, INVALID, "items", "/items"),
    ],
)
def test_a_refusal_names_keyword_and_place(schema, what, keyword, pointer):
    """As a JSON pointer from the root of the schema."""
    with pytest.raises(SchemaRefused) as caught:
        rewrite(schema)
    assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer)
    assert caught.value.message.startswith(f'{what}: {keyword or "the schema"} at "{pointer}"')


def test_a_place_may_be_deep():
    """Names in it are written as RFC 6901 says."""
    with pytest.raises(SchemaRefused, match='uniqueItems at "/properties/a~1b/items/uniqueItems"'):
        rewrite(inside({"type": "array", "uniqueItems": True}))


def test_an_optional_part_without_a_value_is_left_out():
    """It makes nothing else invalid."""
    schema = OBJECT | {"properties": {"a": {"type": "string", "pattern": "^a", "maxLength": 0}, "b": {}}}
    assert rewrite(schema).schema["properties"]["a"] is False


@pytest.mark.parametrize(
    ("pointer", "keyword"),
    [
        ("/properties/pattern", "properties"),
        ("/properties/properties/pattern", "pattern"),
        ("/allOf/1/oneOf/0", "oneOf"),
        ("/items/items/enum/3", "enum"),
        ("/elsewhere/a/not", "not"),
        ("", ""),
    ],
)
def test_the_keyword_of_a_place_is_no_name_and_no_index(pointer, keyword):
    """Names of properties may be spelled like keywords."""
    assert keyword_of(pointer) == keyword


def test_a_place_in_a_message_is_bounded():
    """A client may choose names of any length."""
    with pytest.raises(SchemaRefused) as caught:
        rewrite(OBJECT | {"properties": {"a" * 5000: {"type": "string", "pattern": "("}}, "required": ["a" * 5000]})
    assert len(caught.value.message) < MAX_POINTER + 100


def layers(names, depth):
    """Return definitions of closed objects, each of whose properties is any of the next layer's definitions."""
    return {
        f"{name}{level}": {
            "type": "object",
            "required": [name],
            "additionalProperties": False,
            "properties": {other: {"$ref": f"#/$defs/{other}{level + 1}"} for other in names},
        }
        for level in range(depth)
        for name in names
    } | {f"{name}{depth}": {"const": name} for name in names}


MANY = [f"n{n}" for n in range(160)]
STEPS = {f"p{n}": {"enum": [*range(9)]} for n in range(40)}
HOSTILE = {
    "if by if": {
        "type": "object",
        "properties": STEPS,
        "allOf": [{"if": {"properties": {name: {"const": 1}}}, "then": {"required": ["x"]}} for name in STEPS],
    },
    "one of many": {"oneOf": [{"properties": {f"k{n}": {"type": "string"}}} for n in range(300)]},
    "any of any of": {"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(60)]},
    "names and patterns": {
        "properties": {f"{'a' * 200}{n}": {} for n in range(400)},
        "patternProperties": {f"^(a*)*{n}$": {} for n in range(400)},
    },
    "nothing but not": {
        "not": {"not": {"not": {"not": {"oneOf": [{"properties": {"a": {"$ref": "#"}}}, {"minProperties": 1}]}}}}
    },
    "values of values": {"allOf": [{"enum": [[n] for n in range(600)]}, {"enum": [[n] for n in range(600)]}]},
    "long values": {"type": "string", "not": {"enum": ["a" * 60_000]}},
    "dependencies": {"type": "object", "dependentRequired": {f"a{n}": [f"b{n}"] for n in range(200)}},
    "many ways to the end": {
        "$defs": layers("ab", 60),
        "properties": {"k": {}},
        "patternProperties": {"k": {"$ref": "#/$defs/a0"}},
    },
    "names required of names required": {
        "$defs": {
            f"d{level}": {
                "type": "object",
                "required": MANY,
                "properties": {name: {"$ref": f"#/$defs/d{level + 1}"} for name in MANY},
            }
            for level in range(4)
        }
        | {"d4": {"const": 1}},
        "$ref": "#/$defs/d0",
    },
    "references to references": {
        "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(480)} | {"d480": {"const": 1}},
        "$ref": "#/$defs/d0",
    },
    "patterns of one text": {"allOf": [{"pattern": f"a{n}.*b"} for n in range(40)]},
    "circle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "allOf": [{"$ref": "#/$defs/a"}]},
    "all of itself": {"properties": {"a": {"oneOf": [{"$ref": "#"}, {"not": {"$ref": "#"}, "required": ["a"]}]}}},
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_schema_is_rewritten_or_refused_with_little_work(schema):
    """Whatever it combines, the work has a limit of its own, and no recursion goes deep."""
    refusal = None
    try:
        assert rewrite(schema).schema
    except SchemaRefused as error:
        refusal = error
    assert refusal is None or refusal.keyword or not refusal.pointer


@pytest.mark.parametrize("leaf", [{"type": "null"}, {"enum": [1, "a"]}, {"type": "object"}, {"not": {"const": 1}}])
@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_ways_that_double_at_each_level_are_refused_before_they_are_counted(keyword, leaf):
    """Two references to the next level, forty levels: no state takes more shapes than it may have."""
    levels = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    schema = {"$defs": {**levels, "d40": leaf}, "$ref": "#/$defs/d0"}
    with pytest.raises(SchemaRefused, match="is too complex"):
        rewrite(schema)
