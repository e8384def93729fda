"""A process that tries grammars and rewrites schemas of strangers, and nothing else: what does not end is killed.

`python -m engine.text.grammar_worker SOCKET MEMORY_BYTES` serves jobs on an inherited socket, one at a time;
`engine.text.grammar_trials` is its other end. A grammar is compiled as for a model, but over the 256 bytes in place of
a vocabulary: what a compilation may fail to finish does not depend on the tokens, nor does what exceeds its limits.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take a while: Ctrl+C is for the service to handle
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

import socket
import struct
import sys
import threading

from llguidance import LLMatcher

from engine.text.grammar_limits import (
    BEYOND_LIMITS,
    FUEL,
    TRIAL_STACK,
    TRIED_ANSWERS,
    TRIED_TOKENS,
    fault,
    limits_of,
)
from engine.text.schema.elsewhere import job_of, outcome_of, packed
from engine.text.schema.probe import byte_tokenizer, take_token
from engine.text.worker_process import receive, serve

HEAD = struct.Struct("!cI")  # what is to be done, and the length in bytes of what follows
LENGTH = struct.Struct("!I")  # of the answer that follows, in bytes
TRY, REWRITE = b"T", b"R"  # a grammar in UTF-8; a packed job, which has a packed outcome
TAKEN, REFUSED = b"", b"R"  # the answer to a grammar: whether it exceeds the limits of a compilation


def work(jobs: socket.socket) -> None:
    """Do one job after another until the other end is closed."""
    while head := receive(jobs, HEAD.size):
        what, size = HEAD.unpack(head)
        data = receive(jobs, size)
        if what == REWRITE:
            answer = rewritten(data)
        else:
            answer = TAKEN if try_grammar(data.decode()) else REFUSED
        jobs.sendall(LENGTH.pack(len(answer)) + answer)


def work_in_thread(jobs: socket.socket) -> None:
    """Do the same with TRIAL_STACK: what overflows it ends this process, and could not overflow the service's."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(jobs)
        except BaseException as error:
            failed.append(error)

    threading.stack_size(TRIAL_STACK)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def rewritten(job: bytes) -> bytes:
    """Do a packed job of a schema; return its packed outcome."""
    return packed(outcome_of(job_of(job)))


def try_grammar(grammar: str) -> bool:
    """Do whatever the service does with a new grammar: compile it, start a few answers, look for a mistake.

    Returns whether its compilation keeps within the limits. It may be refused for something else.
    """
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=limits_of(FUEL[-1], grammar))
    if not matcher.is_error():
        for share in TRIED_ANSWERS:
            _start(matcher.deep_copy(), share)
    elif matcher.get_error().startswith(BEYOND_LIMITS):
        return False
    else:
        fault(grammar)
    return True


def _start(matcher: LLMatcher, share: float) -> None:
    for _ in range(TRIED_TOKENS):
        if matcher.is_error() or matcher.is_stopped():
            return
        take_token(matcher, share)


def main(descriptor: int, memory_bytes: int) -> None:
    """Serve on an inherited socket."""
    serve(descriptor, memory_bytes, work_in_thread)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
