"""The threads of the service share a few heaps, so that each does not keep what its largest request took."""

import platform
import subprocess
import sys

import pytest

from serving.allocator import ARENAS

HEAPS = """
import ctypes, sys, threading
from serving.allocator import share_heaps

if sys.argv[1] == "shared":
    share_heaps()
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other heaps")
def test_many_threads_share_a_few_heaps(tmp_path):
    """As many as they are; otherwise there are more."""
    heaps = {}
    for how in ("shared", "own"):
        command = [sys.executable, "-c", HEAPS, how, str(tmp_path / how)]
        heaps[how] = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert heaps["shared"] <= ARENAS < heaps["own"]
