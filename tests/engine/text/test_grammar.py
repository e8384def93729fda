"""Grammars over a small vocabulary: allowed tokens, rejected schemas, and the cost of a hostile schema."""

import contextlib
import json
import random
import threading
import time
from dataclasses import replace
from traceback import walk_tb

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

import engine.text.grammar
from engine.errors import DeadlineExceeded, Overloaded, RequestAborted, ValidationError
from engine.loading.loader import load_model
from engine.loading.vocabulary import vocabulary_of
from engine.text.compile_queue import CompileQueue
from engine.text.grammar import (
    BURST_SECONDS,
    CACHED_GRAMMARS,
    SLOW_SECONDS,
    TOKEN_SECONDS,
    GrammarFailed,
    Grammars,
    json_grammar,
    lark_grammar,
    size_of,
)
from engine.text.grammar_limits import FUEL, OF_CLIENT, fault
from engine.types import Vocabulary
from engine.wanted import Wanted
from tests.checkpoints import text_spec
from tests.engine.conftest import ignore
from tests.fakes import PATIENCE
from tests.masks import bitmask_of

END = 0
LETTERS = [bytes([code]) for code in range(1, 256)]
WORDS = [b'{"', b'": ', b'", "', b"true", b"false", b"name", b'"}', "Да".encode(), b"<tool_call>"]
TOKENS = (b"", *LETTERS, *WORDS, b"")


def encode(text):
    """Return the ids of a text, the longest matching token first."""
    data, ids = text.encode(), []
    while data:
        best = max((token for token in TOKENS if token and data.startswith(token)), key=len)
        ids.append(TOKENS.index(best))
        data = data[len(best) :]
    return ids


@pytest.fixture
def grammars():
    """The grammars of the small vocabulary."""
    made = Grammars(Vocabulary(TOKENS, frozenset({END}), encode), seconds=PATIENCE)
    yield made
    made.close()


def allowed(mask):
    """Return the tokens that a mask allows next."""
    bits = np.unpackbits(bitmask_of(mask).view(np.uint8), bitorder="little")[: len(TOKENS)]
    return [int(token) for token in np.flatnonzero(bits)]


def written(mask, seed=0, most=400):
    """Generate a random answer within the mask; return its text."""
    rng, text = random.Random(seed), b""
    for _ in range(most):
        token = rng.choice(allowed(mask))
        mask.accept(token)
        if token == END:
            return text.decode()
        text += TOKENS[token]
    raise AssertionError("the answer did not end")


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "yes": {"type": "boolean"}},
    "required": ["name", "yes"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(5))
def test_random_answers_within_the_mask_match_the_schema(grammars, seed):
    """Random walks end with a valid value."""
    mask = grammars.mask(json_grammar(json.dumps(SCHEMA)))
    value = json.loads(written(mask, seed))
    assert set(value) == {"name", "yes"}
    assert len(value["name"]) <= 4
    assert isinstance(value["yes"], bool)


def test_two_answers_of_one_grammar_are_independent(grammars):
    """The compiled grammar is shared, its state is not."""
    grammar = json_grammar('{"enum": ["ab", "cd"]}')
    one, two = grammars.mask(grammar), grammars.mask(grammar)
    for token in encode('"a'):
        one.accept(token)
    assert allowed(one) == encode("b")
    assert allowed(two) != allowed(one)


def test_only_the_end_token_may_follow_a_complete_answer(grammars):
    """The end token is accepted too, as the engine accepts every token that it samples."""
    mask = grammars.mask(json_grammar('{"const": true}'))
    for token in encode("true"):
        mask.accept(token)
    assert allowed(mask) == [END]
    mask.accept(END)


def test_a_token_outside_the_mask_fails_the_answer(grammars):
    """The engine fails the sequence, which is blamed on the field; no mask fails, since a step is of many sequences."""
    mask = grammars.mask(json_grammar('{"const": true}'), field="tools")
    for _ in range(2):
        with pytest.raises(GrammarFailed, match=r"^tools is too complex\.$") as caught:
            mask.accept(TOKENS.index(b"x"))
        assert caught.value.param == "tools"
        assert allowed(mask) == list(range(len(TOKENS)))


