"""The form that an answer must have: JSON of a schema, a text of a pattern, one of several texts, or a grammar."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.text.grammar import lark_grammar
from routes.chat.schemas import json_rule, schema_grammar

ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The form of an answer, one of four. field: where it stands in the request, as refusals name it.

    schema: a JSON schema; regex: a regular expression of the whole answer; choice: the texts that are allowed; lark: a
    grammar in llguidance's dialect of Lark.
    """

    field: str
    schema: dict[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    lark: str | None = None

    def grammar(self) -> str:
        """Return the grammar as `Grammars.mask` takes it. Raises ValidationError that names the field."""
        if self.schema is not None:
            return schema_grammar(self.schema, self.field)
        if self.lark is not None:
            return lark_grammar(self.lark)
        return lark_grammar(f"start: {self.lark_rule()}")

    def lark_rule(self) -> str:
        """Return the Lark expression that matches the answer. Raises ValidationError that names the field."""
        if self.schema is not None:
            return json_rule(self.schema, self.field)
        if self.lark is not None:
            return f"%lark {{\n{self.lark}\n}}"
        if self.regex is not None:
            return f"/{self.regex.replace('/', chr(92) + '/')}/"
        return " | ".join(json.dumps(text, ensure_ascii=False) for text in self.choice)
