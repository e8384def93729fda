"""Texts as a column can hold them: what a client or an operator typed is cut to its length and has nothing refused."""

from __future__ import annotations

from sqlalchemy import Column


def fitted(text: str, column: Column[str]) -> str:
    """Return a text that every database takes in this column: of its length, without NUL and lone surrogates.

    What is cut ends in an ellipsis.
    """
    clean = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    length: int | None = getattr(column.type, "length", None)
    return clean if length is None or len(clean) <= length else f"{clean[: length - 1]}…"
