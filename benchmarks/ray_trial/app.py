"""A small OpenAI-compatible application on Ray Serve, run by a Python that has `ray[serve]`:

    python app.py PORT REPLICAS WORDS GAP

Ray is started on this machine alone and stopped with this program. Each answer is a stream of WORDS words, GAP seconds
apart, the first of which names the process that writes it, as `pid123`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from typing import Any


def event(delta: dict[str, str], finish: str | None = None, **more: object) -> str:
    """Return one event of a streamed chat."""
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    shape = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "avibe", "choices": choices}
    return f"data: {json.dumps(shape | more)}\n\n"


class Replica:
    """One replica of the application."""

    def __init__(self, words: int, gap: float) -> None:
        self._words, self._gap = words, gap

    async def __call__(self, request: Any) -> Any:
        """Answer a request of Starlette's."""
        from starlette.responses import JSONResponse, StreamingResponse  # type: ignore[import-not-found]

        if request.method == "GET":
            return JSONResponse({"object": "list", "data": [{"id": "avibe", "object": "model"}]})
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        yield event({"role": "assistant", "content": f"pid{os.getpid()} "})
        for number in range(1, self._words):
            await asyncio.sleep(self._gap)
            yield event({"content": f"word{number} "})
        yield event({}, "stop")
        usage = {"prompt_tokens": 11, "completion_tokens": self._words, "total_tokens": 11 + self._words}
        yield event({}, choices=[], usage=usage)
        yield "data: [DONE]\n\n"


def main(port: str, replicas: str, words: str, gap: str) -> None:
    """Serve until the end is asked for."""
    import ray  # type: ignore[import-not-found]
    from ray import serve

    with tempfile.TemporaryDirectory(prefix="r") as folder:  # short, as the paths of sockets in it must be
        # A processor is named for each, whatever the machine has: they wait most of the time.
        ray.init(num_cpus=8, include_dashboard=False, object_store_memory=100_000_000, _temp_dir=folder)
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
        made = serve.deployment(
            num_replicas=int(replicas),
            max_ongoing_requests=256,
            ray_actor_options={"num_cpus": 0.1},
            health_check_period_s=1,
            health_check_timeout_s=10,
        )(Replica)
        serve.run(made.bind(int(words), float(gap)))
        ended.wait()
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
