"""A process that tries grammars of strangers, and nothing else: where the library does not end, it is killed.

`python -m engine.text.grammar_worker SOCKET MEMORY_BYTES` serves jobs on an inherited socket, one at a time;
`engine.text.grammar_trials` is its other end. A grammar is compiled as for a model, but over the 256 bytes in place of
a vocabulary: what a compilation may fail to finish does not depend on the tokens.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take a while: Ctrl+C is for the service to handle
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

import socket
import struct
import sys

from llguidance import LLMatcher

from engine.text.grammar_limits import FUEL, TOO_COMPLEX, TRIED_ANSWERS, TRIED_TOKENS, fault, limits_of, reason
from engine.text.schema.probe import byte_tokenizer, take_token
from engine.text.worker_process import receive, serve

LENGTH = struct.Struct("!I")  # of the grammar that follows, in bytes of UTF-8
DONE = b"D"


def work(jobs: socket.socket) -> None:
    """Try one grammar after another until the other end is closed."""
    while head := receive(jobs, LENGTH.size):
        try_grammar(receive(jobs, *LENGTH.unpack(head)).decode())
        jobs.sendall(DONE)


def try_grammar(grammar: str) -> None:
    """Do whatever the service does with a new grammar: compile it, start a few answers, look for a mistake."""
    for fuel in FUEL:
        matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=limits_of(fuel))
        if not matcher.is_error():
            for share in TRIED_ANSWERS:
                _start(matcher.deep_copy(), share)
            if not matcher.is_error():
                return
        elif reason(matcher.get_error()) != TOO_COMPLEX:
            break
    fault(grammar)


def _start(matcher: LLMatcher, share: float) -> None:
    for _ in range(TRIED_TOKENS):
        if matcher.is_error() or matcher.is_stopped():
            return
        take_token(matcher, share)


def main(descriptor: int, memory_bytes: int) -> None:
    """Serve on an inherited socket."""
    serve(descriptor, memory_bytes, work)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
