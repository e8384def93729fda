"""The short form of `benchmarks.upstream_faults`."""

from benchmarks.upstream_faults import run


def test_every_request_to_a_server_that_fails_ends_right_or_typed():
    """Whole or one typed error, streams as well; nothing is left in flight, and no connection."""
    outcomes, wrong = run(400, 0.2, 16)
    assert not wrong
    assert outcomes["right"] > 300
    assert outcomes.total() == 400
