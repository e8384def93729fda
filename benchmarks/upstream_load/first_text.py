"""A client that asks again and again over one connection, and times the first text of each streamed answer."""

from __future__ import annotations

import asyncio
import time

from benchmarks.upstream_load.reader import MARK, request

END = b"0\r\n\r\n"


class Client:
    """One connection, opened by its first request and kept where the server keeps it."""

    def __init__(self, url: str, model: str, key: str) -> None:
        self._host, self._port, asked = request(url, model, key)
        self._asked = asked.replace(b"Connection: close\r\n", b"")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, wait: float) -> float:
        """Ask after some seconds; return the seconds to the first text. Raises SystemExit for what is no answer."""
        await asyncio.sleep(wait)
        if self._streams is None or self._streams[0].at_eof():  # some servers close what is silent for seconds
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        began, data, first = time.perf_counter(), b"", 0.0
        writer.write(self._asked)
        while not data.endswith(END):
            came = await reader.read(1 << 16)
            if not came:
                raise SystemExit(f"no answer: {data[:500]!r}")
            data += came
            if not first and MARK in data:
                first = time.perf_counter() - began
            if b"\r\n\r\n" in data and not data.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"refused: {data[:500]!r}")
        if not first:
            raise SystemExit(f"an answer without a text: {data[-500:]!r}")
        return first
