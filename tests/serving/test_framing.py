"""Where one HTTP/1.1 request ends in the bytes of a connection, however they are cut on the way."""

import errno
import os
import random
from contextlib import closing
from tempfile import SpooledTemporaryFile

import pytest

from serving.framing import BYTES_OF_A_CHUNK, MANY_CHUNKS, MAX_CHUNK_LINE_BYTES, MAX_HEAD_BYTES, Framing, Stage

NEXT = b"GET /next HTTP/1.1\r\n\r\n"
WHOLE = {
    "no body": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "an empty body": b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "a length": b"POST / HTTP/1.1\r\ncontent-LENGTH:  5 \r\n\r\nhello",
    "a body that looks like a head": b"POST / HTTP/1.1\r\nContent-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n",
    "chunks": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
    "trailers": b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n",
    "a chunk of line ends": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
}
BROKEN = {
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length that is no number": b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\nhello",
    "a length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is no number": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
    "a negative chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    "an empty chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n",
    "a chunk line without its return": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n",
    "a huge chunk line": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    + b"x" * MAX_CHUNK_LINE_BYTES
    + b"\r\n",
    "trailers without end": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: bbbb\r\n" * 2000,
    "a head of many lines": b"GET / HTTP/1.1\r\n" + b"A:\r\n" * 501 + b"\r\n",
    "a head without end": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEAD_BYTES // 6 + 1),
}


@pytest.fixture
def new():
    """Make framings, the first 16 bytes of each in memory; they are closed in the end."""
    made = []

    def make():
        made.append(Framing(spool_bytes=16))
        return made[-1]

    yield make
    for framing in made:
        framing.close()


def feed(framing, data, seed):
    """Feed the bytes in random pieces until the request is whole or broken; return what is left."""
    rng, position = random.Random(seed), 0
    while position < len(data):
        size = rng.choice((1, 2, 3, 7, 50, len(data)))
        rest = framing.feed(data[position : position + size])
        position += size
        if framing.stage in (Stage.WHOLE, Stage.BROKEN):
            return rest + data[position:]
    return b""


def content(framing):
    """All that was taken, read in pieces."""
    framing.rewind()
    return b"".join(iter(lambda: framing.read(7), b""))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", WHOLE)
def test_a_request_ends_where_its_framing_says(new, name, seed):
    """However it is cut: all of it is kept, byte for byte, and what follows is the next request's."""
    framing = new()
    rest = feed(framing, WHOLE[name] + NEXT, seed)
    assert framing.stage is Stage.WHOLE
    assert content(framing) == WHOLE[name]
    assert rest == NEXT


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_framed_is_handed_to_the_parser(new, name, seed):
    """It is not read for ever, and what arrived is there for the parser to refuse."""
    framing = new()
    feed(framing, BROKEN[name], seed)
    assert framing.stage is Stage.BROKEN
    assert BROKEN[name].startswith(content(framing)[:40])


@pytest.mark.parametrize("name", WHOLE)
def test_a_request_that_is_cut_short_is_not_whole(new, name):
    """Every prefix of a request waits for the rest."""
    for end in range(len(WHOLE[name])):
        framing = new()
        framing.feed(WHOLE[name][:end])
        assert framing.stage in (Stage.HEAD, Stage.BODY), end


def test_a_body_in_too_many_small_chunks_is_broken(new):
    """Each costs the poller time: some may be of a byte, a body of many has some bytes in each."""
    head, few = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * MANY_CHUNKS
    framing = new()
    framing.feed(head + few)
    assert framing.stage is Stage.BODY
    framing.feed(b"1\r\nx\r\n" * MANY_CHUNKS)
    assert framing.stage is Stage.BROKEN
    framing, chunk = new(), b"%X\r\n%s\r\n" % (BYTES_OF_A_CHUNK, b"x" * BYTES_OF_A_CHUNK)
    framing.feed(head + few + chunk * (2 * MANY_CHUNKS) + b"0\r\n\r\n")
    assert framing.stage is Stage.WHOLE


def test_chunks_of_a_hundred_bytes_are_small(new):
    """A body of 64 MiB would have 700,000 of them."""
    framing = new()
    framing.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"64\r\n%s\r\n" % (b"x" * 100)) * 20_000)
    assert framing.stage is Stage.BROKEN


