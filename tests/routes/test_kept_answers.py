"""What the answer cache keeps: its bound, what goes first, and how much an answer is counted for."""

import sys
from dataclasses import dataclass, fields, is_dataclass, replace

import pytest

from engine.backend import Generation
from engine.types import (
    ChatPrompt,
    Completion,
    EncodedImage,
    ModelInfo,
    Piece,
    SamplingParams,
    TextPrompt,
    Timings,
    TokensPrompt,
)
from engine.types import TokenLogprob as Logprob
from routes.answer_cache import ENTRY_BYTES, AnswerCache, Keeping, KeptAnswer
from routes.answer_key import UNTOLD, key_of
from tests.fakes import Clock

INFO = ModelInfo("avibe", "avibe", False, False, 4096)
GREEDY = SamplingParams(9, temperature=0)
MINE = TextPrompt("Hello")


@dataclass
class Shown:
    text: str
    logprobs: list


def logprobs(number, top=20):
    return tuple(logprob(1000 + index, top) for index in range(number))


def logprob(number, top):
    """Return a token with its alternatives, which share no object with another."""
    texts = [f"слово{number}{index}" for index in range(top)]
    alternatives = tuple((100 * number + index, text, -number - index / 7) for index, text in enumerate(texts))
    return Logprob(number, f"да{number}", -number / 3, alternatives, b"%d" % number, tuple(map(str.encode, texts)))


