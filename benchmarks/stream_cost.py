"""Measure the server's CPU time per event of a stream, in microseconds.

    python -m benchmarks.stream_cost [--events N] [--rounds N] [--results FOLDER]

A scripted backend answers POST /v1/chat/completions with N pieces, which are written as Gunicorn writes them, to a
socket that another process reads. `building` creates the events of a text only, `arguments` and `reasoning` those of
texts that are parsed, and `messages` those of arguments at POST /v1/messages; `writing` sends the events of a text
through Gunicorn's chunked encoding only; `both` does both. In `waking` a second thread produces one piece at a time and
waits until its event is written, which adds two thread switches.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gunicorn.util import write_chunk

from app_production import create_app
from benchmarks.harness import record
from benchmarks.harness.targets import exit_status, judged
from config import load_settings
from models import ModelSet
from routes.anthropic import messages
from routes.anthropic.requests import MessagesRequest
from routes.chat.task import ChatRun
from routes.openai import chat
from routes.openai.requests import ChatRequest
from routes.sse import EventStream
from serving.connection import ClientSocket
from tests.fakes import FakeMachine, ScriptedBackend

TEXT = " объявление"
TOOL = {"type": "function", "function": {"name": "look"}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "'
TARGET_US = 5.0  # to build an event of any kind
PACKAGES = ("flask", "gunicorn")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the results and return 1 if building an event takes longer than the target."""
    options = _options(argv)
    costs: dict[str, list[float]] = {name: [] for name in MEASURES}
    for _ in range(options.rounds):
        for name, measure in MEASURES.items():
            costs[name].append(measure(options.events) / options.events * 1e6)
    medians = {name: statistics.median(values) for name, values in costs.items()}
    rows = [[name, f"{medians[name]:.1f}", f"{min(costs[name]):.1f}"] for name in MEASURES]
    table = record.table(["microseconds per event", "median of rounds", "best round"], rows)
    most = max(medians[name] for name in BUILT)
    verdict = judged(f"at most {TARGET_US:g} us to build an event", most <= TARGET_US, f"{most:.1f} us at most")
    tables = [table, str(verdict)]
    print("\n\n".join(tables))
    if options.results:
        facts, title = record.facts(PACKAGES), "What an event of a stream costs"
        record.write("stream_cost", facts, {"costs_us": costs}, title, tables, options.results)
    return exit_status([verdict.word])


def _building(events: int) -> float:
    with _stream(events) as stream:
        return _timed(lambda: [None for _ in stream])


def _arguments(events: int) -> float:
    with _stream(events, begin=CALL, asked={"tools": [TOOL]}) as stream:
        return _timed(lambda: [None for _ in stream])


def _reasoning(events: int) -> float:
    with _stream(events, begin="<think>", asked={"reasoning_effort": "high"}) as stream:
        return _timed(lambda: [None for _ in stream])


def _messages(events: int) -> float:
    tool = {"name": "look", "input_schema": {"type": "object"}}
    asked = {"max_tokens": events, "tools": [tool]}
    with _stream(events, begin=CALL, asked=asked, submit=_submit_message) as stream:
        return _timed(lambda: [None for _ in stream])


def _writing(events: int) -> float:
    with _stream(events) as stream, _client() as sock:
        data = list(stream)
        return _timed(lambda: _write(sock, data))


def _both(events: int) -> float:
    with _stream(events) as stream, _client() as sock:
        return _timed(lambda: _write(sock, stream))


def _waking(events: int) -> float:
    backend = ScriptedBackend("avibe")
    backend.hold = True
    written = threading.Semaphore(0)

    def produce() -> None:
        backend.wait_for(lambda one: one.submitted)
        for _ in range(events):
            backend.push("event", TEXT)
            written.acquire()
        backend.finish("event")

    with _stream(0, backend) as stream, _client() as sock:
        threading.Thread(target=produce).start()
        return _timed(lambda: _write(sock, stream, written.release))


MEASURES: dict[str, Callable[[int], float]] = {
    "building": _building,
    "arguments": _arguments,
    "reasoning": _reasoning,
    "messages": _messages,
    "writing": _writing,
    "both": _both,
    "waking": _waking,
}
BUILT = ("building", "arguments", "reasoning", "messages")


def _submit_chat(body: dict[str, Any]) -> tuple[ChatRun, Iterator[bytes]]:
    submitted, response = chat.submit_chat(ChatRequest.model_validate(body))
    return submitted, response.events()


def _submit_message(body: dict[str, Any]) -> tuple[ChatRun, Iterator[bytes]]:
    submitted, response = messages.submit_message(MessagesRequest.model_validate(body))
    return submitted, response.events()


@contextmanager
def _stream(
    events: int,
    backend: ScriptedBackend | None = None,
    begin: str = "",
    asked: dict[str, Any] | None = None,
    submit: Callable[[dict[str, Any]], tuple[ChatRun, Iterator[bytes]]] = _submit_chat,
) -> Iterator[Iterable[bytes]]:
    """Yield the events of one answer; without a given backend all its pieces are ready, behind `begin`."""
    ready = backend is None
    backend = backend or ScriptedBackend("avibe")
    backend.hold = True
    off = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "LOG_LEVEL": "WARNING"}
    app = create_app(load_settings(off, None), ModelSet({"avibe": backend}), FakeMachine())
    body = {"model": "avibe", "stream": True, "messages": [{"role": "user", "content": "Hello"}]} | (asked or {})
    with app.test_request_context(headers={"X-Request-ID": "event"}, method="POST"):
        app.preprocess_request()
        submitted, sent = submit(body)
    if ready:
        backend.push("event", begin)
        for _ in range(events):
            backend.push("event", TEXT)
        backend.finish("event")
    stream = EventStream(sent, submitted.run.close)
    yield stream
    stream.close()


@contextmanager
def _client() -> Iterator[ClientSocket]:
    """Yield the server's socket to a client in another process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reader = subprocess.Popen([sys.executable, "-c", READER, str(port)])
        accepted, _ = server.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = ClientSocket(accepted, 30.0)
        client.setblocking(True)
        yield client
        client.close()
        reader.wait()


READER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    while sock.recv(1 << 20): pass
"""


def _write(sock: ClientSocket, events: Iterable[bytes], after: Callable[[], object] = lambda: None) -> None:
    for event in events:
        write_chunk(sock, event)
        after()


def _timed(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the work, of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="folder for stream_cost.json and stream_cost.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os.environ.setdefault("ENV_FILE", os.devnull)
    sys.exit(main())