AMBIGUOUS = lark_grammar('start: s\ns: s s | "x" | s s s s')


class Ticking:
    """A clock that goes on by `takes` at each look."""

    def __init__(self):
        self.now = self.takes = 0.0

    def __call__(self):
        self.now += self.takes
        return self.now


def follow(mask, steps):
    """Go on with an answer of the ambiguous grammar."""
    for _ in range(steps):
        bitmask_of(mask)
        mask.accept(TOKENS.index(b"x"))
        mask.prepare()


def test_a_slow_mask_is_not_waited_for(grammars):
    """Its row sits steps out until it is there; a quick one is as good as there."""
    mask, release = grammars.mask(AMBIGUOUS), threading.Event()
    mask._clock = clock = Ticking()
    follow(mask, 2)
    assert mask.ready
    clock.takes = 2 * SLOW_SECONDS
    follow(mask, 1)
    bitmask_of(mask)
    assert mask.ready
    compute = mask._compute
    mask._compute = lambda: release.wait(PATIENCE) and compute()
    mask.accept(TOKENS.index(b"x"))
    mask.prepare()
    assert not mask.ready
    clock.takes = 0.0
    release.set()
    bitmask_of(mask)
    follow(mask, 1)
    assert mask.ready


def test_a_mask_that_takes_long_after_quick_ones_is_not_waited_for(grammars, monkeypatch):
    """All tokens are allowed in its place, none of which counts; its row sits steps out until it is there."""
    monkeypatch.setattr("engine.text.grammar.LATE_SECONDS", 0.05)
    mask, release = grammars.mask(json_grammar('{"const": true}')), threading.Event()
    compute = mask._compute
    mask._compute = lambda: release.wait(PATIENCE) and compute()
    assert mask.ready
    assert (mask.bitmask() == -1).all()
    assert (mask.late, mask.ready) == (True, False)
    release.set()
    assert len(allowed(mask)) == 1
    assert (mask.late, mask.ready) == (False, True)


def test_no_token_is_taken_while_the_library_is_at_work_for_a_copy(grammars):
    """It would wait for it with the interpreter lock held: the row sits steps out instead."""
    grammar = json_grammar('{"enum": ["ab", "cd"]}')
    one, two = grammars.mask(grammar), grammars.mask(grammar)
    assert allowed(one) == allowed(two)
    token = allowed(one)[0]
    one._late_at = 0.0
    with two._shared:
        assert not one.accept(token)
        assert not one.ready
    assert one.ready
    assert allowed(one) == [token]
    assert one.accept(token)
    assert not one._shared.locked()


def test_the_time_of_a_mask_is_bounded_by_the_items_of_a_clients_rules(grammars):
    """A wide rule takes seconds for one mask with as many items as large schemas need, right after quick masks."""
    wide = "start: /[ab]{40}/ s\ns: " + " | ".join(" ".join("s" * count) for count in range(2, 60)) + " | /./"
    for mark, fails in ((f"\n{OF_CLIENT}", True), ("", False)):
        mask = grammars.mask(lark_grammar(wide + mark), field="guided_grammar")
        mask._may_spend = PATIENCE
        for token in encode("ab" * 20):
            bitmask_of(mask)
            mask.accept(token)
        bitmask_of(mask)
        assert mask._matcher.is_error() is fails


