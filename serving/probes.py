"""Probes, of balancers and orchestrators: which requests they are, and in which order they have their own threads.

They wait for no other request, and clients take turns with them: those of one do not hold up those of another.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from edge.route_table import ROUTES, Need
from serving.connection import Connection

PATHS = frozenset(name.removeprefix("GET ").encode() for name, row in ROUTES.items() if row.need is Need.PROBE)
# The path of a target in origin form or in absolute form (RFC 9112, 3.2), with a query or none behind it.
_LINE = re.compile(rb"(?:GET|HEAD) (?:(?i:https?)://[^/?#\s]+)?(/[^?#\s]*)[?\x20]")


def is_probe(head: bytes) -> bool:
    """Return whether a request asks for the route of a probe; one slash at the end of its path changes nothing."""
    match = _LINE.match(head)
    return match is not None and (match[1] in PATHS or match[1].removesuffix(b"/") in PATHS)


class Probing:
    """The probes that wait for one of the threads. Used by the polling thread alone.

    at_once: how many are handed over at the same time; hand_over: gives a thread a connection to serve.
    """

    def __init__(self, at_once: int, hand_over: Callable[[Connection], None]) -> None:
        self._free, self._hand_over = at_once, hand_over
        self._waiting: dict[str, deque[Connection]] = {}  # by client, whose turn comes in this order

    def put(self, conn: Connection) -> None:
        """Hand a probe over, now or in its client's turn."""
        if self._free:
            self._free -= 1
            self._hand_over(conn)
        else:
            self._waiting.setdefault(conn.asked_by, deque()).append(conn)

    def ended(self) -> None:
        """Hand on another probe in the place of one that was served."""
        client = next(iter(self._waiting), None)
        if client is None:
            self._free += 1
            return
        waiting = self._waiting.pop(client)
        conn = waiting.popleft()
        if waiting:
            self._waiting[client] = waiting  # behind the others
        self._hand_over(conn)
