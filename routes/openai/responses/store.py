"""What is kept of responses that were asked to be stored: in this process's memory, for an hour, within a bound.

A response is found by the client that made it alone. Its conversation is a chain of turns, each of which is kept once,
however many responses go on from it. When the bound is reached, whoever holds most loses their oldest response.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from engine.errors import Overloaded, Unsupported, ValidationError

KEPT_SECONDS = 3600.0
MAX_RESPONSES = 10_000
ENTRY_BYTES = 2048  # of a response's own objects, beside its texts

TURN_BYTES = 8  # of a response, for each turn that it refers to

STORE = "store"
NO_STORE = "Responses are not stored here; send the conversation with each request."
TOO_LONG = "The conversation is too large to be stored; send it without store."
FULL = "Too many responses are being stored at the moment; try again later."


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Items of one request, or those of its answer: a JSON list in UTF-8."""

    items: bytes


@dataclass(frozen=True, slots=True, eq=False)
class StoredResponse:
    """A response that can be named by later requests.

    body: as it was sent, JSON in UTF-8; turns: of its conversation, oldest first, its own output last; expires: on the
    store's clock, in seconds.
    """

    id: str
    owner: str
    body: bytes
    turns: tuple[Turn, ...]
    expires: float


class ResponseStore:
    """The stored responses of one process. Safe to use from any thread.

    max_bytes: of all of them together, 0 to store none; clock: seconds.
    """

    def __init__(
        self, max_bytes: int, max_responses: int = MAX_RESPONSES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes, self._max_responses, self._clock = max_bytes, max_responses, clock
        self._lock = threading.Lock()  # guards the fields below
        self._responses: dict[str, StoredResponse] = {}  # oldest first
        self._users: Counter[Turn] = Counter()  # how many responses and drafts have a turn
        self._bytes = 0
        # Bytes of each client, with shared turns counted for each response or draft that has them.
        self._of_owner: Counter[str] = Counter()
        self._drafted: Counter[str] = Counter()

    def size(self) -> tuple[int, int]:
        """Return how many responses are kept, and their bytes."""
        with self._lock:
            self._expire()
            return len(self._responses), self._bytes

    def draft(self, owner: str, previous: StoredResponse | None, asked: Iterable[bytes]) -> Draft:
        """Reserve room for a response to what is asked, the items of each new turn; both are held until it is closed.

        Raises Unsupported where nothing is stored, ValidationError for more than half of the bound, Overloaded where
        the drafts of this client would have more than that, or all drafts more than the bound.
        """
        if not self._max_bytes:
            raise Unsupported(NO_STORE, STORE)
        turns = (*(previous.turns if previous is not None else ()), *map(Turn, asked))
        size = _bytes_of(turns)
        if size > self._max_bytes // 2:
            raise ValidationError(TOO_LONG, STORE)
        with self._lock:
            if self._drafted[owner] + size > self._max_bytes // 2 or self._drafted.total() + size > self._max_bytes:
                raise Overloaded(FULL)
            self._drafted[owner] += size
            self._hold(turns)
            self._make_room()
        return Draft(self, owner, turns)

    def find(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response of this client, None if it has none of that id."""
        with self._lock:
            self._expire()
            found = self._responses.get(response_id)
        return found if found is not None and found.owner == owner else None

    def delete(self, owner: str, response_id: str) -> bool:
        """Delete a response of this client; False if it has none of that id."""
        with self._lock:
            self._expire()
            found = self._responses.get(response_id)
            if found is None or found.owner != owner:
                return False
            self._remove(found)
            return True

    def _keep(self, draft: Draft, response_id: str, body: bytes, output: bytes) -> None:
        turns = (*draft.turns, Turn(output))
        kept = StoredResponse(response_id, draft.owner, body, turns, self._clock() + KEPT_SECONDS)
        with self._lock:
            self._hold(turns)
            self._responses[response_id] = kept
            self._bytes += _own_bytes(kept)
            self._of_owner[kept.owner] += _bytes_for_owner(kept)
            self._make_room()

    def _drop(self, draft: Draft) -> None:
        with self._lock:
            self._drafted[draft.owner] -= _bytes_of(draft.turns)
            if not self._drafted[draft.owner]:
                del self._drafted[draft.owner]
            self._release(draft.turns)

    # Each of the following is called with the lock held.

    def _make_room(self) -> None:
        """Remove responses until the rest is within the bounds; drafts alone are."""
        self._expire()
        if not self._is_full():
            return
        oldest_first: dict[str, deque[StoredResponse]] = defaultdict(deque)
        for response in self._responses.values():
            oldest_first[response.owner].append(response)
        # One pass and a heap: a client may have thousands removed at once, while all others wait for the lock.
        most_first = [(-self._of_owner[owner], owner) for owner in oldest_first]
        heapify(most_first)
        while most_first and self._is_full():
            owner = heappop(most_first)[1]
            self._remove(oldest_first[owner].popleft())
            if oldest_first[owner]:
                heappush(most_first, (-self._of_owner[owner], owner))

    def _is_full(self) -> bool:
        return self._bytes > self._max_bytes or len(self._responses) > self._max_responses

    def _expire(self) -> None:
        now = self._clock()
        for response in list(self._expired(now)):
            self._remove(response)

    def _expired(self, now: float) -> Iterator[StoredResponse]:
        for response in self._responses.values():
            if response.expires > now:
                return
            yield response

    def _remove(self, response: StoredResponse) -> None:
        del self._responses[response.id]
        self._bytes -= _own_bytes(response)
        self._of_owner[response.owner] -= _bytes_for_owner(response)
        if not self._of_owner[response.owner]:
            del self._of_owner[response.owner]
        self._release(response.turns)

    def _hold(self, turns: tuple[Turn, ...]) -> None:
        for turn in turns:
            self._users[turn] += 1
            if self._users[turn] == 1:
                self._bytes += len(turn.items)

    def _release(self, turns: tuple[Turn, ...]) -> None:
        for turn in turns:
            self._users[turn] -= 1
            if not self._users[turn]:
                del self._users[turn]
                self._bytes -= len(turn.items)


class Draft:
    """The room for one response. `close` must be called in any case; it may be called twice."""

    def __init__(self, store: ResponseStore, owner: str, turns: tuple[Turn, ...]) -> None:
        self._store, self._open = store, True
        self.owner, self.turns = owner, turns

    def keep(self, response_id: str, body: bytes, output: bytes) -> None:
        """Store the response. body: as it is sent; output: its items. Both are JSON in UTF-8."""
        self._store._keep(self, response_id, body, output)

    def close(self) -> None:
        """Give the room back; a response that was stored keeps its own."""
        if self._open:
            self._open = False
            self._store._drop(self)


def _own_bytes(response: StoredResponse) -> int:
    return len(response.body) + ENTRY_BYTES + TURN_BYTES * len(response.turns)


def _bytes_for_owner(response: StoredResponse) -> int:
    return _own_bytes(response) + _bytes_of(response.turns)


def _bytes_of(turns: tuple[Turn, ...]) -> int:
    return sum(len(turn.items) for turn in turns)
