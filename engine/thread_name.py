"""Names threads for the operating system, as `top -H` and debuggers show them; Python keeps its names to itself."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

LONGEST = 15  # bytes, of the kernel


def name_this_thread(name: str) -> None:
    """Name the calling thread; nothing happens where the system has no such file."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:LONGEST])
