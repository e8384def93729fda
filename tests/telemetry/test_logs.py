"""Logging: one format for all lines and destinations, and errors of the log file."""

import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from config import load_settings
from engine.errors import StartError
from telemetry.logs import JsonFormatter, LogFile, fold_in_libraries, request_id_var, set_up_logging

ROOT = Path(__file__).parents[2]
log = logging.getLogger("tests.logging")


@pytest.fixture
def set_up(tmp_path):
    """Set up logging from settings as the process does, and restore it afterwards."""
    root = logging.root
    before = (root.handlers[:], root.level)
    collected = (logging._srcfile, logging.logThreads, logging.logProcesses, logging.logMultiprocessing)
    yield lambda **environ: set_up_logging(load_settings(environ, None))
    for handler in root.handlers:
        if isinstance(handler, LogFile):
            handler.close()
    root.handlers[:], _ = before
    root.setLevel(before[1])
    logging._srcfile, logging.logThreads, logging.logProcesses, logging.logMultiprocessing = collected
    logging.captureWarnings(False)


@pytest.fixture
def request_id():
    """The id of a current request."""
    token = request_id_var.set("request-7")
    yield "request-7"
    request_id_var.reset(token)


def test_line_has_time_level_request_and_message(set_up, capsys, request_id):
    """`2025-11-28 10:30:00 [INFO] [<request id>] <message>` on standard output."""
    set_up()
    log.info("generated %d tokens", 5)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[INFO\] \[request-7\] generated 5 tokens\n", capsys.readouterr().out
    )


def test_line_outside_a_request_has_a_dash(set_up, capsys):
    """Outside a request the id is a dash."""
    set_up()
    log.warning("x")
    assert "[WARNING] [-] x\n" in capsys.readouterr().out


def test_thread_that_works_for_many_names_the_request_itself(set_up, capsys, request_id):
    """An id passed with the line takes precedence over the context's."""
    set_up()
    log.info("aborted", extra={"request_id": "request-8"})
    assert "[INFO] [request-8] aborted" in capsys.readouterr().out


def test_level_is_the_setting(set_up, capsys):
    """Lines below LOG_LEVEL are not written."""
    set_up(LOG_LEVEL="WARNING")
    log.info("hidden")
    log.warning("shown")
    out = capsys.readouterr().out
    assert "hidden" not in out
    assert "shown" in out
    set_up(LOG_LEVEL="ERROR")
    for name in (log.name, "transformers.modeling"):
        logging.getLogger(name).warning("hidden")
    assert capsys.readouterr().out == ""


def test_message_cannot_forge_a_line(set_up, capsys):
    """Line breaks and control characters in a message are escaped; letters of all languages are not."""
    set_up()
    log.info("path %s", "/x\r\n2025-11-28 10:30:00 [INFO] forged \x1b[31m\u2028 Привет")
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert r"/x\r\n2025" in out
    assert r"\x1b[31m\u2028 Привет" in out


def test_traceback_follows_its_line(set_up, capsys):
    """An exception is logged with its traceback in full."""
    set_up()
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError:
        log.exception("failed")
    out = capsys.readouterr().out
    assert "[ERROR] [-] failed\nTraceback" in out
    assert out.rstrip().endswith("ZeroDivisionError: x")


def test_json_has_the_same_facts_in_one_object_a_line(set_up, capsys, request_id):
    """LOG_FORMAT=json: time with its offset, level, request, logger, message and traceback."""
    set_up(LOG_FORMAT="json")
    log.info("Привет\n%d", 5)
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError:
        log.exception("failed")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", first.pop("time"))
    assert first == {"level": "INFO", "request_id": "request-7", "logger": "tests.logging", "message": "Привет\n5"}
    assert second["exception"].startswith("Traceback")


def test_json_needs_no_filter():
    """A record without request_id is formatted as well."""
    record = logging.LogRecord("x", logging.INFO, "x", 1, "y", None, None)
    assert json.loads(JsonFormatter().format(record))["request_id"] == "-"


