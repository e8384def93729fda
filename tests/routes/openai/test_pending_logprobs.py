"""Log probabilities are those of the text that they come with, however an answer was split into pieces."""

import json
from itertools import accumulate, combinations

import pytest

from engine.types import Completion, Piece, Timings, TokenLogprob
from routes.chat.output import ExpectedOutput, OutputParser
from routes.openai.chat_events import Details, ParsedChoiceEvents
from routes.openai.responses.events import Events
from routes.openai.responses.output_items import OutputItems

CALL = ["<tool_call>", '\n{"name": "look", ', '"arguments": {"at"', ": 1}}\n", "</tool_call>"]
FACE = ["b:f09f", "b:9880"]  # a character in two tokens
FACES = ["b:f09f", "b:98", "b:80f09f", "b:9880"]  # two, in which one token has a part of each
ANSWERS = {
    "reasoning and text": ["<think>", "\n", "Hm", "?", "\n", "</think>", "\n\n", "Hel", "lo", " ", "there"],
    "text, a call and text": ["Let", " me", " look", ".", "\n\n", *CALL, "\n", "So", ".", "\n", "bye"],
    "two calls": [*CALL, "\n", *CALL],
    "a free tool call's tags": ["So", "\n", "<tool_call>", "\n", "oh", "\n", "</tool_call>", "\n", "!", "\n", "<b>"],
    "no call of a tool": ["So", "\n", "<tool_call>", "\n", '{"name":', ' "other"}', "\n", "</tool_call>", "\n", "!"],
    "tags of several tokens": [
        "<",
        "think",
        ">",
        "a",
        "</th",
        "ink>",
        "\n",
        "b",
        "\n",
        "<tool",
        "_call",
        ">",
        *CALL[1:],
    ],
    "characters over tokens": ["<think>", "a", *FACE, "</think>", "\n", *FACE, *FACES, " ", *FACES, "c", "\n", *CALL],
    "white space": [" ", "\n", "a", " ", "\n", " ", "b", " ", "\n", *CALL, "\n", "\n", "c"],
    "cut in a tag": ["<think>", "a", "</think>", "b", "\n", "<tool"],
}


def tokens(names):
    """Return the tokens of an answer; each is known once all characters that it has a part of are whole."""
    found, data = [], b""
    for number, name in enumerate(names):
        own = bytes.fromhex(name[2:]) if name.startswith("b:") else name.encode()
        begins = data + own[:1]
        offset = len(begins.decode(errors="replace")) - 1
        found.append(TokenLogprob(number, own.decode(errors="replace"), -0.5, data=own, offset=offset))
        data += own
    return found, data.decode()


def pieces(names, cuts):
    """Return the answer as the engine sends it, cut behind these numbers of tokens: what is whole and known by then."""
    every, text = tokens(names)
    read = list(accumulate((one.data for one in every), initial=b""))
    sent = known = 0
    for cut in (*cuts, len(every)):
        shown = read[cut].decode(errors="ignore")
        ready = max(count for count in range(cut + 1) if read[count].decode(errors="ignore").encode() == read[count])
        yield Piece(text[sent : len(shown)], (1,), tuple(every[known:ready]))
        sent, known = len(shown), ready


def splits(names):
    """Return ways to split an answer: token by token, whole, and in up to three pieces."""
    places = range(1, len(names))
    return [tuple(places), *(cuts for count in range(3) for cuts in combinations(places, count))]


def parser():
    return OutputParser(frozenset(["look"]), True, ExpectedOutput())


def data(entries):
    return b"".join(bytes(one["bytes"]) for one in entries).decode(errors="replace")


def messages(names, cuts):
    """Return the messages of a response: the text of each, and its tokens."""
    output = OutputItems(Events(), parser(), {})
    for piece in pieces(names, cuts):
        output.feed(piece.text, piece.logprobs)
    output.finish(True)
    parts = [item["content"][0] for item in output.items if item["type"] == "message"]
    return [(part["text"], data(part["logprobs"])) for part in parts]


def deltas(names, cuts, as_ids=False):
    """Return the deltas of a chat's stream, each with its tokens."""
    events = ParsedChoiceEvents(lambda choices: {"choices": choices}, 0, parser(), Details(True, False, as_ids))
    sent = b"".join(map(events.show, pieces(names, cuts)))
    sent += events.end(Completion("", "stop", 1, 1, Timings(0.0, 0.0, 0.0)))
    choices = [json.loads(event[6:])["choices"][0] for event in sent.decode().split("\n\n")[:-1]]
    return [(one["delta"], one["logprobs"] and data(one["logprobs"]["content"])) for one in choices]


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_tokens_of_a_message_spell_its_text(answer):
    """None of the reasoning, of a call or of a tag, and all of its own; a message without a text has none."""
    for cuts in splits(ANSWERS[answer]):
        found = messages(ANSWERS[answer], cuts)
        assert [told for _, told in found] == [text for text, _ in found], cuts
        assert found == messages(ANSWERS[answer], ())


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_tokens_of_a_delta_spell_its_text(answer):
    """Those of tags and calls come in events of their own; together they are the tokens of the whole answer."""
    whole = parser()
    shown = [*whole.feed(tokens(ANSWERS[answer])[1]), *whole.finish()]
    assert shown
    every = Details(True, False, False).shown(tokens(ANSWERS[answer])[0], whole.hidden)
    for cuts in splits(ANSWERS[answer]):
        found = deltas(ANSWERS[answer], cuts)
        for kind in ("content", "reasoning_content"):
            told = [(delta[kind], logprobs or "") for delta, logprobs in found if kind in delta]
            if "b:80f09f" not in ANSWERS[answer]:  # a token with parts of two characters comes with the second
                assert [text for text, _ in told] == [spelled for _, spelled in told], cuts
            assert "".join(text for text, _ in told) == "".join(spelled for _, spelled in told), cuts
        assert "".join(logprobs or "" for _, logprobs in found) == data(every["content"]), cuts


def test_a_token_that_reaches_into_a_text_is_one_of_it():
    """From a tag into the text behind it, or from the text into what is left out behind it: it is shown whole."""
    names = ["<think>a", ".\n", "</think", ">b", ".\n\n", "<tool_call>", *CALL[1:-1], "</tool_call", ">\nc"]
    for cuts in splits(names):
        assert messages(names, cuts) == [("b.", ">b.\n\n"), ("\nc", ">\nc")], cuts


def test_a_line_break_of_the_parser_has_no_token():
    """It stands in the place of a tag; one of the model in its place has its token."""
    assert messages(["a", "</tool_call>", "b", "</tool_call>", "\n", "c"], ()) == [("a\nb\nc", "ab\nc")]


def test_by_their_ids_all_tokens_are_told():
    """Those of tags that are left out, too."""
    names = ANSWERS["a free tool call's tags"]
    for cuts in splits(names):
        assert "".join(told or "" for _, told in deltas(names, cuts, as_ids=True)) == "".join(names)
