"""The log file of a real service: one that cannot be opened stops the start, one that fills later stops nothing."""

import pytest

from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.slow


def test_log_file_that_cannot_be_written_stops_the_start(gunicorn, tmp_path):
    """The reason is one clear sentence, before anything is served."""
    server = gunicorn(LOG_FILE=str(tmp_path / "missing" / "service.log"))
    assert server.ended() != 0
    assert "LOG_FILE=" in server.log()
    assert "expected a file that can be written, in a folder that exists" in server.log()
    assert "Booting worker" not in server.log()


def test_full_disk_stops_nothing(gunicorn):
    """Every write to the file fails with ENOSPC: requests are answered, standard output has all lines."""
    server = gunicorn(LOG_FILE="/dev/full")
    server.say("load")
    server.say("answer")
    server.ready()
    assert [server.get("/work", "POST")[0] for _ in range(3)] == [200] * 3
    assert "The log file /dev/full cannot be written: No space left on device." in server.log()
    server.logged("avision is ready")
    server.process.terminate()
    assert server.ended() == 0


def test_moved_log_file_is_begun_again_by_every_process(gunicorn, tmp_path):
    """After a rotation master and worker write to the new file, without a signal."""
    path = tmp_path / "service.log"
    server = gunicorn(LOG_FILE=str(path))
    server.say("load")
    server.ready()
    until(lambda: "avision is ready" in path.read_text())
    path.rename(tmp_path / "service.log.1")
    server.process.terminate()
    assert server.ended() == 0
    until(path.exists)
    assert "The admitted requests are finished" in path.read_text(), "the worker's line"
    assert "Handling signal: term" in path.read_text(), "the master's line"
    assert "avision is ready" not in path.read_text()
