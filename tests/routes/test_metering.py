"""What a request holds back is given back whatever becomes of its record."""

from types import SimpleNamespace

import pytest

from engine.types import Spent, TextPrompt
from routes.metering import RunMeter


class BrokenMeter:
    """Records nothing, and keeps what is to be settled."""

    def __init__(self):
        self.deferred = []

    def defer(self, settle):
        self.deferred.append(settle)

    def write(self, *_):
        raise ZeroDivisionError


@pytest.mark.parametrize("done", [True, False])
def test_a_record_that_fails_holds_nothing_back(done):
    """Whether the answer has ended, or is settled later by the thread of usage."""
    meter, counted = BrokenMeter(), []
    answer = SimpleNamespace(done=done, spent=Spent(1, 1))
    run = RunMeter(meter, "r", [TextPrompt("")])

    def end():
        run.close([answer], lambda: counted.append(True))
        answer.done = True
        for settle in meter.deferred:
            settle()

    with pytest.raises(ZeroDivisionError):
        end()
    assert counted == [True]
