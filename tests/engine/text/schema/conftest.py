"""Grammars over a vocabulary of single bytes, and walks through them."""

import json

import jsonschema_rs
import pytest

from engine.text.grammar import Grammars, json_grammar
from engine.text.schema.emission import rewrite
from engine.text.schema.refusal import SchemaRefused
from engine.types import Vocabulary
from tests.fakes import PATIENCE
from tests.masks import bitmask_of
from tests.walks import Walker

TOKENS = (b"", *(bytes([code]) for code in range(1, 256)))


class Answers:
    """Makes answers of schemas."""

    def __init__(self) -> None:
        vocabulary = Vocabulary(TOKENS, frozenset({0}), lambda text: list(text.encode()))
        self.grammars = Grammars(vocabulary, seconds=PATIENCE)
        self._walker = Walker(vocabulary)

    def of(self, schema, count=12, most=400):
        """Return the values of the answers of some walks that end by themselves."""
        grammar = json_grammar(json.dumps(rewrite(schema).schema))
        walks = [self._walker.walk(self.grammars.mask(grammar), seed, most) for seed in range(count)]
        return [json.loads(text) for text, reason in walks if reason == "stop"]

    def ended_valid(self, schema, count, most):
        """Check that what ends by itself validates; return whether anything does, which no refused schema has."""
        try:
            values = self.of(schema, count, most)
        except SchemaRefused:
            return False
        check = jsonschema_rs.Draft202012Validator(schema).is_valid
        assert [value for value in values if not check(value)] == [], schema
        return bool(values)

    def allow(self, schema, text):
        """Return whether an answer may be this text."""
        mask = self.grammars.mask(json_grammar(json.dumps(rewrite(schema).schema)))
        for byte in [*text.encode(), 0]:
            if not int(bitmask_of(mask)[byte // 32]) >> byte % 32 & 1:
                return False
            mask.accept(byte)
        return True


@pytest.fixture(scope="package")
def answers():
    """Answers over the vocabulary of bytes."""
    made = Answers()
    yield made
    made.grammars.close()
