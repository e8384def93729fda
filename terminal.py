"""How every command ends that somebody runs at a terminal: quietly on Ctrl+C, and where nobody reads on.

On SIGINT it unwinds as usual and exits with 130. Where its output is a pipe that was closed (`| head`), it exits with
141, the status of a program that SIGPIPE ends; SIGPIPE itself stays ignored, since it would come of sockets too.

`python -m terminal MODULE ...` is `python -m MODULE ...` of others, with Ctrl+C as above from its first import on.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys

TYPE_CHECKING = False  # as in typing, whose import takes time, in which Ctrl+C prints a traceback
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn, TextIO

INTERRUPTED = 128 + signal.SIGINT
UNREAD = 128 + signal.SIGPIPE


class Interrupted(KeyboardInterrupt, SystemExit):
    """Ctrl+C, for whoever handles that; for Python itself an exit, which prints nothing."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)
        self.code = INTERRUPTED


class Output(io.TextIOWrapper):
    """Standard output or error. No `except OSError` on the way takes its end for a failure of the command's work."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._end()

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._end()

    def _end(self) -> NoReturn:
        """What is left goes nowhere, so that Python does not fail once more at its exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        raise SystemExit(UNREAD) from None


def end_quietly() -> None:
    """Have this process end as described above; for programs only, before they import anything that takes time."""
    exit_on_interrupt()
    sys.stdout, sys.stderr = _watched(sys.stdout), _watched(sys.stderr)
    atexit.register(_flush)


def exit_on_interrupt() -> None:
    """Have Ctrl+C raise Interrupted, unless somebody handles it already, or it is ignored, as in the background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def end_commands_quietly() -> None:
    """For the `__init__.py` of a package of commands: as `end_quietly`, if `python -m PACKAGE.NAME` is what runs here.

    That module has imported nothing yet then: `sys.argv[0]` is `-m` until Python has found it.
    """
    if sys.argv[:1] == ["-m"]:
        end_quietly()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted


def _watched(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # None, if the descriptor was closed from the start
        return stream
    lines, through = stream.line_buffering, stream.write_through
    return Output(stream.buffer, stream.encoding, stream.errors, line_buffering=lines, write_through=through)


def _flush() -> None:
    """Write what is left before Python does, which would complain of a closed pipe."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except SystemExit:
            pass


if __name__ == "__main__":
    exit_on_interrupt()
    import runpy

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
