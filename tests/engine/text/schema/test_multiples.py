"""Values of `multipleOf`: those that the library reads and compiles soon are held to, all others refused unasked."""

import json

import psutil
import pytest

from engine.text.grammar import BYTES_PER_REMAINDER, Grammars, json_grammar, lark_grammar, size_of
from engine.text.grammar_limits import FUEL
from engine.text.schema.emission import rewrite
from engine.text.schema.expander import Work
from engine.text.schema.multiples import DIGITS, LARGE, remainders_in, trouble
from engine.text.schema.probe import Satisfiability, satisfiability
from engine.text.schema.refusal import SchemaRefused
from engine.types import Vocabulary
from tests.engine.text.schema.conftest import TOKENS
from tests.fakes import PATIENCE

LATE = {
    "const": "a text in front of the numbers"
}  # the library follows their remainders when it compiles, all the same


def numbers(*multiples, kind="integer"):
    """Return the schema of an object with a number for each of the multiples."""
    schemas = {f"n{index}": {"type": kind, "multipleOf": multiple} for index, multiple in enumerate(multiples)}
    return {"type": "object", "properties": {"s": LATE, **schemas}, "required": ["s"]}


@pytest.mark.parametrize(
    "multiple",
    [1, 7, 60, 997, 10**6, 10**9, 2.0, 0.5, 0.25, 0.01, 0.0125, 0.001, 1e-7, 1e-9, 0.123, 12.345, 3.14159, 12.5]
    + [0.12345, 5.5555, 0.123456789, 1e-10, 1e-15, 1e-300, 5e-324, 2**32, 2**40, 10**12, 10**20, 1e300],
)
def test_what_has_too_many_digits_is_what_the_library_does_not_read(multiple):
    """The same is found without the library, which takes time in proportion to the number, or more."""
    unread = satisfiability({"type": "number", "multipleOf": multiple}) is not Satisfiability.FINE
    assert (trouble(multiple) == DIGITS) == unread


@pytest.mark.parametrize("multiple", [10_001, 86_400, 604_800, 999_983, 655_360, 2**31, 2**32 - 1, 999.99, 10**9 - 1])
def test_a_multiple_whose_remainders_take_seconds_is_refused(multiple):
    """Without the library, which would follow each of them and cannot be stopped."""
    assert trouble(multiple) == LARGE


@pytest.mark.parametrize("multiple", [10_000, 9_973, 3_600, 99.99, 100_000, 0.0001, 10**9])
def test_what_has_few_remainders_is_held_to(multiple):
    """Up to four digits, wherever the point stands, and every power of ten."""
    assert trouble(multiple) is None


@pytest.mark.parametrize("multiple", [10**400, 2**1024])
def test_a_multiple_beyond_every_float_is_refused(multiple):
    """It is no error of ours."""
    assert trouble(multiple) == DIGITS


@pytest.mark.parametrize(
    ("kind", "multiples", "one"),
    [
        ("integer", [4, 6], 12),
        ("integer", [6, 3, 2], 6),
        ("integer", [0.5], None),
        ("integer", [0.75], 3),
        ("number", [0.5, 0.3], 1.5),
        ("number", [0.01, 0.25, 100], 100),
        ("number", [10, 2.5], 10),
        ("number", [1e-7, 2], 2),
    ],
)
def test_several_multiples_are_written_as_one(kind, multiples, one):
    """The number whose multiples are those of all; of whole numbers, a whole one."""
    written = rewrite({"type": kind, "allOf": [{"multipleOf": multiple} for multiple in multiples]}).schema
    assert (written.get("multipleOf"), "allOf" in written) == (one, False)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"multipleOf": 601}, {"multipleOf": 607}]},
        {"allOf": [{"multipleOf": 9.97}, {"multipleOf": 8.89}]},
        {"multipleOf": 601, "anyOf": [{"multipleOf": 607}, {"type": "null"}]},
        {"multipleOf": 601, "$ref": "#/properties/n/$defs/a", "$defs": {"a": {"multipleOf": 607}}},
        {"allOf": [{"multipleOf": 10_000}, {"multipleOf": 3}]},
        {"allOf": [{"multipleOf": 10**9}, {"multipleOf": 7}]},
    ],
)
def test_multiples_that_have_many_remainders_together_are_refused(schema):
    """Each alone has few."""
    with pytest.raises(SchemaRefused) as caught:
        rewrite({"type": "object", "properties": {"n": {"type": ["number", "null"]} | schema}})
    assert caught.value.keyword == "multipleOf"


def test_a_schema_has_so_many_remainders_only():
    """The memory of a compiled grammar grows with them; the same number at several places counts once."""
    with pytest.raises(SchemaRefused, match="is too complex: multipleOf"):
        rewrite(numbers(*range(9_900, 9_940)))
    assert len(rewrite(numbers(*[9_973] * 40)).schema["$defs"]) == 2


def test_the_schemas_of_a_request_share_their_remainders():
    """They become one grammar."""
    work = Work()
    rewrite(numbers(9_901, 9_907), work)
    rewrite(numbers(9_923, 9_929), work)
    with pytest.raises(SchemaRefused, match="is too complex: multipleOf"):
        rewrite(numbers(9_931, 9_941), work)


@pytest.mark.parametrize(
    ("schema", "count"),
    [
        (numbers(9_973, 7), 9_980),
        (numbers(0.12, 12.5, kind="number"), 12 + 125),
        (numbers(10**9), 10),
        ({"type": "string"}, 0),
        ({"const": '"multipleOf": 1e99999'}, 0),
    ],
)
def test_the_remainders_of_a_grammar_count_as_bytes(schema, count):
    """Whether it is of JSON alone or has JSON in its rules."""
    written = json.dumps(rewrite(schema).schema)
    for grammar in (json_grammar(written), lark_grammar(f"start: a\na: %json {written}")):
        assert remainders_in(grammar) == count
        assert size_of(grammar, FUEL[0]) - size_of(grammar, 0) == FUEL[0] * 110
        without = grammar.replace("multipleOf", "multipleon")
        assert size_of(grammar, 0) - size_of(without, 0) == count * BYTES_PER_REMAINDER


def test_compiled_grammars_take_no_more_memory_than_is_counted():
    """The library keeps what it knows of each remainder, and counts it nowhere."""
    grammars = Grammars(Vocabulary(TOKENS, frozenset({0}), lambda text: list(text.encode())), seconds=PATIENCE)
    grammars.mask(json_grammar(json.dumps(rewrite(numbers(3)).schema)))
    process, counted = psutil.Process(), grammars.cached_bytes
    before = process.memory_info().rss
    for first in range(9_900, 9_980, 16):
        written = json.dumps(rewrite(numbers(*range(first, first + 8, 2))).schema)
        grammars.mask(json_grammar(written))
    assert grammars.cached == 6
    assert process.memory_info().rss - before < grammars.cached_bytes - counted
    grammars.close()
