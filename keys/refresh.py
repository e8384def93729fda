"""The threads that keep what is known of keys, tokens and secrets up to date."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Sequence

log = logging.getLogger("avito_ai.keys")

REFRESH_SECONDS = 0.5


def begin_refreshing(
    calls: Sequence[Callable[[], None]], pause: Callable[[float], bool] | None = None, name: str = "keys"
) -> threading.Thread:
    """Call each again and again in a thread; return it. pause: waits so many seconds; if it returns True, it ends."""
    thread = threading.Thread(target=_run, args=(calls, pause or threading.Event().wait), name=name, daemon=True)
    thread.start()
    return thread


def _run(calls: Sequence[Callable[[], None]], pause: Callable[[float], bool]) -> None:
    while not pause(REFRESH_SECONDS):
        for call in calls:
            try:
                call()
            except Exception as error:  # the thread must live: without it no key could be disabled
                log.error("Unexpected %s:\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
