"""What one client's schema costs tells nothing of another's: nothing that the library said of it is kept."""

import pytest

from engine.text.schema import meeting
from engine.text.schema.emission import rewrite
from engine.text.schema.refusal import SchemaRefused

SCHEMAS = {
    "pattern": {"type": "string", "pattern": "^[a-f]{1,20}x$"},
    "nested counts": {"type": "string", "pattern": "^(([a-f]{1,20}x){1,9}){1,9}$"},
    "names": {"type": "object", "patternProperties": {f"^{name}[a-z]{{1,50}}$": {} for name in "abc"}},
    "two patterns": {"allOf": [{"type": "string", "pattern": "^a+$"}, {"pattern": "^.{1,5}$"}]},
    "excluded text": {"type": "string", "pattern": "^a+$", "not": {"enum": ["aa"]}},
    "refused": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    "empty": {"type": "string", "pattern": "^a", "maxLength": 0},
}


@pytest.fixture
def asked(monkeypatch):
    """Return the list of the schemas that the library is asked about."""
    schemas = []
    for name in ("satisfiability", "tried"):
        monkeypatch.setattr(meeting, name, _noting(getattr(meeting, name), schemas))
    return schemas


def _noting(ask, schemas):
    def noted(schema):
        schemas.append(schema)
        return ask(schema)

    return noted


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_that_was_seen_before_is_as_much_work_as_a_new_one(schema, asked):
    """The same questions are put to the library each time, each of them once."""
    rounds = []
    for _ in range(3):
        try:
            rewrite(schema)
        except SchemaRefused:
            pass
        rounds.append([*asked])
        asked.clear()
    assert rounds[0]
    assert rounds[1:] == [rounds[0]] * 2