def test_an_answer_tells_by_how_much_it_lengthens_a_step(grammars):
    """By the time of its last token and, until it is there, of the next mask; all of it counts as spent."""
    mask, release = grammars.mask(AMBIGUOUS), threading.Event()
    mask._clock, mask._wall = clock, wall = Ticking(), Ticking()
    follow(mask, 2)
    bitmask_of(mask)
    assert (mask.step_seconds, mask.spent) == (0.0, 0.0)
    clock.takes, wall.takes = SLOW_SECONDS / 2, SLOW_SECONDS  # beside others that compute
    follow(mask, 1)
    bitmask_of(mask)
    assert mask.step_seconds == pytest.approx(wall.takes)
    assert mask.spent == pytest.approx(2 * clock.takes)
    compute = mask._compute
    mask._compute = lambda: release.wait(PATIENCE) and compute()
    mask.accept(TOKENS.index(b"x"))
    mask.prepare()
    assert mask.step_seconds == pytest.approx(2 * wall.takes)
    release.set()


def test_an_answer_whose_masks_take_too_long_fails(grammars):
    """A few slow ones are in any grammar; an ambiguous one has more with every token."""
    mask = grammars.mask(AMBIGUOUS, field="guided_grammar")
    mask._clock = clock = Ticking()
    clock.takes = BURST_SECONDS / 10  # for the mask, and for the token
    follow(mask, 4)
    clock.takes = TOKEN_SECONDS / 2
    follow(mask, 20)
    clock.takes = BURST_SECONDS / 10
    with pytest.raises(GrammarFailed, match=r"^guided_grammar is too complex\.$"):
        follow(mask, 8)


def test_text_before_json_can_be_required(grammars):
    """As in forced tool calls."""
    lark = 'start: "<tool_call>" %json {"type": "boolean"} "!"'
    assert written(grammars.mask(lark_grammar(lark))) in ("<tool_call>true!", "<tool_call>false!")


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "array", "uniqueItems": True}, "uses what cannot be enforced: uniqueItems"),
        ({"not": {}}, "uses what cannot be enforced: not"),
        ({"type": "string", "pattern": "("}, "cannot be enforced"),
        ({"allOf": [{"type": "string", "pattern": f"^.*a.{{{n}}}$"} for n in range(15, 20)]}, "cannot be enforced"),
        ({"type": "string", "pattern": "((a{0,99}b){0,99}c){0,99}"}, None),
        (
            {
                "anyOf": [
                    {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(j)}}
                    for j in range(40)
                ]
            },
            None,
        ),
        ({"enum": [f"v{number}" for number in range(1500)]}, None),
    ],
    ids=["unique", "not", "pattern", "all-of", "deep-pattern", "branches", "enum"],
)
def test_a_schema_is_enforced_or_rejected_in_our_own_words(grammars, schema, sentence):
    """In bounded time, and without the text of the library in the error."""
    started, grammar = time.monotonic(), json_grammar(json.dumps(schema))
    if sentence is None:
        assert allowed(grammars.mask(grammar))
    else:
        with pytest.raises(ValidationError, match=f"^{sentence}$"):
            grammars.mask(grammar)
    assert time.monotonic() - started < PATIENCE


ENDLESS = {
    "$ref": "#/$defs/a",
    "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"]}},
}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^((a{0,100}){0,100}b){0,100}$"},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}}},
        {"type": "object", "properties": {f"k{i}": {"type": "string", "pattern": f"^a{{{i}}}b*$"} for i in range(600)}},
        {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(900)}},
        {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(1900)}},
    ],
    ids=["nested-counts", "nested", "patterns", "900", "1900"],
)
@pytest.mark.parametrize("seed", range(3))
def test_what_compiles_can_be_followed(grammars, schema, seed):
    """To the end of an answer, or as far as is tried; there is always a token that may come next."""
    rng, token = random.Random(seed), -1
    mask = grammars.mask(json_grammar(json.dumps(schema)))
    for _ in range(200):
        if token == END:
            break
        token = rng.choice(allowed(mask))
        mask.accept(token)


@pytest.mark.parametrize(
    "schema",
    [
        ENDLESS,
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1}}},
        {"type": "string", "pattern": "^a{900001}$"},
        {"type": "string", "pattern": "^(a?){500}a{500}$"},
    ],
    ids=["endless", "endless-list", "counted", "optional"],
)
def test_a_schema_that_fails_at_once_is_rejected_before_the_answer(grammars, schema):
    """It is tried with the start of a few answers."""
    with pytest.raises(ValidationError, match="^is too complex$"):
        grammars.mask(json_grammar(json.dumps(schema)))
    assert grammars.cached == grammars.cached_bytes == 0


