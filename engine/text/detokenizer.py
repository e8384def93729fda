"""Incremental detokenization: token ids to text in whole characters, without special tokens and stop strings.

There is one `TokenTable` per model and one `Detokenizer` per answer, which is used by one thread. The concatenated
pieces equal the tokenizer's own `decode(skip_special_tokens=True)` of the same ids.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from tokenizers import Tokenizer

# The spelling of one byte and of a space in SentencePiece; converted vocabularies leak them into decoded text.
SPACE = "\u2581".encode()
MARKER = re.compile(rb"<0x([0-9A-Fa-f]{2})>|" + SPACE)
_MARKER_START = re.compile(rb"(?:<(?:0(?:x[0-9A-Fa-f]{0,2})?)?|\xe2(?:\x96)?)\Z")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's characters for the 256 bytes: printable Latin-1 for itself, the others from U+0100 up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


class TokenTable:
    """The bytes of every token of one vocabulary.

    cleans: whether SentencePiece markers (`<0x0A>`, `▁`) are replaced by the characters they spell. By default they are
    if the vocabulary was converted from SentencePiece: it has a token `<0xNN>`, or one that starts with `▁` and a
    letter. A plain Qwen vocabulary has neither, and there the text `<0x0A>` stays as it is. strips: whether a space
    mark at the start of the text is dropped, as decoders of SentencePiece vocabularies do.
    """

    def __init__(self, pieces: Iterable[bytes], cleans: bool, strips: bool = False) -> None:
        self.pieces = list(pieces)
        self.cleans = cleans
        self.strips = cleans and strips
        self.texts = [self._whole_text(piece) for piece in self.pieces]

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, vocab_size: int = 0, hidden: Iterable[int] = (), cleans: bool | None = None
    ) -> TokenTable:
        """Return the table of a tokenizer; special tokens, `hidden` ids and ids without a token have no text.

        vocab_size: that of the model, which may be larger than the tokenizer's.
        """
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        invisible = {index for index, token in added.items() if token.special} | set(hidden)
        decoder = "" if tokenizer.decoder is None else tokenizer.decoder.__getstate__().decode()
        by_bytes = '"ByteLevel"' in decoder
        strips = '"Strip"' in decoder or '"Metaspace"' in decoder
        pieces = [b""] * max(vocab_size, max(vocabulary.values()) + 1)
        for token, index in vocabulary.items():
            if index not in invisible:
                pieces[index] = _bytes_of(token, by_bytes)
        return cls(pieces, _is_converted(vocabulary, pieces) if cleans is None else cleans, strips)

    @cached_property
    def literal(self) -> TokenTable:
        """The same tokens, each as the text it spells alone, whatever stands beside it.

        A grammar reads tokens one by one: in an answer that follows one, several tokens that together spell a marker
        stay the text that the grammar has seen.
        """
        return TokenTable([self._cleaned(piece) for piece in self.pieces], cleans=False) if self.cleans else self

    def data(self, token_id: int) -> bytes:
        """Return the bytes of a single token, as of an alternative in log probabilities."""
        return self._cleaned(self.pieces[token_id])

    def _whole_text(self, piece: bytes) -> str | None:
        """Return the text of a token if it does not depend on the tokens around it, else None."""
        if self.cleans and (b"<" in piece or b"\xe2" in piece):
            return None
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError:
            return None

    def _cleaned(self, data: bytes) -> bytes:
        return MARKER.sub(_character, data) if self.cleans else data


class Detokenizer:
    """The growing text of one answer. `stopped` becomes True at the first stop string, and `stop` that string; no text
    is returned after it.

    The usual token (whole characters, nothing held back, no stop strings) costs one list access.
    """

    __slots__ = (
        "_at_start",
        "_bytes",
        "_decoder",
        "_firsts",
        "_held",
        "_longest",
        "_pending",
        "_stops",
        "_table",
        "_texts",
        "stop",
        "stopped",
    )

    def __init__(self, table: TokenTable, stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        self.stop: str | None = None
        self._table = table
        self._texts = table.texts
        self.look_for(stop)
        self._decoder: codecs.IncrementalDecoder | None = None
        self._at_start = table.strips  # no text yet, so a space mark would be dropped
        self._pending = self._at_start  # the next token cannot be looked up: bytes are pending, or it is the first
        self._bytes = b""  # the possible start of a marker
        self._held = ""  # the possible start of a stop string

    @property
    def held(self) -> int:
        """How many characters are held back, for they may be the beginning of a stop string."""
        return len(self._held)

    def look_for(self, stop: tuple[str, ...]) -> None:
        """Stop at these strings in the text that comes from now on."""
        self._stops = stop
        self._firsts = frozenset(text[:1] for text in stop)
        self._longest = max(map(len, stop), default=0)

    @property
    def table(self) -> TokenTable:
        """The vocabulary's table."""
        return self._table

    @property
    def pending(self) -> bool:
        """True while bytes wait for the rest of their character or marker."""
        return self._pending

    def add(self, token_id: int) -> str:
        """Add the next token and return the text that can be shown now, which may be empty."""
        text = None if self._pending else self._texts[token_id]
        if text is None:
            text = self._decode(self._table.pieces[token_id])
        if self._stops and (text or self.stopped):
            return self._cut(text)
        return text

    def flush(self) -> str:
        """Return the held text at the end of the answer; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        text = self._decode(b"", final=True) if self._pending else ""
        if self._stops:
            text = self._cut(text)
        text, self._held = text + self._held, ""
        return text

    def _decode(self, piece: bytes, final: bool = False) -> str:
        """Decode what is complete and keep the rest: the start of a marker or of a character."""
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if self._table.cleans:
            piece = self._clean(piece, final)
        text = self._decoder.decode(piece, final)
        self._pending = bool(self._bytes) or bool(self._decoder.getstate()[0]) or self._at_start
        return text

    def _clean(self, piece: bytes, final: bool) -> bytes:
        """Return the bytes with markers replaced, without a tail that may be the start of another marker."""
        data, self._bytes = self._bytes + piece, b""
        if self._at_start and not (SPACE.startswith(data) and data != SPACE):
            data, self._at_start = data.removeprefix(SPACE), False
        start = None if final else _MARKER_START.search(data)
        if start is not None:
            data, self._bytes = data[: start.start()], data[start.start() :]
        return MARKER.sub(_character, data)

    def _cut(self, text: str) -> str:
        """Cut the text at the first stop string, and hold back the possible start of one."""
        if self.stopped:
            return ""
        searched, text, self._held = len(self._held), self._held + text, ""  # none ends within what was held
        found = [
            (at, len(stop), stop)
            for stop in self._stops
            if (at := text.find(stop, max(0, searched - len(stop) + 1))) >= 0
        ]
        if found:
            first, _, self.stop = min(found)
            self.stopped = True
            return text[:first]
        at = self._start_of_stop(text)
        text, self._held = text[:at], text[at:]
        return text

    def _start_of_stop(self, text: str) -> int:
        """Return where a stop string may begin that has not ended; the end of the text if nowhere."""
        for at in range(max(0, len(text) + 1 - self._longest), len(text)):
            if text[at] in self._firsts and any(stop.startswith(text[at:]) for stop in self._stops):
                return at
        return len(text)


def _bytes_of(token: str, by_bytes: bool) -> bytes:
    """Return the bytes of a token; with a character outside the byte alphabet it is text, as in `tokenizers`."""
    if by_bytes and all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _is_converted(vocabulary: Mapping[str, int], pieces: list[bytes]) -> bool:
    if any(_BYTE_TOKEN.fullmatch(token) for token in vocabulary):
        return True
    texts = (piece[len(SPACE) :].decode("utf-8", "replace") for piece in pieces if piece.startswith(SPACE))
    return any(text[:1].isalpha() for text in texts)


def _character(marker: re.Match[bytes]) -> bytes:
    return bytes.fromhex(marker[1].decode()) if marker[1] else b" "