def test_the_head_says_what_there_will_be(new):
    """The length, and that the client waits before it sends the body."""
    framing = new()
    framing.feed(b"POST / HTTP/1.1\r\nContent-Length: 70000\r\nExpect: 100-Continue\r\n\r\nab")
    assert (framing.stage, framing.content_length, framing.body_received) == (Stage.BODY, 70000, 2)
    assert framing.expects_continue
    assert framing.head == b"POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n"


@pytest.mark.parametrize(
    "fields", [b"", b"Connection: keep-alive\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"]
)
def test_an_older_client_expects_no_interim_response(new, fields):
    """One of HTTP/1.0 would take it for the answer; its expectation is passed over."""
    framing = new()
    length = b"" if fields.startswith(b"Transfer") else b"Content-Length: 70000\r\n"
    framing.feed(b"POST / HTTP/1.0\r\n" + length + b"Expect: 100-continue\r\n" + fields + b"\r\n")
    assert framing.stage is Stage.BODY
    assert not framing.expects_continue
    assert b"Expect" not in framing.head


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01", b"\x00", b"\xff", b" GET", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\n"]
)
def test_a_head_that_can_have_no_end_is_broken_at_once(new, start):
    """A handshake of TLS, or a line that ends in a bare line feed: its client is not waited for."""
    framing = new()
    for byte in start:
        framing.feed(bytes([byte]))
    assert framing.stage is Stage.BROKEN
    assert framing.unreadable


@pytest.mark.parametrize("start", [b"G", b"\r\nGET", b"GET / HTTP/1.1\r\nA: b\r\n", b"GET / HTTP/1.1\r\nA: \xff \r\n"])
def test_the_beginning_of_a_head_is_waited_for(new, start):
    """However it is cut, and whatever its fields contain."""
    framing = new()
    for byte in start:
        framing.feed(bytes([byte]))
    assert framing.stage is Stage.HEAD
    assert not framing.unreadable


class FullDisk(SpooledTemporaryFile):
    """Keeps what fits into memory, and fails where a file would be needed."""

    number = errno.ENOSPC

    def rollover(self):
        raise OSError(self.number, os.strerror(self.number))


class FullDiskBehindTheBuffer(SpooledTemporaryFile):
    """Makes the file, and fails when bytes are to reach it."""

    def flush(self):
        if self._rolled:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullDiskAtTheEnd(FullDisk):
    """Fails to close as well."""

    number = errno.EMFILE

    def close(self):
        super().close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("store", [FullDisk, FullDiskBehindTheBuffer, FullDiskAtTheEnd])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_cannot_be_kept_leaves_its_head(monkeypatch, store, chunked):
    """No space or no descriptor is no error here; the head can be read, so that the request can be refused."""
    monkeypatch.setattr("serving.framing.tempfile.SpooledTemporaryFile", store)
    head = b"POST / HTTP/1.1\r\n" + (b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 500") + b"\r\n\r\n"
    framing = Framing(spool_bytes=200)
    framing.feed(head)
    framing.feed(b"1F4\r\n" if chunked else b"")
    assert framing.stage is Stage.BODY
    assert framing.feed(b"x" * 300) == b""
    assert framing.stage is Stage.UNSTORED
    framing.rewind()
    assert framing.read(10_000) == head
    framing.close()


@pytest.mark.parametrize(
    "fields",
    [
        b"X-Expect: 100-continue\r\nContent-Length: 2\r\n",
        b"\nExpect: 100-continue\r\nContent-Length: 2\r\n",
        b" Expect: 100-continue\r\nContent-Length: 2\r\n",
        b"Expect : 100-continue\r\nContent-Length: 2\r\n",
    ],
)
def test_only_a_whole_expectation_is_taken_out(fields):
    """No other line changes with it: the parser reads, or refuses, the fields that were sent."""
    sent = b"POST / HTTP/1.1\r\n" + fields
    with closing(Framing()) as alone, closing(Framing()) as beside:
        alone.feed(sent + b"\r\nab")
        beside.feed(sent + b"Expect: 100-continue\r\n\r\nab")
        assert (alone.expects_continue, beside.expects_continue) == (False, True)
        assert alone.head == beside.head == sent + b"\r\n"
