"""Python's cyclic garbage collector, kept from pausing a process that has imported and loaded a lot.

A full collection visits every container of the process with the interpreter lock held. Hundreds of thousands come from
the imports and the models and are never garbage; a request with many values is enough to start one, and all streams
and probes wait for its end.
"""

from __future__ import annotations

import gc
import logging

log = logging.getLogger("avito_ai.serving")


def exempt_existing_objects() -> None:
    """Collect once, then exempt what is left from all later collections; for the moment before the first request."""
    gc.collect()
    gc.freeze()
    log.debug("%d objects are exempt from garbage collection.", gc.get_freeze_count())
