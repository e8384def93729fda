"""The service, with a `LockWatch` in the process that serves; the environment's LOCK_WATCH names the file for it."""

from __future__ import annotations

import os
from pathlib import Path

from app_production import create_app
from benchmarks.harness.lock_watch import LockWatch
from config import settings_or_exit

app = create_app(settings_or_exit())
LockWatch(Path(os.environ["LOCK_WATCH"])).start()
