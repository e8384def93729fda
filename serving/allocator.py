"""The C library's memory allocator, set for a process of many threads that take large bodies and give them back."""

from __future__ import annotations

import contextlib
import ctypes

# glibc gives threads heaps of their own, up to eight for each core, and each keeps what was freed in it: memory grows
# with the number of threads that ever held a large body or image. Threads that share one lock anyway need no more.
M_ARENA_MAX = -8
ARENAS = 2


def share_heaps() -> None:
    """Let all threads share a few heaps; before they are started, and harmless where the C library is another one."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
