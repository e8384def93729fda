"""The work on a schema is counted before it is done: what takes long has no room among the quick ones of a request."""

import pytest

from engine.text.schema.document import Document
from engine.text.schema.elsewhere import Job, outcome_of
from engine.text.schema.emission import rewrite
from engine.text.schema.expander import Work
from routes.chat.rewriting import QUICK_WORK

BASE = f"http://a/{'x/' * 480}"
LONG = {
    "addresses with a long base": {"$id": BASE, "$defs": {str(n): {"$id": "b"} for n in range(990)}},
    "long addresses": {"$id": "http://a/", "$defs": {str(n): {"$id": "b/" * 490} for n in range(60)}},
    "references with a long base": {
        "$id": BASE,
        "anyOf": [{"$ref": f"{BASE}b"} for _ in range(60)],
        "$defs": {"b": {"$id": "b"}},
    },
    "many parts": {"$defs": {str(n): {"type": "null"} for n in range(1900)}},
    "a long pattern": {"pattern": "a" * 60_000},
    "a long pattern that is none": {"pattern": "a" * 60_000 + "(?<=b)"},
    "many conditions": {"pattern": f"^{'(?=a)' * 12_000}b"},
    "conditions that are none": {"pattern": f"^{'(?!a*$)' * 8_000}b"},
    "classes of Unicode": {"pattern": r"\p{L}" * 2100},
    "negated classes": {"pattern": r"\W" * 300},
    "names of classes": {"patternProperties": {r"\p{L}" * 200: {}}},
    "long names": {"patternProperties": {"a" * 60_000: {}}},
    "excluded texts": {"type": "string", "not": {"enum": [f"{n}" * 150 for n in range(9)]}},
    "listed texts": {"enum": ["a" * 30_000], "pattern": "^a"},
}


@pytest.mark.parametrize("schema", LONG.values(), ids=LONG)
def test_what_takes_long_is_left_to_a_process(schema):
    """Nothing of it is free."""
    outcome = outcome_of(Job(schema, QUICK_WORK))
    assert (outcome.schema, outcome.work < 0) == (None, True)
    assert "is too complex" in outcome.message


ORDINARY = {
    "addresses": {"$id": "http://example.com/a", "$ref": "b", "$defs": {"b": {"$id": "b", "type": "integer"}}},
    "pattern": {"type": "string", "pattern": r"^(?=.*\d)[\p{Lu}\w-]{2,9}$"},
    "excluded": {"type": "string", "not": {"enum": ["none", "null", ""]}},
    "form": {"type": "object", "properties": {f"name{n}": {"type": "string", "maxLength": 9} for n in range(20)}},
}


@pytest.mark.parametrize("schema", ORDINARY.values(), ids=ORDINARY)
def test_what_programs_write_is_quick(schema):
    """It leaves room for others of the same request."""
    work = Work(QUICK_WORK)
    rewrite(schema, work)
    assert work.left > QUICK_WORK // 2


def test_finding_subschemas_is_counted_with_their_addresses():
    """As they are found, so that it ends once it is too much."""
    spent = []
    Document(LONG["addresses with a long base"], lambda amount, pointer: spent.append(amount))
    assert sum(spent) > 990 * len(BASE) // 100
    assert max(spent) < 50
