"""The head of a POST request as plain fields, read without the framework; only heads that leave no doubt are read.

And the rule by which any request keeps its connection open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# One field a line, no folded one, none without its colon; the target is a path, with a plain query or none.
_HEAD = re.compile(
    rb"POST ((/[A-Za-z0-9/_\-.]*)(?:\?[A-Za-z0-9=&_\-.]*)?) HTTP/1\.1\r\n((?:"
    + _TOKEN
    + rb":[\t\x20-\x7e\x80-\xff]*\r\n){0,100})\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,18}")
_MAX_HEAD_BYTES = 8000  # below every limit of the server's parser
_ONCE = frozenset(
    {"host", "content-type", "content-length", "content-encoding", "transfer-encoding", "expect", "connection"}
)


@dataclass(frozen=True)
class RequestHead:
    """The target of a request, its path without the query and a slash at its end, and the fields.

    fields: the values of each in order, without spaces, by its name in lower case.
    """

    target: str
    path: str
    fields: dict[str, list[str]]

    def get(self, name: str, default: str = "") -> str:
        """Return the value of a field; of one that comes more than once, all of them joined, as the server does."""
        return ",".join(self.fields[name]) if name in self.fields else default

    def has(self, name: str) -> bool:
        """Return whether the request has this field."""
        return name in self.fields

    @property
    def unambiguous(self) -> bool:
        """Whether each field has a variable of its own in the environment, and the body has a length."""
        return "content-length" in self.fields and not any("_" in name for name in self.fields)

    @property
    def mimetype(self) -> str:
        """The type of the body without its parameters, in lower case."""
        return self.get("content-type").partition(";")[0].strip().lower()

    @property
    def keeps_alive(self) -> bool:
        """Whether the client may send its next request on the same connection."""
        return keeps_alive(self.get("connection"), http_1_1=True)


def keeps_alive(connection: str, *, http_1_1: bool) -> bool:
    """Return whether a request leaves its connection open for another one (RFC 9112, 9.3 and 9.6).

    connection: the options of its fields of that name, joined by commas.
    """
    options = {option.strip(" \t").lower() for option in connection.split(",")}
    return "close" not in options and (http_1_1 or "keep-alive" in options)


def read_head(head: bytes) -> RequestHead | None:
    """Return the head of a POST request, None where the server's parser might see another request in it, or none."""
    if len(head) > _MAX_HEAD_BYTES or (match := _HEAD.fullmatch(head)) is None:
        return None
    target, path, block = match.groups()
    fields: dict[str, list[str]] = {}
    for line in block.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name = name.lower()
        if name in fields and name in _ONCE:
            return None
        fields.setdefault(name, []).append(value.strip(" \t"))
    if not _framed(fields):
        return None
    return RequestHead(target.decode(), path.decode().removesuffix("/") or "/", fields)  # as routes take it


def _framed(fields: dict[str, list[str]]) -> bool:
    """Return whether the length of the body is stated in one plain way."""
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if "host" not in fields or (length and coding) or fields.get("expect", ["100-continue"]) != ["100-continue"]:
        return False
    return coding == ["chunked"] if coding else length is None or _LENGTH.fullmatch(length[0]) is not None
