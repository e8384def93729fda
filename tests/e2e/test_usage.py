"""Usage is exact through kills of a real service."""

from __future__ import annotations

from benchmarks import usage_proof


def test_usage_is_what_was_answered_through_kills(tmp_path):
    """Each answered request counts once, whenever the service is killed; only those in flight may count or not."""
    proof = usage_proof.prove(requests=300, kills=2, folder=tmp_path)
    assert proof.answered >= 300
    assert proof.answered <= proof.recorded <= proof.answered + proof.in_flight
    assert (proof.lost, proof.extra, proof.wrong_sums) == (0, 0, 0)
