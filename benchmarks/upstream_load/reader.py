"""Opens many streams and tells how late their events came: `python -m benchmarks.upstream_load.reader URL MODEL ...`.

A process of its own, so that its share of the processors can be told from the server's. Once all streams are open it
measures the processor time of itself and of the processes it is given, over half of the streams' time, and prints all
of it as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

import psutil

MARK = b'"content":"w'


class Stream(asyncio.Protocol):
    """One stream. gap: seconds between two events of its rhythm, which its first event begins."""

    events = 0  # of all streams
    begun = 0

    def __init__(self, head: bytes, gap: float) -> None:
        self._head, self._gap = head, gap
        self._first = 0.0
        self.seen = 0
        self.latest = 0.0
        self.failed = ""
        self._rest = b""
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._head)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        found = data.count(MARK)
        self._rest = data[-len(MARK) + 1 :]
        if found:
            now = time.perf_counter()
            if not self._first:
                self._first = now
                Stream.begun += 1
            # The oldest of those that came together was due first.
            self.latest = max(self.latest, now - self._first - self.seen * self._gap)
            self.seen += found
            Stream.events += found
        if b"data: [DONE]" in data:
            self._end("")
        elif b'"error"' in data:
            self._end(data.decode(errors="replace"))

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"closed: {error}")

    def _end(self, failed: str) -> None:
        if not self.over.done():
            self.failed = failed
            self.over.set_result(None)


def request(url: str, model: str, key: str) -> tuple[str, int, bytes]:
    """Return host, port and the bytes of one streamed request."""
    parts = urlsplit(url)
    messages = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": model, "messages": messages, "stream": True}).encode()
    fields = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    if key:
        fields += f"Authorization: Bearer {key}\r\n"
    head = f"POST {parts.path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n"
    return parts.hostname or "", parts.port or 80, head.encode() + body


async def read(options: argparse.Namespace, watched: Mapping[str, Sequence[int]]) -> dict[str, object]:
    """Open the streams and return what was measured."""
    host, port, head = request(options.url, options.model, options.key)
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []
    for _ in range(options.streams):
        _, stream = await loop.create_connection(lambda: Stream(head, options.gap), host, port)
        streams.append(stream)
        await asyncio.sleep(options.ramp / options.streams)
    end = time.monotonic() + options.seconds / 4
    while Stream.begun < len(streams) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    before, events, at = cpu_seconds(watched), Stream.events, time.monotonic()
    await asyncio.sleep(options.seconds / 2)
    after, events, wall = cpu_seconds(watched), Stream.events - events, time.monotonic() - at
    await asyncio.wait([stream.over for stream in streams], timeout=options.seconds * 3)
    latest = sorted(stream.latest for stream in streams)
    failed = [stream.failed[:200] for stream in streams if stream.failed or not stream.over.done()]
    return {
        "streams": len(streams),
        "events": events,
        "events_a_second": events / wall,
        "cpu_ms_an_event": {name: (after[name] - before[name]) / max(1, events) * 1000 for name in after},
        "cores": {name: (after[name] - before[name]) / wall for name in after},
        "latest_s": latest[-1],
        "latest_median_s": latest[len(latest) // 2],
        "failed": len(failed),
        "failure": failed[0] if failed else None,
        "load_average": os.getloadavg()[0],
    }


def cpu_seconds(watched: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the processor time of groups of processes, in seconds."""
    return {name: sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids) for name, pids in watched.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("watched", help="JSON: pids by name")
    parser.add_argument("--key", default="")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stream")
    parser.add_argument("--gap", type=float, default=0.1)
    parser.add_argument("--ramp", type=float, default=5.0, help="seconds in which the streams are opened")
    options = parser.parse_args()
    watched = json.loads(options.watched) | {"reader": [os.getpid()]}
    print(json.dumps(asyncio.run(read(options, watched))))


if __name__ == "__main__":
    main()
