"""Why a schema is refused: the keyword, where it stands, and what is wrong with it there."""

from __future__ import annotations

from engine.errors import ValidationError
from engine.text.schema.keywords import APPLYING, CLOSING, MANY, NAMED, ONE, SIMPLE

MAX_POINTER = 300  # characters of a place in a message
MAX_TOKEN = 100  # of a name in one: each place in a schema has its pointer

UNSUPPORTED = "uses what cannot be enforced"
INVALID = "is not a valid schema"
EMPTY = "allows no answer"
COMPLEX = "is too complex"


class SchemaRefused(ValidationError):
    """A schema that cannot be followed. The message is a predicate, whose subject the caller adds.

    keyword: that is to blame, "" for a whole schema; pointer: where it stands, as a JSON pointer (RFC 6901).
    """

    def __init__(self, what: str, pointer: str, why: str = "") -> None:
        self.keyword = keyword_of(pointer)
        self.pointer = pointer if len(pointer) <= MAX_POINTER else f"{pointer[:MAX_POINTER]}..."
        place = f'{self.keyword} at "{self.pointer}"' if pointer else 'the schema at ""'
        super().__init__(f"{what}: {place}{f' ({why})' if why else ''}")


def keyword_of(pointer: str) -> str:
    """Return the last keyword of a pointer; what follows it is a name or an index. "" for a whole document."""
    tokens, keyword, at = pointer.split("/")[1:], "", 0
    while at < len(tokens):
        if tokens[at] in _KEYWORDS:  # anything else is the name of a place that only references know
            keyword = tokens[at]
            at += keyword in NAMED
            if keyword not in (*ONE, *MANY, *NAMED):
                break
        at += 1
    return keyword


_KEYWORDS = frozenset((*ONE, *MANY, *NAMED, *SIMPLE, *APPLYING, *CLOSING, "then", "else"))


def below(pointer: str, *tokens: str | int) -> str:
    """Return the pointer of what stands inside `pointer`."""
    return pointer + "".join(f"/{_shortened(str(token)).replace('~', '~0').replace('/', '~1')}" for token in tokens)


def _shortened(token: str) -> str:
    return token if len(token) <= MAX_TOKEN else f"{token[:MAX_TOKEN]}..."
