"""Work for a request before it is queued: it ends with the wish for it, at its deadline, and leaves nothing behind."""

import sys
import threading
import time
from dataclasses import replace
from functools import partial

import pytest

from engine.admission import PREPARED
from engine.errors import DeadlineExceeded, RequestAborted
from engine.llm_engine import LLMEngine
from engine.text.image_workers import ImageWorkers
from engine.text.processor import ImagePreparer, load_processor
from engine.text.prompt import PromptPreparer
from engine.types import Cancellation, EngineConfig, GenerationRequest, SamplingParams
from tests.checkpoints import vision_spec
from tests.engine.driver import chat
from tests.engine.scripted_runner import ScriptedRunner
from tests.fakes import PATIENCE

# A process that says it is ready and answers no job that holds the letters "slow"; any other one with four pixels.
SCRIPTED = """
import socket, struct, sys, time
s = socket.socket(fileno=int(sys.argv[1])).makefile("rwb", buffering=0)
s.write(b"R")
while head := s.read(struct.calcsize("!QIQQB")):
    size, left, data = struct.unpack("!QIQQB", head)[0], 0, b""
    while len(data) < size:
        data += s.read(size - len(data))
    if b"slow" in data:
        time.sleep(1e6)
    s.write(struct.pack("!BII", 1, 28, 28) + bytes(3 * 28 * 28))
"""


@pytest.fixture
def workers():
    """A pool of one process that follows the script."""
    pool = ImageWorkers(1, command=[sys.executable, "-S", "-c", SCRIPTED, "{socket}"])
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def engine(vision_model, vision_folder, workers):
    """An engine that decodes with that pool."""
    runner = ScriptedRunner()
    runner.token = 200
    images = ImagePreparer(load_processor(vision_folder), 512, workers)
    old = vision_model.preparer
    preparer = PromptPreparer(old._tokenizer, old._vocab_size, old._template, images)
    loaded = replace(vision_model, preparer=preparer)
    config = EngineConfig(max_num_seqs=4, max_waiting=4, cpu_threads=1)
    engine = LLMEngine(vision_spec(vision_folder), config, lambda *_: loaded, lambda *args, **kwargs: runner)
    engine.start()
    yield engine
    engine.stop(0.0)


def about(image, cancellation=None, wait=PATIENCE, request_id="r"):
    """A greedy question about an image."""
    sampling, cancellation = SamplingParams(4, temperature=0.0), cancellation or Cancellation()
    return GenerationRequest(
        request_id, chat("?", image), sampling, queue_timeout=wait, timeout=PATIENCE, cancellation=cancellation
    )


def slow(make_image):
    image = make_image(28, 28)
    return replace(image, data=image.data + b"slow")


def in_thread(call):
    """Run a call in a thread; return the thread and the list that its error is put into."""
    errors = []

    def run():
        try:
            call()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def busy(workers):
    pause, until = threading.Event(), time.monotonic() + PATIENCE
    while not workers._busy:
        assert time.monotonic() < until
        pause.wait(0.002)


def test_a_client_that_leaves_ends_the_decoding(engine, workers, make_image):
    """The process is killed, the place is free, and the next request is answered."""
    cancellation, before = Cancellation(), workers.pids
    thread, errors = in_thread(partial(engine.submit, about(slow(make_image), cancellation)))
    busy(workers)
    assert engine.stats().num_requests_waiting == 1
    cancellation.cancel()
    thread.join(PATIENCE)
    assert isinstance(errors[0], RequestAborted)
    assert (engine.stats().num_requests_waiting, workers.restarts) == (0, 1)
    assert workers.pids != before
    assert engine.submit(about(make_image(28, 28))).result().output_tokens == 4


def test_a_client_that_leaves_ends_the_wait_for_a_process(engine, workers, make_image):
    """The one that decodes goes on."""
    first, second = Cancellation(), Cancellation()
    decoding, errors = in_thread(partial(engine.submit, about(slow(make_image), first)))
    busy(workers)
    waiting, left = in_thread(partial(engine.submit, about(make_image(28, 28), second)))
    second.cancel()
    waiting.join(PATIENCE)
    assert isinstance(left[0], RequestAborted)
    assert (errors, workers.restarts, engine.stats().num_requests_waiting) == ([], 0, 1)
    first.cancel()
    decoding.join(PATIENCE)


def test_a_deadline_ends_the_decoding(engine, workers, make_image):
    """What has not begun by then is not finished for nobody."""
    with pytest.raises(DeadlineExceeded):
        engine.submit(about(slow(make_image), wait=0.2))
    assert (engine.stats().num_requests_waiting, workers.restarts) == (0, 1)
    assert engine.submit(about(make_image(28, 28))).result().output_tokens == 4


def test_what_was_cancelled_before_is_not_begun(engine, workers, make_image):
    """Of several answers to one request, those that are left are not prepared."""
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(RequestAborted):
        engine.submit(about(make_image(28, 28), cancellation))
    assert (engine.stats().num_requests_waiting, workers.restarts) == (0, 0)


def test_a_lack_of_memory_leaves_nothing_behind(engine, workers, make_image, monkeypatch):
    """It is told as it is, and the next request is answered."""

    def fail(*args):
        raise MemoryError

    for owner, name in ((workers, "decode"), (ImagePreparer, "_split"), (PromptPreparer, "_message")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            with pytest.raises(MemoryError):
                engine.submit(about(make_image(28, 28)))
        assert engine.stats().num_requests_waiting == 0
    assert engine.submit(about(make_image(28, 28))).result().output_tokens == 4


def test_a_cancellation_tells_all_that_listen_once():
    """Those that came later are told at once, those that are through are not."""
    cancellation, told = Cancellation(), []
    with cancellation.notifying(lambda: told.append("through")):
        pass
    with cancellation.notifying(lambda: told.append("waiting")):
        cancellation.cancel()
        cancellation.cancel()
    with cancellation.notifying(lambda: told.append("later")):
        assert told == ["waiting", "later"]
    assert cancellation.cancelled


def test_a_prepared_request_does_not_keep_its_prompt(engine, make_image):
    """The encoded image, and the texts of a conversation, go once the model's input is there."""
    seen = []
    put = engine._room.put
    engine._room.put = lambda sequence, *rest: (seen.append(sequence), put(sequence, *rest))
    engine.submit(about(make_image(28, 28))).result()
    assert seen[0].request.prompt == PREPARED
    assert seen[0].request.request_id == "r"
