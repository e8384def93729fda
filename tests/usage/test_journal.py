"""The journal keeps whole lines in order, whatever happens to its process, its disk and its files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from tests.threads import together
from usage.journal import Journal, JournalError, left_behind, read, remove, segments
from usage.record import UsageRecord, read_line

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Where the journals are."""
    return tmp_path / "usage"


def everything(folder, name, ended=False):
    """Return the ids of all records of a journal, and how many lines are damaged."""
    ids, damaged, position = [], 0, 0
    while (chunk := read(folder, name, position, ended)).position > position:
        ids += [record.request_id for record in chunk.records]
        damaged, position = damaged + chunk.damaged, chunk.position
    return ids, damaged


@pytest.mark.parametrize("text", ["", "x", "Ж\n\0\ud800", '",\\', "=1+1"])
def test_a_line_reads_as_it_was_written(text):
    """Any text that a client sends stands in one line, and comes back."""
    record = UsageRecord("r", 1.5, f"key:{text}", "avibe@v2", "api", text, 1, 2, 3, 4, 5, 6, text, text)
    assert record.line().count(b"\n") == 1
    assert read_line(record.line()[:-1]) == record


def test_a_changed_line_is_no_record(new_record):
    """The checksum notices what the format does not."""
    line = new_record(input_tokens=71).line()[:-1]
    assert read_line(line.replace(b"71", b"91")) is None
    assert all(read_line(line[:length]) is None for length in range(len(line)))


def test_a_line_of_a_newer_release_is_read(new_record):
    """What it added behind is passed over; a line without all that is needed is none."""
    record = new_record()
    for text, found in ((record.line()[9:-2] + b',"more"]', record), (b'["r1",1.0]', None), (b"1", None)):
        assert read_line(b"%08x %s" % (zlib.crc32(text), text)) == found


def test_records_of_many_threads_are_all_there(folder, new_record):
    """Each record has a position of its own, behind those before it, across files."""
    journal, positions = Journal(folder, segment_bytes=1000), []
    together(*[lambda: positions.extend(journal.append(new_record()) for _ in range(50))] * 8)
    ids, damaged = everything(folder, journal.name)
    assert (len(set(ids)), damaged, len(set(positions))) == (400, 0, 400)
    assert max(positions) == journal.end
    *full, _ = segments(folder, journal.name)
    assert len(full) >= 10
    assert all(segment.end - segment.start >= 1000 for segment in full)


def test_files_that_the_database_has_are_removed(folder, new_record):
    """What is stored takes no room, apart from the file that is being written."""
    journal = Journal(folder, segment_bytes=500)
    for _ in range(20):
        journal.append(new_record())
    position = journal.end
    journal.append(new_record(output_tokens=99))
    journal.take(position)
    (record,) = read(folder, journal.name, position).records
    assert record.output_tokens == 99
    assert sum(file.stat().st_size for file in folder.glob("*.log")) <= 1000


def test_a_file_that_is_opened_meanwhile_is_not_removed(folder, new_record, monkeypatch):
    """Another thread may begin the next file while those are looked for that the database has."""
    journal = Journal(folder, segment_bytes=1)
    position = journal.append(new_record())

    def opened_meanwhile(*arguments):
        journal._open()
        return segments(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("usage.journal.segments", opened_meanwhile)
        journal.take(position)
    journal.append(new_record(output_tokens=99))
    (record,) = read(folder, journal.name, position).records
    assert record.output_tokens == 99


def test_a_line_that_was_cut_off_is_recognised(folder, new_record):
    """At the end of an ended journal a line without an end is damaged; while its process lives, it is waited for."""
    journal = Journal(folder)
    journal.append(new_record())
    journal.append(new_record())
    (segment,) = segments(folder, journal.name)
    os.truncate(segment.file, segment.end - 20)
    assert everything(folder, journal.name) == (["r0"], 0)
    assert everything(folder, journal.name, ended=True) == (["r0"], 1)


def test_damage_in_the_middle_costs_its_lines_alone(folder, new_record):
    """What is overwritten is passed over, and what follows is read."""
    journal = Journal(folder)
    for _ in range(3):
        end = journal.append(new_record())
    (segment,) = segments(folder, journal.name)
    data = bytearray(segment.file.read_bytes())
    data[end // 3 + 5 : end // 3 + 9] = b"\0\0\0\0"
    segment.file.write_bytes(bytes(data))
    assert everything(folder, journal.name) == (["r0", "r2"], 1)


class FullDisk:
    """Writes until it is full; then a part of a line, and then nothing."""

    def __init__(self, room):
        self.room = room

    def __call__(self, file, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "no space left")
        written = os.write(file, data[: self.room])
        self.room -= written
        return written


def test_a_full_disk_leaves_no_part_of_a_line(folder, new_record):
    """What could not be written whole is taken back, and the journal goes on once there is room."""
    disk = FullDisk(room=250)
    journal, written = Journal(folder, write=disk), 0
    for _ in range(5):
        with suppress(JournalError):
            journal.append(new_record())
            written += 1
    assert 0 < written < 5
    disk.room = 10_000
    journal.append(new_record(output_tokens=99))
    ids, damaged = everything(folder, journal.name)
    assert (len(ids), damaged) == (written + 1, 0)


def test_a_disk_that_stalls_holds_up_one_record(folder, new_record):
    """Others are refused instead of waiting for it; once it answers, everything goes on and no line is lost."""
    writing, answers = threading.Event(), threading.Event()

    def stall(file, data):
        writing.set()
        assert answers.wait(60)
        return os.write(file, data)

    journal = Journal(folder, write=stall, patience=0.01)
    held_up = threading.Thread(target=journal.append, args=(new_record(),))
    held_up.start()
    assert writing.wait(60)
    for refused in (lambda: journal.append(new_record()), lambda: journal.take(0)):
        with pytest.raises(JournalError, match="does not answer"):
            refused()
    answers.set()
    held_up.join(60)
    journal.append(new_record())
    assert everything(folder, journal.name) == (["r0", "r2"], 0)


def test_a_journal_is_bounded(folder, new_record):
    """A database that never comes does not fill the disk; what it takes makes room again."""
    journal = Journal(folder, most_bytes=1000)
    with suppress(JournalError):
        for _ in range(100):
            journal.append(new_record())
    assert 500 < journal.end <= 1000
    journal.take(journal.end)
    journal.append(new_record())


def test_a_journal_of_a_living_process_is_left_alone(folder, new_record):
    """Two at once in one folder, as a reload has them, do not touch each other's."""
    journals = [Journal(folder) for _ in range(3)]
    for journal in journals:
        journal.append(new_record())
    assert list(left_behind(folder)) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from usage.journal import Journal
from usage.record import UsageRecord
journal = Journal(Path(sys.argv[1]))
for number in range(3):
    journal.append(UsageRecord(f"r{number}", 1.0, "a", "m", "api"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_journal_of_a_killed_process_is_found_by_one(folder):
    """What a killed process had written is whole, and only one other has it at a time."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, check=False, timeout=600)
    assert killed.returncode < 0
    (found,) = left_behind(folder)
    assert list(left_behind(folder)) == []
    assert everything(folder, found.name, ended=True) == (["r0", "r1", "r2"], 0)
    found.release()
    (again,) = left_behind(folder)
    remove(folder, again.name)
    again.release()
    assert list(left_behind(folder)) == []
    assert list(folder.iterdir()) == []
