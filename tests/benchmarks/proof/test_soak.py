"""What the soak makes of the memory that it sees."""

import pytest

from benchmarks.proof.service import Footprint
from benchmarks.proof.soak import parts, trouble_of_bad, trouble_of_good
from benchmarks.proof.traffic import TEXT, Answer, chat, request


def looks(*resident):
    return [Footprint(size, 1, 1, 1, 1) for size in resident]


def test_memory_is_compared_by_parts_of_the_soak():
    """Each is the mean of as many looks; what is left over at the end belongs to none."""
    assert parts(looks(1, 3, 5, 5, 9, 11, 100), 3) == [2, 5, 10]


def test_few_looks_are_a_part_each():
    """So that a soak that is cut short has a first and a last one."""
    assert parts(looks(7, 8), 10) == [7, 8]


PAGE, ANSWER = request("/"), request(TEXT, b"{}")


@pytest.mark.parametrize(
    ("data", "answer", "trouble"),
    [
        (PAGE, Answer(200, whole=True), None),
        (PAGE, Answer(200), "a good request: 200 cut off"),
        (ANSWER, Answer(200, whole=True, complete=True), None),
        (ANSWER, Answer(200, whole=True), "a good request: 200 cut off"),
        (chat("q", 8), Answer(200, whole=True, code="internal_error"), "a good request: 200 internal_error"),
        (ANSWER, Answer(503, whole=True, code="overloaded"), "a good request: 503 overloaded"),
        (PAGE, Answer(trouble="ConnectionResetError"), "a good request: none ConnectionResetError"),
    ],
)
def test_a_good_request_is_lost_unless_it_is_answered(data, answer, trouble):
    """Twelve at once are never too many, so a refusal is a loss as well."""
    assert trouble_of_good(data, answer) == trouble


def test_a_bad_request_is_lost_without_a_typed_answer():
    """Whatever its status."""
    assert trouble_of_bad(Answer(400, whole=True, code="invalid_request")) is None
    assert trouble_of_bad(Answer(500, whole=True, code="internal_error")) == "a bad request: 500"
    assert trouble_of_bad(Answer(trouble="TimeoutError")) == "a bad request: TimeoutError"
