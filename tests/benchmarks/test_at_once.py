"""What `benchmarks.at_once` reads of the service, and what it makes of that."""

from __future__ import annotations

import pytest

from benchmarks import at_once
from benchmarks.at_once import Count, judge, measure, room
from tests.benchmarks.harness.scripted_server import scripted

LOG = """2026 [INFO] [-] avibe:   weights (loaded)      1.192 GB
2026 [INFO] [-] avibe:   KV cache              7.553 GB  32,912 tokens: 8.0 contexts of 4,096, or 102 requests of 310
2026 [INFO] [-] avision:   KV cache              0.025 GB  16,448 tokens: 8.2 contexts of 2,048, or 51 requests of 310
"""


def metrics(running: int, preempted: int) -> str:
    """Return what the service says of itself."""
    return (
        f'avito_ai_num_requests_running{{model="avibe"}} {running}.0\n'
        'avito_ai_num_requests_running{model="avision"} 3.0\n'
        f'avito_ai_preemptions_total{{model="avibe"}} {preempted}.0\n'
    )


def test_the_room_is_that_of_the_table() -> None:
    """Of the text model."""
    assert room(LOG) == (32912, 8.0)


def test_the_most_at_once_counts_with_what_was_preempted_until_then() -> None:
    count = Count()
    for running, preempted in ((40, 0), (99, 1), (60, 7)):
        count.look(metrics(running, preempted))
    assert (count.most, count.preempted) == (99, 1)


@pytest.mark.parametrize(
    ("most", "failures", "words"), [(80, [], "met met"), (79, [], "missed met"), (80, ["503: busy"], "met missed")]
)
def test_fewer_or_a_failure_miss_the_target(most: int, failures: list[str], words: str) -> None:
    found = judge(Count(most, failures=failures), 80)
    assert " ".join(verdict.word for verdict in found) == words


def test_a_refusal_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client sends no more; the others go on."""
    monkeypatch.setattr(at_once, "LOOK_SECONDS", 0.1)
    with scripted(503, b"busy") as server:
        monkeypatch.setattr(at_once.urllib.request, "urlopen", _metrics_of(at_once.urllib.request.urlopen))
        count = measure(server.address, 2, 1.0)
    assert count.failures == ["503: busy"] * 2
    assert count.most == 5


def _metrics_of(urlopen):  # type: ignore[no-untyped-def]
    """Answer for /metrics, and ask for everything else."""

    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self) -> bytes:
            return metrics(5, 0).encode()

    def opened(url, *arguments, **named):  # type: ignore[no-untyped-def]
        return Answer() if isinstance(url, str) and url.endswith("/metrics") else urlopen(url, *arguments, **named)

    return opened
