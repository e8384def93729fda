"""What a running service and one that is not started yet can try alike."""

from __future__ import annotations

from checks.backup import check_backup
from checks.finding import Check
from checks.machine import check_certificate, check_disk
from checks.outside import check_collector, check_database, check_redis
from config import Settings


def checks_of(settings: Settings) -> dict[str, Check]:
    """Return these checks by their names."""
    return {
        "redis": lambda: check_redis(settings),
        "database": lambda: check_database(settings),
        "collector": lambda: check_collector(settings),
        "disk": lambda: check_disk(settings),
        "certificate": check_certificate,
        "backup": lambda: check_backup(settings.data.backup_status),
    }
