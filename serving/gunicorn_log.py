"""Gunicorn's log, sent through the handlers of this service."""

from __future__ import annotations

import logging

from gunicorn.config import Config
from gunicorn.glogging import Logger


class GunicornLogger(Logger):  # type: ignore[misc]
    """Leaves format and destinations to `telemetry.logs`, and omits Gunicorn's debug lines.

    Gunicorn's access log stays off: the one of this service has the request id.
    """

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log = logging.getLogger("avito_ai.gunicorn")
        self.error_log.setLevel(max(logging.INFO, logging.root.level))
