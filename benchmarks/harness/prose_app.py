"""The service for `page_shift`, with models that write a text with all that Markdown has, a word at a time."""

from __future__ import annotations

import itertools
import re
import threading
import time

from app_production import create_app
from benchmarks.harness.page_app import StampingBackend
from config import settings_or_exit
from engine.backend import Generation
from engine.types import BackendStats, Completion, GenerationRequest, Piece, QueuePosition, Timings
from models import ModelSet

SECONDS_A_WORD = 0.01
QUEUED = 1.5  # seconds, in which a reader sees the queue
PROSE = """# A red bicycle

For sale: a **red bicycle** of a grown-up rider, with lights and a bell. It has stood in a dry cellar since autumn.

- frame: steel, 54 cm
- wheels: 28 inches
- brakes: new in spring

| part | condition | years |
|---|---|---|
| saddle | a scratch on the left side | 2 |
| chain | new, oiled | 0 |

```
price = 12000
delivery = "by agreement"
```

> It drives as on the first day.

Come and see it, or write: I answer in the evening. """


class ProseBackend(StampingBackend):
    """Makes each request wait for a moment, and then writes as many words as it wants tokens."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.waiting = 0

    def submit(self, request: GenerationRequest) -> Generation:
        stopped = threading.Event()
        deadline = time.monotonic() + request.timeout
        generation = Generation(request.request_id, 1, deadline, stopped.set, queue_position=self._position)
        arguments = (generation, request.sampling.max_tokens, stopped)
        threading.Thread(target=self._write, args=arguments, daemon=True).start()
        return generation

    def stats(self) -> BackendStats:
        return BackendStats(num_requests_waiting=self.waiting)

    def _position(self) -> QueuePosition | None:
        return QueuePosition(self.waiting, QUEUED) if self.waiting else None

    def _write(self, generation: Generation, tokens: int, stopped: threading.Event) -> None:
        self.waiting += 1
        stopped.wait(QUEUED)
        self.waiting -= 1
        words = itertools.islice(itertools.cycle(re.findall(r"\S+\s*", PROSE)), tokens)
        for word in words:
            if stopped.wait(SECONDS_A_WORD):
                break
            generation.push(Piece(word, (1,)))
        seconds = QUEUED + tokens * SECONDS_A_WORD
        generation.finish(Completion("", "stop", 1, tokens, Timings(QUEUED, QUEUED + SECONDS_A_WORD, seconds)))


app = create_app(settings_or_exit(), ModelSet({name: ProseBackend(name) for name in ("avibe", "avision")}))
