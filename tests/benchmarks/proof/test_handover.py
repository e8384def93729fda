"""The program that reloads under load tells a new master from a worker, which has children as well."""

from types import SimpleNamespace

from benchmarks.proof.handover import _masters


def process(pid, environ, *children):
    return SimpleNamespace(pid=pid, environ=lambda: environ, children=lambda: list(children))


def test_a_worker_with_its_own_processes_is_no_master():
    """Also where the old master replaced another one, whose number its worker still carries."""
    decoder, environ = process(9, {}), {"GUNICORN_PID": "1"}
    worker = process(3, environ, decoder)
    assert _masters(process(2, environ, worker)) == []
    new = process(4, {"GUNICORN_PID": "2"}, process(5, {"GUNICORN_PID": "2"}, decoder))
    assert _masters(process(2, environ, worker, new)) == [new]


def test_a_master_counts_from_its_worker_on():
    """Before that it may still fail to begin."""
    assert _masters(process(2, {}, process(4, {"GUNICORN_PID": "2"}))) == []
