"""Logging: one format for every line of the process, on standard output and, if set, in a file.

`2025-11-28 10:30:00 [INFO] [<request id>] <message>`, or the same facts as one JSON object a line. Whoever serves a
request sets `request_id_var`; a thread that works for many passes `extra={"request_id": ...}` instead. What a client
sent is never part of a message: no prompt, image, answer or key.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import datetime
from logging.handlers import WatchedFileHandler
from typing import Any

from config import Settings
from engine.errors import StartError

log = logging.getLogger(__name__)

request_id_var: ContextVar[str] = ContextVar("request_id", default="-")

# Libraries whose chatter below a warning tells an operator nothing; werkzeug's access line would double ours.
QUIET = (
    "transformers",
    "werkzeug",
    "urllib3",
    "PIL",
    "torch",
    "accelerate",
    "httpx",
    "httpcore",
    "filelock",
    "asyncio",
)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def set_up_logging(settings: Settings) -> None:
    """Send every line of this process to the places the settings name, first what was odd about the settings.

    Raises StartError if the file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if settings.logging.log_file is not None:
        handlers.append(_open_log_file(str(settings.logging.log_file)))
    formatter = JsonFormatter() if settings.logging.log_format == "json" else TextFormatter()
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(add_request_id)
    logging.captureWarnings(True)
    logging.basicConfig(level=settings.logging.log_level, handlers=handlers, force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
    fold_in_libraries()
    for warning in settings.warnings:
        log.warning("%s", warning)


def fold_in_libraries() -> None:
    """Take the handlers of their own from all loggers, so that their lines come in our format; repeat after imports."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


def add_request_id(record: logging.LogRecord) -> bool:
    """Put the id of the request that is being served on the record, unless whoever logged has put one there."""
    if not hasattr(record, "request_id"):
        record.request_id = request_id_var.get()
    return True


class TextFormatter(logging.Formatter):
    """One line a record, whatever is in the message; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] [%(request_id)s] %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (ISO 8601 with its offset), level, request_id, logger, message, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "request_id": getattr(record, "request_id", "-"),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LogFile(WatchedFileHandler):
    """A log file that is opened anew when logrotate has moved it, and whose trouble never reaches who logs.

    When writing fails (a full disk, a folder gone) one line on standard error says so, and one when it works again;
    the lines between are on standard output alone.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8")
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        failing, self._failed = self._failing, False
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)
        self._failing = self._failed
        if failing and not self._failed:
            self._tell("is written again")

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        self._failed = True
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failing:
            self._tell(f"cannot be written: {error.strerror or error}")

    def _tell(self, what: str) -> None:
        print(f"The log file {self.baseFilename} {what}.", file=sys.stderr, flush=True)


def _open_log_file(path: str) -> LogFile:
    try:
        return LogFile(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"LOG_FILE={path!r} cannot be opened for writing: {reason}.") from error
