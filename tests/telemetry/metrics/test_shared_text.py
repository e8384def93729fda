"""A text that many ask for."""

import threading

import pytest

from telemetry.metrics.shared_text import SharedText
from tests.timing import PATIENCE


def test_a_text_is_made_anew_once_its_time_is_over():
    """And not before, however often it is asked for."""
    now, made = [5.0], []
    text = SharedText(lambda: made.append(1) or b"%d" % len(made), 1.0, lambda: now[0])
    assert [text.get(), text.get()] == [b"1", b"1"]
    now[0] = 5.99
    assert text.get() == b"1"
    now[0] = 6.0
    assert text.get() == b"2"


def test_those_who_ask_while_it_is_made_wait_for_it():
    """One thread makes it for all."""
    begun, go_on, made, read = threading.Event(), threading.Event(), [], []

    def make():
        made.append(1)
        begun.set()
        assert go_on.wait(PATIENCE)
        return b"made"

    text = SharedText(make, 60.0)
    threads = [threading.Thread(target=lambda: read.append(text.get())) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert begun.wait(PATIENCE)
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert (made, read) == ([1], [b"made"] * 5)


def test_a_failure_is_not_kept():
    """The next one who asks tries again."""
    answers = [b"made", OSError("no more memory")]

    def make():
        if isinstance(answer := answers.pop(), OSError):
            raise answer
        return answer

    text = SharedText(make, 60.0)
    with pytest.raises(OSError, match="no more memory"):
        text.get()
    assert text.get() == b"made"