def test_many_properties_can_be_followed(grammars):
    """900 of them, as generated schemas have."""
    schema = {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(900)}}
    mask = grammars.mask(json_grammar(json.dumps(schema | {"additionalProperties": False})))
    for token in encode('{"k7": 5, "k899": 1}'):
        mask.accept(token)
    assert allowed(mask) == [END]


keywords = st.sampled_from(
    ["type", "enum", "const", "pattern", "items", "minItems", "maxItems", "properties", "required", "$ref", "format"]
    + ["additionalProperties", "patternProperties", "anyOf", "allOf", "oneOf", "not", "minimum", "maxLength", "$defs"]
)
leaves = (
    st.sampled_from(["object", "array", "string", "integer", "null", "#", "#/$defs/a", "^a{9,99}$", "(", "date", "a"])
    | st.integers(-9, 10**7)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
)
schemas = st.recursive(
    st.dictionaries(keywords, leaves, max_size=3),
    lambda inner: st.dictionaries(
        keywords,
        inner | leaves | st.lists(inner | leaves, max_size=3) | st.dictionaries(st.just("a"), inner),
        max_size=4,
    ),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schemas, st.randoms(use_true_random=False))
def test_any_schema_is_followed_or_a_typed_refusal(grammars, schema, rng):
    """Whatever the keywords hold; an answer goes on, ends, or fails as the client's mistake."""
    token = -1
    with contextlib.suppress(ValidationError):
        mask = grammars.mask(json_grammar(json.dumps(schema)))
        for _ in range(30):
            if token == END:
                break
            token = rng.choice(allowed(mask))
            mask.accept(token)


def test_an_invalid_schema_is_rejected():
    """Before anything is compiled."""
    with pytest.raises(ValidationError, match="cannot be read"):
        json_grammar("[")


def test_a_compilation_that_takes_too_long_is_rejected():
    """The request gets its error in time, while the compilation is still running."""
    release = threading.Event()

    def held(text):
        release.wait(PATIENCE)
        return encode(text)

    slow = Grammars(Vocabulary(TOKENS, frozenset({END}), held), seconds=0.5)
    with pytest.raises(ValidationError, match="is too complex"):
        slow.mask(json_grammar('{"const": "first"}'))
    release.set()
    slow.close()


def test_a_compilation_that_never_began_is_not_its_clients_fault():
    """Others' schemas took all the time: it may be sent again."""
    started, release = threading.Event(), threading.Event()

    def held(text):
        started.set()
        release.wait(PATIENCE)
        return encode(text)

    def first():
        with contextlib.suppress(ValidationError):
            slow.mask(json_grammar('{"const": "first"}'))

    slow = Grammars(Vocabulary(TOKENS, frozenset({END}), held), seconds=0.5, compilers=CompileQueue(threads=1))
    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(PATIENCE)
    with pytest.raises(Overloaded):
        slow.mask(json_grammar('{"const": "second"}'))
    release.set()
    thread.join(PATIENCE)
    slow.close()


def test_too_many_concurrent_compilations_are_rejected():
    """The queue is bounded."""
    started, release = threading.Event(), threading.Event()

    def held(text):
        started.set()
        release.wait(PATIENCE)
        return encode(text)

    one = CompileQueue(most=1)
    blocked = Grammars(Vocabulary(TOKENS, frozenset({END}), held), seconds=PATIENCE, compilers=one)
    first = threading.Thread(target=blocked.mask, args=(json_grammar('{"const": "first"}'),))
    first.start()
    assert started.wait(PATIENCE)
    with pytest.raises(Overloaded):
        blocked.mask(json_grammar('{"const": "second"}'))
    release.set()
    first.join(PATIENCE)
    blocked.mask(json_grammar('{"const": "second"}'))
    blocked.close()


