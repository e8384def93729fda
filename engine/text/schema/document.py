"""The subschemas of one document: where each stands, and what a reference refers to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin

from engine.text.schema.keywords import CLOSING, MANY, NAMED, ONE
from engine.text.schema.refusal import INVALID, UNSUPPORTED, SchemaRefused, below

LONGEST_URI = 1000  # characters
# For each unit of work: characters of a URI and its base that are joined, and subschemas that are found.
URI_A_WORK, SUBSCHEMAS_A_WORK = 50, 3
INDEX = re.compile(r"[0-9]{1,9}")  # of a list, in a JSON pointer
# In these drafts nothing beside `$ref` counts.
REFERENCE_ALONE = ("draft-03", "draft-04", "draft-06", "draft-07")


@dataclass(frozen=True, slots=True)
class Subschema:
    """A subschema, its JSON pointer in the document, and the base URI of what it refers to."""

    raw: Any
    pointer: str
    base: str


def _uncounted(amount: int, pointer: str) -> None:
    pass


class Document:
    """One schema and all that it contains. Raises SchemaRefused for references to what it does not contain.

    spend: what counts work, and where it is done. closes: whether any subschema has an `unevaluated` keyword.
    """

    def __init__(self, schema: Any, spend: Callable[[int, str], None] = _uncounted) -> None:
        self._spend, self.closes = spend, False
        self.root = Subschema(schema, "", "")
        self._subschemas: dict[int, Subschema] = {}  # by the identity of the raw schema
        self._by_uri: dict[str, Subschema] = {}
        self._dynamic: dict[str, int] = {}
        named = schema.get("$schema") if isinstance(schema, dict) else None
        draft = named if isinstance(named, str) else ""
        self.reference_alone = any(old in draft for old in REFERENCE_ALONE)
        self._id = "id" if any(old in draft for old in REFERENCE_ALONE[:2]) else "$id"
        self._walk(self.root)
        self.root = self._subschemas.get(id(schema), self.root)
        self._by_uri.setdefault("", self.root)

    def inside(self, subschema: Subschema, *tokens: str | int) -> Subschema:
        """Return the subschema that stands inside another one."""
        raw = subschema.raw
        for token in tokens:
            raw = raw[token]
        found = self._subschemas.get(id(raw))
        return found if found is not None else Subschema(raw, below(subschema.pointer, *tokens), subschema.base)

    def resolve(self, subschema: Subschema, keyword: str) -> Subschema:
        """Return what a reference refers to. keyword: `$ref`, or a dynamic one where only one target is possible."""
        pointer, value = below(subschema.pointer, keyword), subschema.raw[keyword]
        if not isinstance(value, str):
            raise SchemaRefused(INVALID, pointer, "not a string")
        uri, fragment = self._joined(subschema.base, value, pointer)
        if keyword == "$recursiveRef" and len(self._by_uri) > 1:
            raise SchemaRefused(UNSUPPORTED, pointer)
        if keyword == "$dynamicRef" and self._dynamic.get(fragment, 0) > 1:
            raise SchemaRefused(UNSUPPORTED, pointer)
        found = self._by_uri.get(f"{uri}#{fragment}") if fragment else self._by_uri.get(uri)
        if found is None and (not fragment or fragment.startswith("/")):
            found = self._by_pointer(self._by_uri.get(uri), unquote(fragment))
        if found is None:
            raise SchemaRefused(UNSUPPORTED, pointer, "it refers to what the schema does not contain")
        return found

    def _by_pointer(self, subschema: Subschema | None, pointer: str) -> Subschema | None:
        if subschema is None:
            return None
        for token in pointer.split("/")[1:]:
            key: str | int = token.replace("~1", "/").replace("~0", "~")
            if isinstance(subschema.raw, list):
                if not INDEX.fullmatch(str(key)) or int(key) >= len(subschema.raw):
                    return None
                key = int(key)
            elif not isinstance(subschema.raw, dict) or key not in subschema.raw:
                return None
            subschema = self.inside(subschema, key)
        return subschema

    def _walk(self, root: Subschema) -> None:
        waiting, walked = [root], 0
        while waiting:
            subschema, walked = waiting.pop(), walked + 1
            if walked % SUBSCHEMAS_A_WORK == 0:
                self._spend(1, subschema.pointer)
            if isinstance(subschema.raw, dict):
                subschema = self._enter(subschema)
                waiting += [
                    Subschema(raw, below(subschema.pointer, *tokens), subschema.base)
                    for raw, tokens in _inside(subschema.raw)
                ]

    def _enter(self, subschema: Subschema) -> Subschema:
        """Register a subschema by its names; return it with its own base URI."""
        raw = subschema.raw
        own = raw.get(self._id)
        if isinstance(own, str) and not (self.reference_alone and "$ref" in raw):
            base, fragment = self._joined(subschema.base, own, below(subschema.pointer, self._id))
            subschema = Subschema(raw, subschema.pointer, base)
            self._by_uri.setdefault(f"{base}#{fragment}" if fragment else base, subschema)
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(raw.get(keyword), str):
                self._by_uri.setdefault(f"{subschema.base}#{raw[keyword]}", subschema)
        if isinstance(raw.get("$dynamicAnchor"), str):
            self._dynamic[raw["$dynamicAnchor"]] = self._dynamic.get(raw["$dynamicAnchor"], 0) + 1
        self._subschemas[id(raw)] = subschema
        self.closes = self.closes or not raw.keys().isdisjoint(CLOSING)
        return subschema

    def _joined(self, base: str, reference: str, pointer: str) -> tuple[str, str]:
        """Return the URI and the fragment of a reference; bases that are names (`urn:`) have no paths to join.

        A URI is ASCII (RFC 3986), and short here: a path is joined part by part, and other letters take time that grows
        with their square. A fragment may be anything.
        """
        self._spend((len(base) + len(reference)) // URI_A_WORK, pointer)
        uri, _, fragment = reference.partition("#")
        if not uri:
            return base, fragment
        if len(uri) > LONGEST_URI or not uri.isascii():
            raise SchemaRefused(INVALID, pointer, f"not a URI reference of at most {LONGEST_URI} ASCII characters")
        try:
            joined = urljoin(base, uri)
        except ValueError:
            raise SchemaRefused(INVALID, pointer, "not a URI reference") from None
        if len(joined) > LONGEST_URI:
            raise SchemaRefused(INVALID, pointer, f"a URI of more than {LONGEST_URI} characters with its base")
        return joined, fragment


def _inside(raw: dict[str, Any]) -> Iterator[tuple[Any, tuple[str | int, ...]]]:
    for keyword in ONE:
        if isinstance(raw.get(keyword), dict):
            yield raw[keyword], (keyword,)
    for keyword in MANY:
        if isinstance(raw.get(keyword), list):
            yield from ((inner, (keyword, index)) for index, inner in enumerate(raw[keyword]))
    for keyword in NAMED:
        if isinstance(raw.get(keyword), dict):
            yield from ((inner, (keyword, name)) for name, inner in raw[keyword].items())
