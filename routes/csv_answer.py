"""Tables as CSV (RFC 4180), which a spreadsheet reads as they are and runs nothing of."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from io import StringIO

from flask import Request, Response

from routes.json_writing import in_parts

CSV = "text/csv"
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def wants_csv(request: Request, given: str | None) -> bool:
    """Return whether a table is asked for as CSV: by `format`, else by `Accept`."""
    if given is not None:
        return given == "csv"
    return request.accept_mimetypes.best_match(["application/json", CSV]) == CSV


def csv_rows(rows: Iterable[Sequence[str | int]]) -> bytes:
    """Return rows as text in UTF-8. Numbers stand as they are; a text that a program would run is quoted."""
    text = StringIO()
    csv.writer(text).writerows([cell if isinstance(cell, int) else _harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def csv_answer(name: str, columns: Sequence[str], rows: Iterable[bytes]) -> Response:
    """Return a table as a file of this name. rows: as `csv_rows` writes them, in parts."""
    response = in_parts([csv_rows([columns]), *rows], f"{CSV}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula, whatever stands before one."""
    clean = text.replace("\0", "\ufffd")
    return f"'{clean}" if unicodedata.normalize("NFKC", clean).lstrip(" '\"").startswith(FORMULAS) else clean
