"""Gunicorn's own lines, sent through our handlers."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger


class GunicornLogger(Logger):  # type: ignore[misc]
    """Leaves format and places to `logs`, without what Gunicorn says to debug itself.

    Its access log stays off, since ours has the request id.
    """

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.setLevel(max(logging.INFO, logging.root.level))
        self.error_log.propagate = True
