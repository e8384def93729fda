"""The form that an answer must have: JSON of a schema, a text of a pattern, one of several texts, or a grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from engine.errors import ValidationError
from engine.text.grammar import lark_grammar
from engine.text.grammar_limits import OF_CLIENT
from engine.text.schema.patterns import literally
from engine.types import AnswerRules
from routes.chat.output import MAY_REASON, REASONING
from routes.chat.schemas import Rewriter, blamed, json_rule, schema_grammar

MAX_OPERATORS = 12  # & and ~ of a grammar: the time to compile can double with each, and nothing ends it
MAX_RULES = 1000  # of a grammar, each with a colon: one that leads to the next takes stack for each
MAX_CHARACTERS = 64 * 1024  # of a pattern, a grammar, or all texts of a choice


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The form of an answer, one of four. field: where it stands in the request, as refusals name it.

    schema: a JSON schema; regex: a regular expression of the whole answer; choice: the texts that are allowed; lark: a
    grammar in llguidance's dialect of Lark; strict: what the request says of whether the schema is enforced, as it
    always is here.
    """

    field: str
    schema: dict[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    lark: str | None = None
    strict: bool | None = None

    @property
    def whole(self) -> bool:
        """Whether a part of the answer is worth nothing: JSON, or one of several texts."""
        return self.schema is not None or bool(self.choice)

    def rules(self) -> AnswerRules:
        """Return the form as it is told to a server that decodes by itself."""
        return AnswerRules(self.field, self.schema, self.regex, self.choice, self.lark, strict_schema=self.strict)

    def grammar(self, rewriter: Rewriter, thinking: bool = False) -> str:
        """Return the grammar as `Grammars.mask` takes it. thinking: the answer may begin with reasoning.

        Raises ValidationError that names the field, and as `rewriter` does.
        """
        if thinking:
            return lark_grammar(f"start: {MAY_REASON} answer\nanswer: {self.lark_rule(rewriter)}\n{REASONING}")
        if self.schema is not None:
            return schema_grammar(self.schema, self.field, rewriter)
        if self.lark is not None:
            return lark_grammar(self._checked_lark(self.lark))
        return lark_grammar(f"start: {self.lark_rule(rewriter)}")

    def lark_rule(self, rewriter: Rewriter) -> str:
        """Return the Lark expression that matches the answer. Raises as `grammar` does."""
        if self.schema is not None:
            return json_rule(self.schema, self.field, None, rewriter)
        if self.lark is not None:
            return f"%lark {{\n{self._checked_lark(self.lark)}\n}}"
        self._check_length(self.regex or "", *self.choice)
        return _choice(self.choice) if self.regex is None else f"/{_slashed(_without_anchors(self.regex))}/"

    def refused(self, place: str | None, rewriter: Rewriter) -> ValidationError | None:
        """Return the refusal of a form whose grammar does not compile; None if nothing more is known of it.

        place: of the mistake in the grammar, if there is one. Raises as `rewriter` does.
        """
        if self.schema is not None:
            return blamed({self.field: self.schema}, rewriter)
        if self.choice or place is None:
            return None
        if self.regex is not None:
            why = "is not a regular expression that can be enforced: it has no look-around and no back-references"
            return ValidationError(f"{self.field} {why}.", self.field)
        return ValidationError(f"{self.field} is not a grammar in Lark that can be enforced: see {place}.", self.field)

    def _checked_lark(self, lark: str) -> str:
        self._check_length(lark)
        if "::=" in lark:
            raise ValidationError(f"{self.field} must be a grammar in Lark; GBNF and EBNF are not read.", self.field)
        if "%json" in lark:  # it would not be rewritten, as other schemas are
            raise ValidationError(f"{self.field} cannot have %json; ask for a schema by its own field.", self.field)
        if lark.count(":") > MAX_RULES:
            raise ValidationError(f"{self.field} may have at most {MAX_RULES} rules.", self.field)
        if lark.count("&") + lark.count("~") > MAX_OPERATORS:
            raise ValidationError(f"{self.field} may have at most {MAX_OPERATORS} of & and ~.", self.field)
        return f"{lark}\n{OF_CLIENT}"

    def _check_length(self, *texts: str) -> None:
        if sum(map(len, texts)) > MAX_CHARACTERS:
            raise ValidationError(f"{self.field} is too long. Maximum: {MAX_CHARACTERS // 1024} KiB", self.field)


def _slashed(regex: str) -> str:
    """Return a pattern as it stands between slashes."""
    return re.sub(r"\\.|[/\n]", lambda found: {"/": r"\/", "\n": r"\n"}.get(found[0], found[0]), regex, flags=re.DOTALL)


def _without_anchors(regex: str) -> str:
    """Return a pattern of a whole text without the anchors at its ends, which say the same."""
    end = regex.endswith("$") and (len(regex) - len(regex[:-1].rstrip("\\"))) % 2 == 1
    return regex[regex.startswith("^") : len(regex) - end]


def _choice(texts: tuple[str, ...]) -> str:
    """Return the Lark expression of one of several texts."""
    some = "|".join(literally(text) for text in texts if text)
    parts = [f"/(?:{some})/"] if some else []
    return " | ".join(parts + (['""'] if "" in texts else []))
