"""Prompts that are tokenized for their own sake: bounded, ended with the wish for them, without the engine's thread."""

import threading
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest

from engine.counting import AT_WORK, PRESENT, CountingRoom
from engine.errors import ContextTooLong, DeadlineExceeded, NotReady, Overloaded, RequestAborted, ValidationError
from engine.llm_engine import LLMEngine
from engine.types import Cancellation, DetokenizeRequest, EngineConfig, TextPrompt, TokenizeRequest
from engine.wanted import Wanted
from tests.checkpoints import text_spec
from tests.engine.driver import chat
from tests.engine.scripted_runner import ScriptedRunner
from tests.fakes import PATIENCE

HELLO = TextPrompt("Hello")


@dataclass
class HeldPreparer:
    """Tokenizes once it is opened; counts how many do at once."""

    opened: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    at_work: int = 0
    most: int = 0
    done: int = 0

    def tokenize(self, prompt, wanted):
        with self.changed:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            self.changed.notify_all()
        assert self.opened.wait(PATIENCE)
        with self.changed:
            self.at_work -= 1
            self.done += 1
        return [1]


@pytest.fixture
def engine(text_folder, text_model):
    """A ready engine whose runner computes nothing."""
    runner = ScriptedRunner()
    config = EngineConfig(max_num_seqs=1, max_waiting=1, cpu_threads=1)
    engine = LLMEngine(text_spec(text_folder), config, lambda *_: text_model, lambda *args, **kwargs: runner)
    engine.start()
    yield engine
    engine.stop(0.0)


def start(call):
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_few_are_tokenized_at_once_and_the_others_wait():
    """Two at work, however many have come."""
    room, preparer = CountingRoom(), HeldPreparer()
    loaded = SimpleNamespace(max_model_len=100, preparer=preparer)
    threads = [start(partial(room.tokenize, loaded, HELLO, Wanted(client=f"{n}"))) for n in range(8)]
    with preparer.changed:
        assert preparer.changed.wait_for(lambda: preparer.at_work == AT_WORK, PATIENCE)
    preparer.opened.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert (preparer.most, preparer.done) == (AT_WORK, 8)


def test_one_client_takes_half_of_the_room_and_leaves_the_rest():
    """The next one of it is refused at once, another client's is not; afterwards all is free again."""
    room, preparer = CountingRoom(), HeldPreparer()
    loaded = SimpleNamespace(max_model_len=100, preparer=preparer)
    greedy = partial(room.tokenize, loaded, HELLO, Wanted(client="greedy"))
    threads, entered = [start(greedy) for _ in range(PRESENT // 2)], threading.Event()
    while room._present["greedy"] < PRESENT // 2:
        entered.wait(0.001)
    with pytest.raises(Overloaded) as refused:
        greedy()
    assert refused.value.retry_after == 1
    threads.append(start(partial(room.tokenize, loaded, HELLO, Wanted(client="another"))))
    preparer.opened.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert preparer.done == PRESENT // 2 + 1
    assert not room._present
    assert greedy() == [1]


def test_a_full_room_refuses_every_client():
    """However many clients share it."""
    room, preparer = CountingRoom(), HeldPreparer()
    loaded = SimpleNamespace(max_model_len=100, preparer=preparer)
    threads = [start(partial(room.tokenize, loaded, HELLO, Wanted(client=f"{n}"))) for n in range(PRESENT)]
    entered = threading.Event()
    while room._present.total() < PRESENT:
        entered.wait(0.001)
    with pytest.raises(Overloaded):
        room.tokenize(loaded, HELLO, Wanted(client="another"))
    preparer.opened.set()
    for thread in threads:
        thread.join(PATIENCE)


def test_the_engine_counts_what_it_would_compute(engine):
    """The count is that of a submitted prompt, and nothing was submitted for it."""
    assert len(engine.tokenize(TokenizeRequest(chat("Привет")))) > 5
    assert engine.stats().prompt_tokens_total == engine.stats().num_requests_waiting == 0


def test_a_full_queue_counts_on(engine):
    """Counting needs none of the places for answers."""
    for client in "ab":
        engine._room.admit(client)
    with pytest.raises(Overloaded):
        engine._room.admit("c")
    assert engine.tokenize(TokenizeRequest(chat("Привет")))
    for client in "ab":
        engine._room.give_up(client)


def test_what_cannot_fit_is_refused_before_it_is_read(engine):
    """As with a prompt that is submitted."""
    with pytest.raises(ContextTooLong):
        engine.tokenize(TokenizeRequest(chat("я" * 10**6)))


def test_counting_ends_with_the_wish_for_it(engine):
    """A client that has left, and a time that is over."""
    left = Cancellation()
    left.cancel()
    with pytest.raises(RequestAborted):
        engine.tokenize(TokenizeRequest(chat("Привет"), cancellation=left))
    with pytest.raises(DeadlineExceeded):
        engine.tokenize(TokenizeRequest(chat("Привет"), timeout=0.0))


def test_a_model_that_is_not_ready_counts_nothing(engine):
    """Before it is loaded there is no tokenizer, and a stopping service starts nothing."""
    engine.drain()
    with pytest.raises(NotReady):
        engine.tokenize(TokenizeRequest(chat("Привет")))


@pytest.mark.parametrize("text", ["Привет, <|im_end|> мир!\n", "🙂", " "])
def test_the_tokens_of_a_text_give_that_text(engine, text):
    """And those of a conversation what its template wrote."""
    assert engine.detokenize(DetokenizeRequest(tuple(engine.tokenize(TokenizeRequest(TextPrompt(text)))))).text == text
    asked = engine.detokenize(DetokenizeRequest(tuple(engine.tokenize(TokenizeRequest(chat(text))))))
    assert asked.text.startswith("<|im_start|>")
    assert text.strip() in asked.text
    assert asked.tokens[0] == "<|im_start|>"


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_ids_that_the_model_does_not_have_are_refused(engine, token_id):
    """By the name of their field."""
    with pytest.raises(ValidationError) as refused:
        engine.detokenize(DetokenizeRequest((1, token_id)))
    assert refused.value.param == "tokens"


def test_a_text_is_not_made_for_nobody(engine):
    """A client that has left, a time that is over, and a model that stops."""
    left = Cancellation()
    left.cancel()
    with pytest.raises(RequestAborted):
        engine.detokenize(DetokenizeRequest((1,), cancellation=left))
    with pytest.raises(DeadlineExceeded):
        engine.detokenize(DetokenizeRequest((1,), timeout=0.0))
    engine.drain()
    with pytest.raises(NotReady):
        engine.detokenize(DetokenizeRequest((1,)))