def test_library_with_handlers_of_its_own_is_folded_in(set_up, capsys):
    """A library with handlers of its own gets this format, and quiet ones are logged from WARNING up."""
    set_up()
    library = logging.getLogger("some.library")
    library.addHandler(logging.StreamHandler(sys.stdout))
    library.propagate = False
    fold_in_libraries()
    library.info("hello")
    for library in ("transformers.modeling", "alembic.runtime.migration"):
        logging.getLogger(library).info("chatter")
    logging.getLogger("transformers.modeling").warning("matters")
    out = capsys.readouterr().out
    assert out.count("hello") == 1
    assert "[INFO] [-] hello" in out
    assert "chatter" not in out
    assert "[WARNING] [-] matters" in out


def test_warnings_of_python_are_lines_too(set_up, capsys):
    """`warnings.warn` is logged."""
    set_up()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", stacklevel=1)
        logging.captureWarnings(False)
    assert "[WARNING] [-]" in (out := capsys.readouterr().out)
    assert "old thing" in out


def test_log_file_gets_every_line_beside_standard_output(set_up, capsys, tmp_path):
    """With LOG_FILE, each line goes to both destinations."""
    set_up(LOG_FILE=str(tmp_path / "log"))
    log.info("hello")
    assert "hello" in capsys.readouterr().out
    assert "[INFO] [-] hello\n" in (tmp_path / "log").read_text()


def test_rotation_loses_no_line(set_up, tmp_path):
    """After logrotate has moved the file, the next line is in a new one and the earlier ones in the old."""
    path = tmp_path / "log"
    set_up(LOG_FILE=str(path))
    log.info("first")
    path.rename(tmp_path / "log.1")
    log.info("second")
    assert "first" in (tmp_path / "log.1").read_text()
    assert "second" not in (tmp_path / "log.1").read_text()
    assert "second" in path.read_text()


def test_log_file_that_cannot_be_opened_stops_the_start(set_up, tmp_path):
    """A file that passes the check of the settings but cannot be opened is a StartError."""
    settings = load_settings({"LOG_FILE": str(tmp_path / "log")}, None)
    (tmp_path / "log").mkdir()
    with pytest.raises(StartError, match="LOG_FILE=.*cannot be opened for writing: Is a directory"):
        set_up_logging(settings)


def test_full_disk_raises_in_no_caller():
    """A full disk is reported once on stderr; lines still go to stdout, and the process exits with 0."""
    code = (
        "import logging, config, telemetry.logs as logs\n"
        "logs.set_up_logging(config.load_settings({'LOG_FILE': '/dev/full'}, None))\n"
        "for number in range(3): logging.info('line %d', number)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    assert run.stderr == "The log file /dev/full cannot be written: No space left on device.\n"
    assert run.stdout.count("line") == 3


def test_folder_that_vanishes_and_returns_is_reported_once_each(set_up, capsys, tmp_path):
    """While the folder is missing nothing is raised; once it is back, the file is written again, with a message."""
    folder = tmp_path / "logs"
    folder.mkdir()
    set_up(LOG_FILE=str(folder / "log"))
    (folder / "log").unlink()
    folder.rmdir()
    log.info("lost")
    log.info("lost too")
    folder.mkdir()
    log.info("kept")
    assert "kept" in (folder / "log").read_text()
    first, second = capsys.readouterr().err.splitlines()
    assert "cannot be written: No such file or directory" in first
    assert "is written again" in second


def test_mistake_in_a_log_call_is_not_taken_for_a_full_disk(set_up, capsys, tmp_path):
    """A line with wrong arguments is reported as Python does, and raises nothing."""
    set_up(LOG_FILE=str(tmp_path / "log"))
    log.info("%d", "x")
    err = capsys.readouterr().err
    assert "Logging error" in err
    assert "cannot be written" not in err


def test_records_collect_nothing_that_no_line_shows(set_up, capsys):
    """Looking for the caller, its thread and its process would be a quarter of a line's cost."""
    set_up()
    seen = []
    logging.root.handlers[0].addFilter(lambda record: seen.append(record) or True)
    log.info("A line.")
    (record,) = seen
    assert (record.pathname, record.lineno, record.thread, record.process) == ("(unknown file)", 0, None, None)
    assert capsys.readouterr().out.endswith("A line.\n")
