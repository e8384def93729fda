"""The tokens of an answer that are reasoning: the same in every protocol, whole and streamed, with those of tags."""

import json
from dataclasses import replace

import pytest

from engine.types import Completion, Timings
from routes.chat.output import OutputParser
from routes.chat.reasoning_tokens import reasoning_tokens

HELLO = [{"role": "user", "content": "Hello"}]
PATHS = {
    "/v1/chat/completions": {
        "messages": HELLO,
        "reasoning_effort": "high",
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": {"input": "Hello", "reasoning": {"effort": "high"}},
    "/v1/messages": {
        "messages": HELLO,
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
}
THOUGHT = ("<think>", "\n", "Hm", "?", "\n", "</think>", "\n\n", "So", ".", "")  # the last one is a control token


def offsets(tokens):
    return tuple(len("".join(tokens[:number])) for number in range(len(tokens)))


def completion(tokens, **details):
    """Return an answer of these tokens, whose offsets are known unless the details say otherwise."""
    known = {"token_offsets": offsets(tokens)} | details
    return Completion("".join(tokens), "stop", 1, len(tokens), Timings(0.0, 0.0, 0.0), **known)


def count(answer):
    parser = OutputParser(frozenset(), True)
    for letter in answer.text:
        parser.feed(letter)
    parser.finish()
    whole = OutputParser(frozenset(), True)
    whole.feed(answer.text)
    whole.finish()
    assert parser.reasoned == whole.reasoned
    return reasoning_tokens(answer, whole.reasoned)


def counted(client, path, stream):
    """Return how many tokens of reasoning an answer says that it has, None if it does not say."""
    fields = PATHS[path] if stream else {k: v for k, v in PATHS[path].items() if k != "stream_options"}
    response = client.post(path, json={"model": "avibe", "stream": stream} | fields)
    assert response.status_code == 200, response.text
    bodies = [response.json] if not stream else events(response.text)
    found = [usage for body in bodies if (usage := body.get("usage") or (body.get("response") or {}).get("usage"))]
    details = found[-1].get("completion_tokens_details") or found[-1].get("output_tokens_details") or {}
    return next(iter(details.values()), None)


def events(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_an_answer_in_one_piece_has_the_count_of_its_tokens(client, avibe, path, stream):
    """However many tokens a piece has."""
    avibe.text, avibe.token_offsets, avibe.output_tokens = "".join(THOUGHT), offsets(THOUGHT), len(THOUGHT)
    assert counted(client, path, stream) == 6


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("told", "number"), [(3, 3), (None, 6), (0, 6), (99, 8)])
def test_a_server_elsewhere_counts_them_or_they_are_a_share(client, avibe, path, stream, told, number):
    """Of the text; 0 beside a reasoning is no count."""
    avibe._info = replace(avibe.info, elsewhere=True)
    avibe.text, avibe.output_tokens, avibe.reasoning_tokens = "<think>1234567890123</think>" + 9 * "x", 8, told
    assert counted(client, path, stream) == number


@pytest.mark.parametrize("path", PATHS)
def test_where_nothing_is_thought_none_are(client, avibe, path):
    """The model may have answered at once."""
    avibe.token_offsets = (0, 2)
    assert counted(client, path, True) == counted(client, path, False) == 0


@pytest.mark.parametrize(
    ("tokens", "number"),
    [
        (("<think>", "</think>", "So"), 2),
        (("<", "think", ">", "a", "</th", "ink>", "So"), 6),
        (("<think>", "a", ".\n\n", "</think>", "So"), 4),
        (("<think>", "a", "b"), 3),  # cut
        (("<think>", "a", "</th"), 3),
        (("So", "<think>", "a", "</think>", "b", "<think>", "c", "</think>"), 6),
        (("So", "."), 0),
        (("</think>", "So"), 0),
    ],
)
def test_a_token_counts_that_begins_before_the_end_of_the_reasoning(tokens, number):
    """With its tags, wherever it stands and however it ends."""
    assert count(completion(tokens)) == number


def test_a_reasoning_has_a_token_at_least():
    """However short it is beside the text, where its tokens are not known."""
    assert count(completion(("<think>a</think>", *["x" * 100] * 9), token_offsets=())) == 1
    assert count(completion((), token_offsets=())) == 0
