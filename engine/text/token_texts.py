"""What each token of an answer adds to its text, for log probabilities: its bytes, and where in the text they begin.

A token may hold a part of a character, or of a marker that spells one (`<0x0A>` in two tokens); what it adds is known
once that is complete. The bytes of all tokens, joined and decoded, are the text.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from engine.text.detokenizer import MARKER, SPACE, Detokenizer, TokenTable

# Raw bytes behind a place of the text after which nothing that comes changes what is before it: a character of four
# bytes has markers of six each.
SETTLES = 24
MOST_WAITING = 64  # tokens, from which on it is looked which of them are known in any case


@dataclass(frozen=True, slots=True)
class TokenText:
    """What a token adds. offset: the index in the text of the character that has its first byte.

    A marker's character belongs to the token in which the marker begins; the others of it add nothing.
    """

    data: bytes
    offset: int


class TokenTexts:
    """The tokens of one answer in order, used by one thread."""

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._detokenizer = Detokenizer(table)
        self._waiting: list[bytes] = []  # of the tokens whose texts are not known yet
        self._begin = 0  # where the text of those begins
        self._end = 0  # of the text so far
        self._strips = table.strips  # the waiting ones are the first
        self._look_at = MOST_WAITING

    def add(self, token_id: int) -> list[TokenText]:
        """Add the next token; return what is known now of it and of those before it, once for each."""
        self._waiting.append(self._table.pieces[token_id])
        self._end += len(self._detokenizer.add(token_id))
        if not self._detokenizer.pending:
            return self._known(len(self._waiting), self._end)
        if len(self._waiting) < self._look_at:
            return []
        settled = self._settled()
        self._look_at = max(MOST_WAITING, 2 * len(self._waiting))
        return settled

    def flush(self) -> list[TokenText]:
        """Return the rest at the end of the answer."""
        self._end += len(self._detokenizer.flush())
        return self._known(len(self._waiting), self._end)

    def _settled(self) -> list[TokenText]:
        """Return those of the waiting tokens that nothing changes which comes: all but the last few, for most texts.

        An answer of parts of characters, none of which is ever complete, would wait whole until its end otherwise.
        """
        raw = b"".join(self._waiting)
        text = self._text(raw, self._strips)
        ends = list(accumulate(map(len, self._waiting)))
        number = bisect_right(ends, len(raw) - SETTLES)
        for count in range(number, max(0, number - SETTLES), -1):
            if not self._waiting[count - 1]:  # where an empty one is depends on what follows it
                continue
            before = self._text(raw[: ends[count - 1]], self._strips)
            if before + self._text(raw[ends[count - 1] :], strips=False) == text:
                return self._known(count, self._begin + len(before))
        return []

    def _text(self, raw: bytes, strips: bool) -> str:
        return _Cleaned(raw, self._table.cleans, strips).data.decode("utf-8", "replace")

    def _known(self, count: int, end: int) -> list[TokenText]:
        """Return the first `count` of the waiting tokens. end: where their text ends."""
        pieces, self._waiting = self._waiting[:count], self._waiting[count:]
        begin, self._begin = self._begin, end
        whole = _Cleaned(b"".join(pieces), self._table.cleans, self._strips)
        self._strips = False
        bounds = whole.indexes(accumulate(map(len, pieces), initial=0))
        offsets = whole.characters(bounds)
        return [
            TokenText(whole.data[low:high], begin + offset)
            for (low, high), offset in zip(pairwise(bounds), offsets, strict=False)  # the last bound begins no token
        ]


class _Cleaned:
    """The bytes of a few tokens as they are in the text. strips: without a space mark at their beginning."""

    def __init__(self, raw: bytes, cleans: bool, strips: bool) -> None:
        self._markers = list(MARKER.finditer(raw)) if cleans else []
        self._stripped = strips and raw.startswith(SPACE)
        parts, position = [], 0
        for marker in self._markers:
            parts += [raw[position : marker.start()], self._byte(marker)]
            position = marker.end()
        self.data = b"".join([*parts, raw[position:]])

    # Both take all positions at once, in order: a client can have many tokens wait here, which takes one pass.

    def indexes(self, positions: Iterable[int]) -> list[int]:
        """Return where in the cleaned bytes raw positions are, behind a marker for those inside it."""
        found, removed, behind = [], 0, 0
        markers = deque(self._markers)
        for position in positions:
            while markers and markers[0].start() < position:
                marker = markers.popleft()
                behind = marker.end()
                removed += behind - marker.start() - len(self._byte(marker))
            found.append(max(position, behind) - removed)
        return found

    def characters(self, indexes: Iterable[int]) -> list[int]:
        """Return for each byte how many characters begin before the one that has it."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        found, complete, read = [], 0, 0
        for index in indexes:
            complete += len(decoder.decode(self.data[read : index + 1]))
            read = max(read, min(index + 1, len(self.data)))
            within = bool(decoder.getstate()[0]) or index >= len(self.data)
            found.append(complete if within else complete - 1)
        return found

    def _byte(self, marker: re.Match[bytes]) -> bytes:
        if self._stripped and marker.start() == 0:
            return b""
        return bytes.fromhex(marker[1].decode()) if marker[1] else b" "
