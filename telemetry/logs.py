"""Logging: one format for every line of the process, on standard output and, if set, in a file.

`2025-11-28 10:30:00 [INFO] [<request id>] <message>`, or the same fields as one JSON object per line. A thread that
serves one request sets `request_id_var`; one that works for many passes `extra={"request_id": ...}` instead. Data of
clients is never part of a message: no prompt, image, answer or key.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import datetime
from logging.handlers import WatchedFileHandler

from config import Settings
from engine.errors import StartError

log = logging.getLogger("avito_ai.settings")

request_id_var: ContextVar[str] = ContextVar("request_id", default="-")

# Libraries that are logged from WARNING up only; werkzeug's access line would duplicate this service's own.
QUIET = (
    "alembic",
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
    """Send all log lines of this process to the destinations in the settings, beginning with the settings' warnings.

    Raises StartError if the log file cannot be opened.
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
    collect_less()
    for warning in settings.warnings:
        log.warning("%s", warning)


def collect_less() -> None:
    """Leave out of every record what no format here shows: the caller's place, its thread and its process.

    The names are those of "Optimization" in Python's Logging HOWTO.
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def fold_in_libraries() -> None:
    """Remove the handlers of all other loggers, so that their lines get this format; repeat after imports."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


def add_request_id(record: logging.LogRecord) -> bool:
    """Add the current request's id to the record, unless it has one."""
    if not hasattr(record, "request_id"):
        record.request_id = request_id_var.get()
    return True


class TextFormatter(logging.Formatter):
    """One line per record, control characters escaped; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] [%(request_id)s] %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (ISO 8601 with offset), level, request_id, logger, message, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
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
    """A log file that is reopened after logrotate has moved it, and whose errors never reach the caller.

    When writing begins to fail (disk full, directory removed) and when it works again, one line goes to standard error;
    the lines in between are on standard output only.
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
