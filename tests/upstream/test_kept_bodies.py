"""What a call keeps of its request: all of it while another attempt may follow, and nothing from then on."""

from __future__ import annotations

import random
import socket
import tracemalloc
import weakref
from typing import Any

import pytest

from engine.types import ChatPrompt, EncodedImage, GenerationRequest
from tests.fake_upstream import FakeUpstream
from tests.fakes import ScriptedBackend, image_bytes
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID
from tests.upstream.test_faults import failure_of, until
from upstream.standing_in import StandingIn

MIB = 2**20
SMALL = image_bytes()
LARGE = SMALL + random.Random(1).randbytes(2 * MIB)
MESSAGE = {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image"}]}


class Image(EncodedImage):
    """One that tells when it is dropped."""


def looking(data: bytes = LARGE) -> tuple[GenerationRequest, weakref.ref[Image]]:
    """Return a request about an image, and a reference to this that does not keep it."""
    image = Image(data, 1, 1)
    return asking(prompt=ChatPrompt((MESSAGE,), (image,)), max_tokens=1000), weakref.ref(image)


def bodies(*servers: FakeUpstream) -> list[Any]:
    return [heard.body for server in servers for heard in server.heard]


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
def test_a_stream_keeps_nothing_once_the_client_has_a_part(server: FakeUpstream, opened: Open, data: bytes) -> None:
    """No attempt can follow then, however long the answer takes."""
    server.script.gap, server.script.words = 0.02, ["word "] * 3000
    backend = opened(vision=True)
    request, image = looking(data)
    generation = backend.submit(request)
    del request
    pieces = generation.pieces()
    next(pieces)
    until(lambda: image() is None)
    (call,) = backend._calls
    assert call._letter.body == b""
    assert not generation.done
    generation.abort()
    failure_of(generation)


def test_the_last_attempt_keeps_nothing_once_the_server_answers(server: FakeUpstream, opened: Open) -> None:
    """Though the client does not stream, and has nothing yet."""
    server.script.gap, server.script.words = 0.02, ["word "] * 3000
    request, image = looking()
    generation = opened(vision=True, retries=0).submit(request)
    del request
    until(lambda: image() is None)
    assert not generation.done
    generation.abort()
    failure_of(generation)


@pytest.mark.parametrize("fault", ["", "401"])
def test_an_answer_that_has_ended_keeps_nothing(server: FakeUpstream, opened: Open, fault: str) -> None:
    """While its client still waits for the others of its request."""
    server.script.always = fault
    backend = opened(vision=True, retries=1)
    request, image = looking()
    generation = backend.submit(request)
    del request
    until(lambda: generation.done)
    until(lambda: image() is None)
    assert generation.done


@pytest.mark.parametrize("fault", ["503", "half", "reset", "nonsense"])
@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
def test_another_attempt_sends_the_same(server: FakeUpstream, opened: Open, fault: str, data: bytes) -> None:
    """Also behind half an answer, of which a client that does not stream has nothing."""
    server.script.faults = [fault]
    assert opened(vision=True).submit(looking(data)[0]).result().text == SAID
    first, second = bodies(server)
    assert first == second
    assert len(first["messages"][0]["content"][1]["image_url"]["url"]) > len(data)


def test_another_server_is_sent_the_same(server: FakeUpstream, other: FakeUpstream, opened: Open) -> None:
    """Whichever of them is asked first."""
    server.script.faults, other.script.faults = ["half"], ["half"]
    backend = opened(vision=True, urls=(server.url, other.url))
    assert backend.submit(looking()[0]).result().text == SAID
    sent = bodies(server, other)
    assert len(sent) == 3
    assert sent[0] == sent[1] == sent[2]


def test_what_is_amended_has_the_same_images(server: FakeUpstream, opened: Open) -> None:
    """Only what the server has refused is left out."""
    server.script.faults, server.script.refusal = ["400"], [b"chat_template is not supported"]
    assert opened(vision=True).submit(looking()[0]).result().text == SAID
    first, second = bodies(server)
    assert {**second, "chat_template_kwargs": first["chat_template_kwargs"]} == first


def test_what_stands_in_is_given_the_images(server: FakeUpstream, opened: Open) -> None:
    """Behind the last attempt, and then they are its own."""
    server.script.always = "half"
    own = ScriptedBackend()
    own.hold = True
    elsewhere = opened(vision=True, retries=1, role="first")
    backend = StandingIn(own, elsewhere)
    request, image = looking()
    generation = backend.submit(request)
    del request
    own.wait_for(lambda backend: backend.submitted)
    assert own.only.prompt.images == (Image(LARGE, 1, 1),)
    request_id = own.only.request_id
    own.submitted.clear()
    until(lambda: image() is None)
    own.finish(request_id)
    generation.result()


def test_the_answers_of_a_request_share_its_images(opened: Open) -> None:
    """However many are being sent at once, none of them is there a second time, nor in base64."""
    number, size = 8, 8 * MIB
    prompt = ChatPrompt((MESSAGE,), (EncodedImage(SMALL + bytes(size), 1, 1),))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        backend = opened(vision=True, urls=(f"http://127.0.0.1:{listening.getsockname()[1]}/v1",))
        tracemalloc.start()
        try:
            generations = [backend.submit(asking(prompt=prompt)) for _ in range(number)]
            connections = [listening.accept()[0] for _ in generations]
            for connection in connections:  # more than the buffers hold, so that every body is being sent
                left = size // 2
                while left > 0:
                    left -= len(connection.recv(64 * 1024))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for generation in generations:
            generation.abort()
            failure_of(generation)
        for connection in connections:
            connection.close()
    assert peak < size
