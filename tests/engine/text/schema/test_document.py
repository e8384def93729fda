"""References within a schema, by pointer, by anchor and by name, and those that lead out of it."""

import pytest

from engine.text.schema.document import Document
from engine.text.schema.refusal import SchemaRefused


def target(schema, keyword="$ref"):
    """Return the pointer of what the reference at the root of a schema refers to."""
    document = Document(schema)
    return document.resolve(document.root, keyword).pointer


@pytest.mark.parametrize(
    ("reference", "pointer"),
    [
        ("#", ""),
        ("#/$defs/a", "/$defs/a"),
        ("#/$defs/b%25/items/0", "/$defs/b%/items/0"),
        ("#/$defs/a~1~0", "/$defs/a~1~0"),
        ("#here", "/$defs/a"),
        ("other.json", "/$defs/c"),
        ("http://x/d/other.json", "/$defs/c"),
        ("other.json#/$defs/in", "/$defs/c/$defs/in"),
        ("other.json#inner", "/$defs/c/$defs/in"),
        ("urn:thing", "/$defs/d"),
    ],
)
def test_a_reference_leads_to_its_target(reference, pointer):
    """Base URIs are those of the nearest `$id`."""
    definitions = {
        "a": {"$anchor": "here"},
        "a/~": {},
        "b%": {"items": [{}]},
        "c": {"$id": "other.json", "$defs": {"in": {"$anchor": "inner"}}},
        "d": {"$id": "urn:thing"},
    }
    assert target({"$id": "http://x/d/base.json", "$ref": reference, "$defs": definitions}) == pointer


@pytest.mark.parametrize(
    "reference", ["#/$defs/none", "#none", "http://y/z.json", "#/items/7", "http://[", "#/$defs/a/type/0"]
)
def test_what_the_schema_does_not_contain_is_refused(reference):
    """Nothing is fetched."""
    with pytest.raises(SchemaRefused):
        target({"$ref": reference, "$defs": {"a": {"type": "string"}}, "items": [{}]})


def test_values_are_no_schemas():
    """An `$id` or an anchor within an enum, a default or an example names nothing."""
    values = [{"$id": "x.json", "$anchor": "here"}]
    for reference in ("x.json", "#here"):
        with pytest.raises(SchemaRefused):
            target({"$ref": reference, "enum": values, "default": values[0], "examples": values})


def test_a_dynamic_reference_with_one_target_is_a_reference():
    """With two it depends on the way that leads there, and is refused."""
    one = {"$dynamicRef": "#a", "$defs": {"x": {"$dynamicAnchor": "a"}}}
    assert target(one, "$dynamicRef") == "/$defs/x"
    with pytest.raises(SchemaRefused):
        target(one | {"items": {"$dynamicAnchor": "a"}}, "$dynamicRef")


def test_an_id_of_draft_4_is_one_in_draft_4_only():
    """Elsewhere it is the name of nothing."""
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x/a", "$ref": "#/definitions/b"}
    assert target(old | {"definitions": {"b": {}}}) == "/definitions/b"
    assert target({"properties": {"a": {"id": "y"}}, "$ref": "#/properties/a"}) == "/properties/a"
