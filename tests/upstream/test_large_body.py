"""A large body has the bytes of a small one, and no part of it keeps the interpreter lock for long."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import AnswerRules, ChatPrompt, EncodedImage, TokensPrompt
from tests.fake_upstream import FakeUpstream
from tests.upstream.conftest import Open, asking
from tests.upstream.test_faults import until
from upstream import large_body
from upstream.large_body import CHUNK, IMAGE_PIECE, SMALL, STRING_PIECE, VALUE_WEIGHT, DataUrl, LargeBody, written

MIB = 2**20
PNG = b"\x89PNG\r\n\x1a\n"
IMAGE = PNG + random.Random(1).randbytes(3 * MIB)
AWKWARD = '"\\\n\x00\x1f\x7f\u2028é漢😀\ud800\udfff'  # escapes, every length in UTF-8, and halves of surrogate pairs
LONGEST_CALL = 6 * STRING_PIECE + 2  # bytes: a string of which each character is escaped

texts = st.text(st.characters(exclude_categories=()) | st.sampled_from(AWKWARD))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner) | st.lists(inner).map(tuple),
    max_leaves=40,
)


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def sent(body: LargeBody) -> bytes:
    return b"".join(body.chunks())


def looking(pieces: int = 1) -> ChatPrompt:
    """Return a question about an image, which the prompt has so many times."""
    content = [{"type": "text", "text": "What?"}, *[{"type": "image"}] * pieces]
    return ChatPrompt(({"role": "user", "content": content},), (EncodedImage(IMAGE, 1, 1),) * pieces)


@given(value=st.dictionaries(texts, values), at_once=st.integers(VALUE_WEIGHT, 100), piece=st.integers(1, 5))
def test_the_bytes_are_those_of_one_call(value: dict[str, Any], at_once: int, piece: int) -> None:
    """Wherever it is cut, and whatever the texts have in them; the length is known before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_body, "AT_ONCE", at_once)
        patch.setattr(large_body, "STRING_PIECE", piece)
        patch.setattr(large_body, "CHUNK", piece)
        body = LargeBody(value)
        assert sent(body) == dumped(value)
        assert body.size == len(dumped(value))


@given(data=st.binary(max_size=40), piece=st.integers(1, 4), at_once=st.sampled_from([VALUE_WEIGHT, 1000]))
def test_an_image_is_one_base64(data: bytes, piece: int, at_once: int) -> None:
    """Though it is encoded in pieces, with padding at the end alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_body, "IMAGE_PIECE", 3 * piece)
        patch.setattr(large_body, "AT_ONCE", at_once)
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        body = LargeBody({"a": [DataUrl("image/png", data), 1]})
        assert sent(body) == dumped({"a": [url, 1]})
        assert (body.size, len(DataUrl("image/png", data))) == (len(sent(body)), len(url))
        assert written({"a": DataUrl("image/png", data)}) == dumped({"a": url})


def test_what_is_small_is_written_in_one_call() -> None:
    """A plain chat is not held up by anything."""
    small = {"messages": [{"role": "user", "content": "x" * (SMALL - 100) + AWKWARD}]}
    assert written(small) == dumped(small)
    large = written({"messages": [{"role": "user", "content": "x" * SMALL + AWKWARD}]})
    assert isinstance(large, LargeBody)


def test_what_is_no_json_is_refused() -> None:
    """As by the library, and not written in some other form."""
    with pytest.raises(TypeError):
        written({"a": b"x"})


@pytest.mark.parametrize(
    "value",
    [
        {"text": AWKWARD * 200_000},
        {"\x01" * MIB: "name"},
        {"ids": list(range(400_000))},
        {"many": [{"a": {str(n): "x" * 30}} for n in range(50_000)]},
        {"wide": {f"member {n}": n for n in range(100_000)}},
        {"images": [{"url": DataUrl("image/png", IMAGE)}] * 3},
    ],
    ids=["text", "name", "ids", "many", "wide", "images"],
)
def test_no_call_writes_much_at_once(monkeypatch: pytest.MonkeyPatch, value: dict[str, Any]) -> None:
    """Whatever it is that makes a body large."""
    calls = list[int]()
    encode, to_base64 = large_body._encoder.encode, large_body.b2a_base64

    class Encoder:
        def encode(self, one: Any) -> str:
            text = encode(one)
            calls.append(len(text))
            return text

    def counted(data: memoryview, newline: bool) -> bytes:
        calls.append(len(data))
        return to_base64(data, newline=newline)

    monkeypatch.setattr(large_body, "_encoder", Encoder())
    monkeypatch.setattr(large_body, "b2a_base64", counted)
    body = written(value)
    assert isinstance(body, LargeBody)
    chunks = [len(chunk) for chunk in body.chunks()]
    assert max(calls) <= LONGEST_CALL
    assert max(chunks) <= CHUNK + LONGEST_CALL
    assert min(chunks[:-1]) >= CHUNK  # not a call of the system for each value
    assert sum(chunks) == body.size
    assert IMAGE_PIECE % 3 == 0


@pytest.mark.parametrize("text", ["", "Look at this: " + "ж😀" * 300_000])
def test_a_large_body_is_what_the_server_gets(server: FakeUpstream, opened: Open, text: str) -> None:
    """With its length, which some servers need."""
    prompt = ChatPrompt(({"role": "system", "content": text}, *looking(2).messages), looking(2).images)
    rules = AnswerRules(choice=("yes",))
    server.script.deltas = [{"content": "yes"}]
    opened(vision=True, max_model_len=100_000).submit(asking(prompt=prompt, rules=rules)).result()
    (heard,) = server.heard
    assert "transfer-encoding" not in heard.headers
    assert heard.headers["content-type"] == "application/json"
    assert int(heard.headers["content-length"]) == len(dumped(heard.body))
    assert heard.body["messages"][0]["content"] == text
    for part in heard.body["messages"][1]["content"][1:]:
        assert base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,")) == IMAGE
    assert heard.body["structured_outputs"] == {"choice": ["yes"]}


def test_many_token_ids_are_what_the_server_gets(server: FakeUpstream, opened: Open) -> None:
    """They are as many values, and no text."""
    ids = tuple(range(60_000))
    opened(max_model_len=100_000).submit(asking(prompt=TokensPrompt(ids))).result()
    assert server.heard[0].body["prompt"] == list(ids)


def test_another_task_runs_between_two_chunks(server: FakeUpstream, opened: Open) -> None:
    """A connection that takes everything at once would leave no turn to the streams of others."""
    backend = opened(vision=True)
    loop, turns = backend._loop, list[int]()

    class Writer:
        async def write(self, chunk: bytes) -> None:
            loop.soon(turns.append, len(turns))
            seen.append(len(turns))

    seen, body = list[int](), LargeBody({"a": DataUrl("image/png", IMAGE)})
    done = list[Callable[..., object]]()

    async def write() -> None:
        await body.write(Writer())  # type: ignore[arg-type]
        done.append(write)

    loop.soon(lambda: loop.spawn(write()))
    until(lambda: done)
    assert len(seen) > 20
    assert seen[-1] > 0