def answer(text="An answer.", parts=1, number=0, echo=None, ids=()):
    """Return an answer to keep, which came in so many parts."""
    completion = Completion(
        text, "stop", 7, len(ids), Timings(0.1, 0.2, 0.3), logprobs(number), token_ids=ids, echo=echo
    )
    size = -(-len(text) // parts)
    pieces = [Piece(text[at : at + size], ids[at : at + size]) for at in range(0, len(text), size)] if parts > 1 else []
    generation = Generation("id", 7, 1.0, lambda: None, max_tokens=9, prompt_token_ids=tuple(range(1000, 1007)))
    return KeptAnswer.of(generation, completion, pieces)


def deep_size(value, seen):
    """Return the bytes of a value and all that it refers to, each object once."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, tuple | list):
        return size + sum(deep_size(item, seen) for item in value)
    if is_dataclass(value):
        return size + sum(deep_size(getattr(value, one.name), seen) for one in fields(value))
    return size


@pytest.mark.parametrize(
    "kept",
    [
        answer(""),
        answer("Ы" * 3000, ids=tuple(range(1000, 4000))),
        answer("Ы" * 3000, parts=3000, ids=tuple(range(1000, 4000))),
        answer("😀a" * 500, parts=40),
        answer("word " * 50, number=50),
        answer("word " * 50, echo=Shown("Вопрос " * 200, list(logprobs(100)))),
    ],
    ids=["empty", "whole", "parts", "wide", "logprobs", "echo"],
)
def test_an_answer_counts_for_what_it_takes_at_least(kept):
    """The bound is one of memory, whatever the answers are like; yet it is not wasted many times over."""
    size = deep_size(kept, set())
    assert size <= kept.size + ENTRY_BYTES
    assert kept.size <= 4 * size + 4096


def test_the_bytes_are_bounded():
    """The least recently used answers go first; a find counts as a use."""
    cache = AnswerCache(3 * (ENTRY_BYTES + answer().size))
    for key in (b"a", b"b", b"c"):
        cache.keep(key, (answer(),))
    cache.find(b"a")
    cache.keep(b"d", (answer(),))
    assert [cache.find(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert cache.figures() == (3, 3 * (ENTRY_BYTES + answer().size), 4, 1)


def test_one_that_is_larger_than_the_cache_displaces_nothing():
    """It is not kept."""
    cache = AnswerCache(2 * (ENTRY_BYTES + answer().size))
    cache.keep(b"a", (answer(),))
    cache.keep(b"b", (answer("x" * 10_000),))
    assert cache.find(b"b") is None
    assert cache.find(b"a") is not None


def test_the_same_request_is_kept_once():
    """Two in flight at once leave the answer of the later one."""
    cache = AnswerCache(1 << 20)
    cache.keep(b"a", (answer("one"),))
    cache.keep(b"a", (answer("two"),))
    assert cache.figures().entries == 1
    assert cache.find(b"a")[0].completion.text == "two"
    assert cache.figures().size == ENTRY_BYTES + answer("two").size


def test_time_frees_what_nobody_asks_for():
    """Also what has been used a moment ago."""
    clock = Clock()
    cache = AnswerCache(1 << 20, clock=clock)
    cache.keep(b"a", (answer(),))
    clock.advance(10)
    cache.keep(b"b", (answer(),))
    clock.advance(3590)
    assert cache.figures().entries == 1
    clock.advance(10)
    assert cache.figures()[:2] == (0, 0)


def test_answers_are_kept_once_all_have_ended():
    """One alone is no answer to a request for two."""
    cache = AnswerCache(1 << 20)
    keeping = Keeping(cache, b"a", 2)
    parts = [(0, Piece("An ")), (1, Piece("B", (1,))), (0, Piece("")), (0, Piece("A")), (0, None), (1, None)]
    assert list(keeping.noted(iter(parts))) == parts
    generation = Generation("id", 7, 1.0, lambda: None)
    keeping.ended(1, generation, answer("B").completion)
    assert cache.figures().entries == 0
    keeping.ended(0, generation, answer("An A").completion)
    first, second = cache.find(b"a")
    assert [piece.text for piece in first.pieces] == ["An ", "A"]
    assert second.completion.text == "B"


def test_a_kept_answer_has_ended_at_once():
    """With its parts, its end, and figures that say that nothing was computed."""
    generation = answer("An answer.", parts=2).generation("id")
    assert generation.done
    assert [piece.text for piece in generation.pieces()] == ["An an", "swer."]
    completion = generation.result()
    assert (completion.text, completion.from_cache, completion.cached_tokens) == ("An answer.", True, 7)
    assert completion.timings == Timings(0.0, 0.0, 0.0)
    assert generation.max_tokens == 9
    generation.abort()
    assert generation.queue_position() is None


def test_a_key_differs_where_anything_does():
    """Each field of prompts and parameters, the order of answers, and what stands around them."""
    image = EncodedImage(b"a", 1, 1)
    prompts = [
        MINE,
        TextPrompt("Hello "),
        TokensPrompt((1, 23)),
        TokensPrompt((12, 3)),
        ChatPrompt(({"role": "user", "content": "Hello"},)),
        ChatPrompt(({"role": "system", "content": "Hello"},)),
        ChatPrompt(({"role": "user", "content": "Hel"}, {"role": "user", "content": "lo"})),
        ChatPrompt(({"role": "user", "content": "Hello"},), (image,)),
        ChatPrompt(({"role": "user", "content": "Hello"},), (image, image)),
        ChatPrompt(({"role": "user", "content": "Hello"},), (EncodedImage(b"b", 1, 1),)),
        ChatPrompt(({"role": "user", "content": "Hello"},), tools=({"a": 1},)),
        ChatPrompt(({"role": "user", "content": "Hello"},), thinking=True),
        ChatPrompt(({"role": "user", "content": "Hello"},), continues=True),
        ChatPrompt(({"role": "user", "content": "Hello"},), opens_answer=False),
    ]
    others = [replace(GREEDY, **{name: value}) for name, value in CHANGED.items()]
    requests = [[(prompt, GREEDY)] for prompt in prompts] + [[(MINE, one)] for one in others]
    requests += [[(MINE, GREEDY)] * 2, [(MINE, GREEDY), (prompts[1], GREEDY)], [(prompts[1], GREEDY), (MINE, GREEDY)]]
    keys = {key_of(INFO, "me", "chat", request) for request in requests}
    keys |= {key_of(INFO, "you", "chat", requests[0]), key_of(INFO, "me", "text", requests[0])}
    keys.add(key_of(replace(INFO, served_id="avibe-2"), "me", "chat", requests[0]))
    assert len(keys) == len(requests) + 3
    assert None not in keys


# A value of each parameter that is not its neutral one.
CHANGED = {
    "max_tokens": 8,
    "temperature": 0.0,  # as deterministic as 0, yet written differently
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "logit_bias": {5: 1.0},
    "seed": 5,
    "stop": ("a", "b"),
    "logprobs": 0,
    "ignore_eos": True,
    "fit_context": True,
    "min_tokens": 1,
    "return_token_ids": True,
    "echo": True,
}


def test_every_parameter_is_tried():
    """But the grammar, which the tests of the routes try, and what says nothing of the answer."""
    assert {one.name for one in fields(SamplingParams)} - {*UNTOLD} == {*CHANGED}


@pytest.mark.parametrize("field", ["names_temperature", "return_tokens_as_token_ids"])
def test_it_is_no_matter_who_named_the_temperature_nor_how_tokens_are_shown(field):
    """An answer at the default is that at the same number in a request, and its tokens are the same by text or id."""
    one, other = (replace(GREEDY, **{field: value}) for value in (True, False))
    assert key_of(INFO, "me", "chat", [(MINE, one)]) == key_of(INFO, "me", "chat", [(MINE, other)])


class Unknown:
    def bitmask(self):
        return None

    def accept(self, token_id):
        pass


@pytest.mark.parametrize(
    "sampling", [SamplingParams(9), SamplingParams(9, temperature=0.7), replace(GREEDY, token_mask=Unknown())]
)
def test_what_may_differ_has_no_key(sampling):
    """Nor have several answers of which one may."""
    assert key_of(INFO, "me", "chat", [(MINE, sampling)]) is None
    assert key_of(INFO, "me", "chat", [(MINE, GREEDY), (MINE, sampling)]) is None


def test_what_another_server_answers_has_no_key():
    """Its model can change unseen."""
    assert key_of(replace(INFO, elsewhere=True), "me", "chat", [(MINE, GREEDY)]) is None


def test_equal_requests_have_equal_keys():
    """Whatever objects they are made of, and in whatever order a bias is written."""
    one, other = {5: 1.0, 6: 2.0}, {6: 2.0, 5: 1.0}
    keys = {
        key_of(INFO, "me", "chat", [(TextPrompt("Hello"), replace(GREEDY, logit_bias=bias))]) for bias in (one, other)
    }
    assert len(keys) == 1
