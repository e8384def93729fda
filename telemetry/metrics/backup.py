"""Metrics of the backups that deploy/backup.sh makes of this machine; none where none is noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class NotedBackup(Protocol):
    """`checks.backup.BackupStatus`: times in seconds since the epoch, and what went wrong last."""

    @property
    def created(self) -> float: ...
    @property
    def tested(self) -> float: ...
    @property
    def size(self) -> int: ...
    @property
    def failed(self) -> str: ...


class BackupMetrics(Collector):
    """Reads what is noted at each scrape."""

    def __init__(self, status: Callable[[], NotedBackup | None]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        if (noted := self._status()) is None:
            return
        text = "When the last backup was made that can be restored, in seconds since the epoch."
        yield GaugeMetricFamily("avito_ai_backup_timestamp_seconds", text, value=noted.created)
        text = "When a backup was last unpacked and checked, in seconds since the epoch."
        yield GaugeMetricFamily("avito_ai_backup_test_timestamp_seconds", text, value=noted.tested)
        yield GaugeMetricFamily("avito_ai_backup_size_bytes", "Size of the last backup.", value=noted.size)
        text = "1 if the last backup, its test or its copy elsewhere failed."
        yield GaugeMetricFamily("avito_ai_backup_failed", text, value=int(bool(noted.failed)))
