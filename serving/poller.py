"""The selector of the polling thread: what waits in it is added and removed with the interpreter lock kept."""

from __future__ import annotations

import ctypes
import os
import select
import selectors
import struct
import sys

from engine.quick_calls import checked, libc

if sys.platform == "linux":
    ADD, REMOVE = 1, 2  # epoll_ctl(2)
    libc.epoll_ctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_char_p)
    # The structure is packed on x86-64 alone.
    EVENT = "=IQ" if os.uname().machine == "x86_64" else "@IQ"

    class _Epoll:
        """The part of `select.epoll` that `selectors` uses."""

        def __init__(self) -> None:
            epoll = select.epoll()
            self._descriptor = epoll.fileno()
            self.fileno, self.poll, self.modify, self.close = epoll.fileno, epoll.poll, epoll.modify, epoll.close

        def register(self, descriptor: int, events: int) -> None:
            checked(libc.epoll_ctl(self._descriptor, ADD, descriptor, struct.pack(EVENT, events, descriptor)))

        def unregister(self, descriptor: int) -> None:
            checked(libc.epoll_ctl(self._descriptor, REMOVE, descriptor, None))

    class Selector(selectors.EpollSelector):
        """An `EpollSelector` over it."""

        _selector_cls = _Epoll  # of all selectors of the standard library that poll

else:  # pragma: no cover
    Selector = selectors.DefaultSelector
