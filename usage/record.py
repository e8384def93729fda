"""One finished request, as it is charged to an account, and its line in a journal."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, fields
from operator import attrgetter


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What one request used. A request of several answers to a prompt counts the prompt once.

    at: when it ended, in seconds since the epoch; account, name: of the `Account`; model: the served id; protocol: a
    value of `telemetry.protocol.Protocol`; milliseconds: for which its answers were computed, added up, without their
    time in the queue; cost: in millionths of the currency; user: whom the request named, "" for nobody; failure: the
    code of the error that it ended with, "" where it was answered.
    """

    request_id: str
    at: float
    account: str
    model: str
    protocol: str
    name: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    images: int = 0
    milliseconds: int = 0
    cost: int = 0
    user: str = ""
    failure: str = ""

    def line(self) -> bytes:
        """Return its line in a journal: a checksum and JSON."""
        text = json.dumps(_values(self), separators=(",", ":")).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)


_values = attrgetter(*(field.name for field in fields(UsageRecord)))


def read_line(line: bytes) -> UsageRecord | None:
    """Return the record of a line without its end, None for a damaged one.

    Values behind those that are known are passed over: a newer release wrote them, and was rolled back.
    """
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        return UsageRecord(*json.loads(text)[: len(fields(UsageRecord))])
    except (ValueError, TypeError):
        return None
