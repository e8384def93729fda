"""The C library's memory allocator, set for a process of many threads that take large bodies and give them back."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable

# glibc gives threads heaps of their own, up to eight for each core, and each keeps what was freed in it: memory grows
# with the number of threads that ever held a large body or image. Threads that share one lock anyway need no more.
M_ARENA_MAX = -8
ARENAS = 2
# Larger blocks are mapped by themselves and unmapped when they are freed. glibc raises that limit to the largest block
# that was freed yet; the arrays of an image then lie in a heap, where small blocks that stay are put between them and
# keep their pages. Each such block costs its page faults: 5% of the time of a prefill of 512 tokens on a CPU.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
MAPPED_BYTES = 4 * 1024 * 1024
# What is freed below a block that is still in use stays with the process until it is asked for, so every peak leaves
# its free pages behind. Each return visits all free blocks of a heap while threads that need that heap wait, so it is
# done often enough that there are few.
RETURN_SECONDS = 20.0


def set_up_heaps() -> None:
    """Let all threads share a few heaps, and have large blocks in none of them.

    Before threads are started; harmless where the C library is another one.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * MAPPED_BYTES)


def return_free_pages() -> None:
    """Return free memory to the system, wherever in the heaps it lies; other threads run meanwhile."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class FreePages(threading.Thread):
    """Returns free memory every `interval` seconds until `end`. give_back: what does so."""

    def __init__(self, interval: float = RETURN_SECONDS, give_back: Callable[[], None] = return_free_pages) -> None:
        super().__init__(name="free-pages", daemon=True)
        self._interval, self._give_back = interval, give_back
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._interval):
            self._give_back()

    def end(self) -> None:
        """Return nothing any more, and wait for the end of the thread."""
        self._ended.set()
        self.join()
