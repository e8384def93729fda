"""What deploy/backup.sh noted of the last backup, of its last test, and of the copy elsewhere."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from checks.finding import Finding, State

OLD_HOURS = 50  # two of the daily backups were left out, or one was very late
UNTESTED_DAYS = 16  # two of the weekly tests were left out


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """Times in seconds since the epoch, 0 for never. failed: what went wrong last, "" if nothing did."""

    created: float = 0.0
    tested: float = 0.0
    size: int = 0
    failed: str = ""


def read_status(path: Path) -> BackupStatus | None:
    """Return what is noted in a file; None if nothing is, as in a container, whose operator backs up the volume."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        return BackupStatus(
            float(noted.get("created", 0)),
            float(noted.get("tested", 0)),
            int(noted.get("size", 0)),
            str(noted.get("failed") or noted.get("test_failed") or ""),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return BackupStatus(failed=f"the note of the last backup cannot be read ({type(error).__name__})")


def check_backup(path: Path, now: float | None = None) -> Finding:
    """Compare the last backup and its last test with how often there should be one."""
    status, now = read_status(path), time.time() if now is None else now
    if status is None:
        return Finding(State.OFF, "No backup is noted on this machine; deploy/backup.sh makes them.")
    if status.failed:
        return Finding(State.FAILED, f"Of the last backup: {status.failed}.")
    hours, days = (now - status.created) / 3600, (now - status.tested) / 86400
    if hours > OLD_HOURS:
        return Finding(State.WARNING, f"The last backup is {hours:.0f} hours old.")
    if days > UNTESTED_DAYS:
        return Finding(State.WARNING, "No backup has been tested for two weeks.")
    return Finding(State.OK, f"The last backup is {hours:.1f} hours old, {status.size} bytes, and was tested.")
