"""The table of keywords: which are read together into shapes, which apply other schemas, and which change nothing."""

from __future__ import annotations

NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
STRING_KEYWORDS = ("minLength", "maxLength", "pattern", "format")
ARRAY_KEYWORDS = ("prefixItems", "items", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains") + (
    "minContains",
    "maxContains",
)
OBJECT_KEYWORDS = ("properties", "patternProperties", "additionalProperties", "required", "propertyNames") + (
    "minProperties",
    "maxProperties",
)

# Read together, into the shapes of each type.
SIMPLE = frozenset(("type", *NUMBER_KEYWORDS, *STRING_KEYWORDS, *ARRAY_KEYWORDS, *OBJECT_KEYWORDS))

# They apply other schemas, or values, at the same place; each by a function in applying.py.
APPLYING = ("const", "enum", "allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef", "$recursiveRef") + (
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
)

# Applied after all others: they close what those leave open.
CLOSING = ("unevaluatedItems", "unevaluatedProperties")

ASSERTING = frozenset((*SIMPLE, *APPLYING, *CLOSING))

# Every other keyword is an annotation, or unknown, and changes nothing (JSON Schema 2020-12, core, section 6.5).

# Keywords whose value is a schema, a list of schemas, or a map of schemas by name.
ONE = ("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not") + (
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
MANY = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
