"""Tables as CSV (RFC 4180), which a spreadsheet reads as they are and runs nothing of."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from io import StringIO

from flask import Request, Response

CSV = "text/csv"
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def wants_csv(request: Request, given: str | None) -> bool:
    """Return whether a table is asked for as CSV: by `format`, else by `Accept`."""
    if given is not None:
        return given == "csv"
    return request.accept_mimetypes.best_match(["application/json", CSV]) == CSV


def csv_answer(name: str, columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> Response:
    """Return a table as a file of this name. Numbers stand as they are; a text that a program would run is quoted."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([cell if isinstance(cell, int) else _harmless(cell) for cell in row] for row in rows)
    response = Response(text.getvalue(), content_type=f"{CSV}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula, whatever stands before one."""
    clean = text.replace("\0", "\ufffd")
    return f"'{clean}" if unicodedata.normalize("NFKC", clean).lstrip(" '\"").startswith(FORMULAS) else clean
