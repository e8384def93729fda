"""Events and lines of JSON, as clients split them."""

import json
from pathlib import Path

import pytest

from routes.json_writing import json_bytes
from routes.openai.responses.events import Events
from routes.sse import EventStream, TextEvents, compact, event, quoted

ROOT = Path(__file__).parents[2]
# What Python's `splitlines`, and so many clients' readers of lines, take for the end of one.
ENDS = ["\u0085", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\n"]


@pytest.mark.parametrize("end", ENDS)
def test_no_text_ends_a_line(end):
    """It is the same text afterwards, in values, names and pieces of a stream."""
    text = f"один{end}two"
    for written in (compact({text: [text]}), quoted(text), json_bytes({text: text}).decode()):
        assert written.splitlines() == [written]
        assert text in str(json.loads(written)) or json.loads(written) in (text, {text: text}, {text: [text]})
    for sent in (event({"text": text}), TextEvents({"text": TextEvents.HOLE})(text)):
        line, *rest = sent.decode().splitlines()
        assert rest == [""]
        assert json.loads(line.removeprefix("data: ")) == {"text": text}


@pytest.mark.parametrize("end", ENDS)
def test_no_text_of_a_response_ends_a_line(end):
    """Its events are written by their own part."""
    events, text = Events(), f"один{end}two"
    for sent in (events.deltas("response.output_text.delta", item_id="i")(text), events("response.done", delta=text)):
        _, data, *rest = sent.decode().splitlines()
        assert rest == [""]
        assert json.loads(data.removeprefix("data: "))["delta"] == text


def test_nobody_else_writes_texts_as_json():
    """The encoder of the standard library leaves what clients take for the end of a line."""
    folders = ("routes", "edge", "serving", "telemetry")
    named = [
        path for name in folders for path in (ROOT / name).rglob("*.py") if "encode_basestring" in path.read_text()
    ]
    assert [path.name for path in named] == ["sse.py"]


@pytest.mark.parametrize("text", ["", "plain", "Привет", "😀 — «так»"])
def test_all_other_texts_are_written_as_they_are(text):
    """Without an escape."""
    assert quoted(text) == f'"{text}"'


def test_what_writes_a_stream_ends_before_another_may_read_its_source():
    """Else it would silence the reader who takes a stream over, when its own connection has broken."""
    ended = []

    def until_closed(name):
        try:
            while True:
                yield b""
        finally:
            ended.append(name)

    stream = EventStream(until_closed("events"), lambda: ended.append("source"))
    stream._written = until_closed("written")
    next(stream._written)
    next(stream._events)
    stream.close()
    assert ended == ["written", "events", "source"]
