"""The threads of the service share a few heaps, and what is free in these goes back to the system."""

import platform
import subprocess
import sys
import threading

import pytest

from serving.allocator import ARENAS, FreePages

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other heaps")

HEAPS = """
import ctypes, sys, threading
from serving.allocator import set_up_heaps

if sys.argv[1] == "shared":
    set_up_heaps()
libc, all_there, counted = ctypes.CDLL(None), threading.Barrier(33), threading.Event()
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def take():
    block = libc.malloc(50_000)
    all_there.wait(60)
    counted.wait(60)
    libc.free(block)

threads = [threading.Thread(target=take) for _ in range(32)]
for thread in threads:
    thread.start()
all_there.wait(60)
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
counted.set()
print(open(sys.argv[2]).read().count("<heap nr="))
"""


FREED = """
import ctypes, re
from serving.allocator import return_free_pages

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

blocks = [libc.malloc(size) for _ in range(500) for size in (60_000, 100)]
for block in blocks[::2]:
    libc.memset(block, 1, 60_000)
full = resident()
for block in blocks[::2]:
    libc.free(block)
return_free_pages()
print(full - resident())
"""


@glibc
def test_many_threads_share_a_few_heaps(tmp_path):
    """As many as they are; otherwise there are more."""
    heaps = {}
    for how in ("shared", "own"):
        command = [sys.executable, "-c", HEAPS, how, str(tmp_path / how)]
        heaps[how] = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert heaps["shared"] <= ARENAS < heaps["own"]


MAPPED = """
import ctypes, sys
from serving.allocator import MAPPED_BYTES, set_up_heaps

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

if sys.argv[1] == "set":
    set_up_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.mallinfo2.restype = Info
for _ in range(3):
    libc.free(libc.malloc(3 * MAPPED_BYTES))
before = libc.mallinfo2().hblks
block = libc.malloc(2 * MAPPED_BYTES)
print(libc.mallinfo2().hblks - before)
"""


@glibc
def test_large_blocks_lie_in_no_heap():
    """Also once larger ones have been freed; the C library by itself then has them in its heaps."""
    mapped = {}
    for how in ("set", "unset"):
        command = [sys.executable, "-c", MAPPED, how]
        mapped[how] = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert mapped == {"set": 1, "unset": 0}


@pytest.mark.linux
@glibc
def test_pages_between_blocks_in_use_are_returned():
    """30 MB that were freed below small blocks that are kept, of which the C library by itself mostly keeps all."""
    command = [sys.executable, "-c", FREED]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout) > 20_000_000


def test_free_memory_is_returned_again_and_again():
    """By a thread of its own, until it is ended."""
    times = threading.Semaphore(0)
    returning = FreePages(0.001, times.release)
    returning.start()
    for _ in range(3):
        assert times.acquire(timeout=60)
    returning.end()
    assert not returning.is_alive()