def test_a_grammar_is_compiled_in_the_turn_of_its_client(grammars):
    """Of the one who wants it, whoever may find it again; a compiled one takes no turn."""
    asked, submit = [], grammars._compilers.submit
    grammars._compilers.submit = lambda client, work: asked.append(client) or submit(client, work)
    for client, owner in (("a", ""), ("b", ""), ("b", "b")):
        grammars.mask(json_grammar('{"const": 1}'), Wanted(client=client), owner=owner)
    assert asked == ["a", "b"]


def test_the_least_recently_used_grammar_is_evicted_first(grammars):
    """The memory of cached grammars is bounded."""
    for number in range(CACHED_GRAMMARS + 3):
        grammars.mask(json_grammar(json.dumps({"const": number})))
    assert grammars.cached == CACHED_GRAMMARS


def test_a_client_finds_its_own_grammars_only(grammars):
    """The same schema of another client is compiled again, so that time does not tell that it was sent before."""
    grammar, compiled = json_grammar('{"const": "a secret"}'), []
    compile_one = grammars._compile
    grammars._compile = lambda text: compiled.append(text) or compile_one(text)
    for owner in ("a", "b", "a", "b"):
        assert allowed(grammars.mask(grammar, owner=owner))
    assert (len(compiled), grammars.cached) == (2, 2)


def test_cached_grammars_are_bounded_in_bytes(grammars, monkeypatch):
    """Each counts as what it takes at most; one that takes more than half of all is not kept, and drops no other."""
    small = [json_grammar(json.dumps({"const": number})) for number in range(5)]
    grammars.mask(small[0])
    one = grammars.cached_bytes
    assert one == size_of(small[0], FUEL[0])
    monkeypatch.setattr(engine.text.grammar, "CACHED_BYTES", 3 * one)
    for grammar in small:
        grammars.mask(grammar)
    assert (grammars.cached, grammars.cached_bytes) == (3, 3 * one)
    assert allowed(grammars.mask(json_grammar(json.dumps({"enum": ["x" * 50 + str(n) for n in range(9000)]}))))
    assert (grammars.cached, grammars.cached_bytes) == (3, 3 * one)


def test_a_hard_pattern_counts_as_more_than_a_simple_one(grammars, monkeypatch):
    """The work that a compilation needed bounds what it keeps."""
    monkeypatch.setattr(engine.text.grammar, "FUEL", (10, 20_000))
    grammar = json_grammar('{"type": "string", "pattern": "^[a-z]{1,60}-[0-9]{1,60}$"}')
    grammars.mask(grammar)
    assert grammars.cached_bytes == size_of(grammar, 20_000)


def test_the_vocabulary_has_the_tokens_as_shown(text_folder):
    """Special tokens have no text, and text is encoded to the model's own ids."""
    loaded = load_model(text_spec(text_folder), ignore)
    vocabulary = vocabulary_of(loaded)
    assert len(vocabulary.tokens) == loaded.vocab_size
    assert all(vocabulary.tokens[token] == b"" for token in vocabulary.eos_token_ids)
    ids = vocabulary.encode("hello")
    assert b"".join(vocabulary.tokens[token] for token in ids) == b"hello"


@pytest.mark.parametrize("text", ["a<|im_end|>b", "<|endoftext|>", "<tool_call>", "<|im_", "<think>"])
def test_a_schema_may_spell_a_special_token(text_folder, text):
    """As text, which is the only way in which an answer can: the token itself spells nothing."""
    vocabulary = vocabulary_of(load_model(text_spec(text_folder), ignore))
    grammars = Grammars(vocabulary, seconds=PATIENCE)
    mask, answer = grammars.mask(json_grammar(json.dumps({"enum": [text]}))), b""
    while not answer.endswith(b'"') or len(answer) < 2:
        bits = np.flatnonzero(np.unpackbits(bitmask_of(mask).view(np.uint8), bitorder="little"))
        token = int(bits[-1])
        mask.accept(token)
        assert vocabulary.tokens[token]
        answer += vocabulary.tokens[token]
    assert json.loads(answer) == text
    grammars.close()


