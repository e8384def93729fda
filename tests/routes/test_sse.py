"""Events and lines of JSON, as clients split them."""

import json

import pytest

from routes.json_writing import json_bytes
from routes.sse import TextEvents, compact, event, quoted

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


@pytest.mark.parametrize("text", ["", "plain", "Привет", "😀 — «так»"])
def test_all_other_texts_are_written_as_they_are(text):
    """Without an escape."""
    assert quoted(text) == f'"{text}"'
