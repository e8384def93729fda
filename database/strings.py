"""Texts as a column can hold them: what a client or an operator typed is cut to its length and has nothing refused."""

from __future__ import annotations

from sqlalchemy import Column


def storable(text: str) -> str:
    """Return a text that every database takes: without NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def fitted(text: str, column: Column[str]) -> str:
    """Return a text that every database takes in this column: storable, and of its length.

    What is cut ends in an ellipsis.
    """
    clean = storable(text)
    length: int | None = getattr(column.type, "length", None)
    return clean if length is None or len(clean) <= length else f"{clean[: length - 1]}…"
