"""What the benchmark of compiling schemas judges, and that it notices streams that are refused or broken off."""

from __future__ import annotations

import time
from argparse import Namespace

import pytest

from benchmarks import compile_effect
from tests.benchmarks.harness.scripted_server import ScriptedServer, scripted, stream

STEADY = [0.021] * 1700
ONE_STREAM = 0.01  # seconds
BROKEN = b'data: {"error": {"message": "The model is stalled."}}\n\ndata: [DONE]\n\n'


def words(new: list[float]) -> list[str]:
    """Return the verdicts on the mean and on the longest gap."""
    return [own.word for own in compile_effect.judge({"known": STEADY, "new": new})]


def test_even_streams_meet_both_targets() -> None:
    """As they are with schemas that are known."""
    assert words([0.0215] * 1700) == ["met", "met"]


def test_a_stall_at_each_new_schema_is_seen() -> None:
    """97 of half a second among 1,700 gaps move the mean, though hardly the median."""
    assert words(STEADY + [0.5] * 97) == ["missed", "missed"]
    assert words(STEADY + [0.09] * 97) == ["missed", "met"]


def test_a_single_stall_is_seen() -> None:
    """By the longest gap: another client's stream stops for more than a tenth of a second."""
    assert words([*STEADY, 0.12]) == ["met", "missed"]


def port(server: ScriptedServer) -> int:
    return int(server.server_address[1])


def test_gaps_are_those_within_a_stream() -> None:
    """Between the texts of one answer, not from one answer to the next."""
    with scripted(200, stream()) as server:
        gaps = compile_effect.stream(port(server), time.monotonic() + ONE_STREAM)
        assert len(gaps) == 3 * len(server.asked)  # the role, and three texts


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b"{}"), (503, stream()), (200, stream(complete=False)), (200, BROKEN), (200, b"")],
    ids=["refused", "refused late", "broken off", "an error", "empty"],
)
def test_a_stream_that_is_not_whole_ends_the_program(status: int, body: bytes) -> None:
    """Its gaps would be those of nothing."""
    with scripted(status, body) as server, pytest.raises(SystemExit, match="A stream was answered with"):
        compile_effect.stream(port(server), time.monotonic() + ONE_STREAM)


def test_a_schema_that_is_refused_ends_the_program() -> None:
    """Whichever thread asked; a refusal compiles nothing."""
    options = Namespace(streams=0, rate=100.0, seconds=0.05)
    with scripted(400, b"{}") as server, pytest.raises(SystemExit, match="A schema was answered with 400"):
        compile_effect._phase(port(server), "new", options, 0)