def test_a_vocabulary_that_cannot_be_indexed_disables_only_grammars(text_folder, caplog):
    """The model starts; requests that need a grammar are rejected."""
    loaded = load_model(text_spec(text_folder), ignore)
    assert vocabulary_of(replace(loaded, eos_token_ids=frozenset({10**9}))) is None
    assert "cannot be indexed" in caplog.text


def test_the_index_is_made_before_the_model_is_ready(text_folder):
    """It delays no request and no stream."""
    vocabulary = vocabulary_of(load_model(text_spec(text_folder), ignore))
    assert vocabulary.index is not None
    grammars = Grammars(vocabulary, seconds=PATIENCE)
    assert bitmask_of(grammars.mask(json_grammar('{"const": 1}'))).any()
    grammars.close()


def test_sentencepiece_markers_are_replaced_in_the_vocabulary(vision_model):
    """A space mark is a space in a grammar too."""
    vocabulary = vocabulary_of(vision_model)
    table = vision_model.token_table
    marked = [number for number, piece in enumerate(table.pieces) if "\u2581".encode() in piece]
    assert table.cleans
    assert all(b"\xe2\x96\x81" not in vocabulary.tokens[number] for number in marked)


def test_nobody_waits_for_a_grammar_that_nobody_wants(grammars, monkeypatch):
    """A client that leaves, or a deadline, ends the wait for a compilation, which has a bound of its own."""
    gate = threading.Event()
    compile_now = grammars._compile

    def slow(grammar):
        assert gate.wait(PATIENCE)
        return compile_now(grammar)

    monkeypatch.setattr(grammars, "_compile", slow)
    left, late = Wanted(), Wanted(deadline=time.monotonic() + 0.05)
    left.cancel()
    for wanted, error in ((left, RequestAborted), (late, DeadlineExceeded)):
        with pytest.raises(error):
            grammars.mask(json_grammar('{"type": "object"}'), wanted)
    gate.set()
    assert allowed(grammars.mask(json_grammar('{"type": "object"}'), Wanted()))


def test_a_grammar_that_fails_accepts_no_end(grammars):
    """The library takes an end token in that state, but the answer is not complete."""
    mask = grammars.mask(json_grammar('{"const": true}'))
    with pytest.raises(GrammarFailed):
        mask.accept(TOKENS.index(b"x"))
    with pytest.raises(GrammarFailed):
        mask.accept(END)


def test_a_pattern_that_needs_more_fuel_in_an_answer_gets_it(grammars):
    """It compiles with less than its answers need."""
    mask = grammars.mask(json_grammar('{"type": "string", "pattern": "[0-9]{10,10}", "maxLength": 10}'))
    assert json.loads(written(mask)).isdigit()


@pytest.mark.parametrize(("grammar", "json_alone"), [(json_grammar("{}"), True), (lark_grammar('start: "a"'), False)])
def test_a_mask_tells_whether_its_answer_is_json(grammars, grammar, json_alone):
    """Only then is an answer that ends by itself checked as a whole."""
    assert grammars.mask(grammar).json is json_alone


def test_the_place_of_a_mistake_in_a_grammar_is_told():
    """Line and column, without any text of the library."""
    assert fault(lark_grammar("start: b\nb: nothing")) == "line 2, column 4"
    assert fault(lark_grammar('start: "a"')) is None


def test_a_refusal_keeps_nothing_of_the_grammar(grammars):
    """Its traceback lives until it is collected, and a matcher that has failed takes 22 MB."""
    with pytest.raises(ValidationError, match="^is too complex$") as caught:
        grammars.mask(json_grammar(json.dumps({"type": "string", "pattern": "^a{900001}$"})))
    kept = [value for frame, _ in walk_tb(caught.value.__traceback__) for value in frame.f_locals.values()]
    assert kept
    assert not [value for value in kept if isinstance(value, LLMatcher)]
