"""Keeps what requests used: records go into the journal at once, and from there into the database by a thread.

A record costs its request one line in a file. Where the journal cannot be written, the figures wait in memory. While
the database is away both wait, within bounds; what a process leaves behind when it is killed, the next one adds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import format_tb

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from database.connect import DatabaseError, failure_of
from usage import store
from usage.journal import Journal, JournalError, LeftBehind, left_behind, read, remove
from usage.memory import Memory
from usage.record import UsageRecord
from usage.sums import summed

log = logging.getLogger("avito_ai.usage")

PASS_SECONDS = 1.0
SETTLE_PAUSE = 0.05  # between two calls of what is still to settle at the end
LONGEST_PAUSE = 15.0  # seconds between two passes while the database is away
SEARCH_SECONDS = 10.0  # between two searches for journals of other processes
FORGET_SECONDS = 3600.0
FOLDER = "usage"  # in STATE_DIR


@dataclass(frozen=True, slots=True)
class RecorderFigures:
    """Counters of records, and what waits. lag: seconds for which the oldest record has waited for the database."""

    recorded: int = 0
    journal_failures: int = 0
    database_failures: int = 0
    damaged: int = 0
    lost: int = 0
    waiting_bytes: int = 0
    in_memory: int = 0
    lag: float = 0.0


class Recorder:
    """Records what requests use. Nothing is opened before `begin`; until then records stay in memory. Thread-safe.

    engine: opens the database; folder: STATE_DIR.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        folder: Path,
        kept: store.Retention = store.RETENTION,
        clock: Callable[[], float] = time.time,
        bounds: store.Bounds = store.BOUNDS,
        open_journal: Callable[[Path], Journal] = Journal,
    ) -> None:
        self._engine, self._folder, self._kept = engine, folder / FOLDER, kept
        self._clock, self._bounds, self._open_journal = clock, bounds, open_journal
        self._memory = Memory()
        self._journal: Journal | None = None
        self._memory_name = f"memory-{time.time_ns():x}-{id(self):x}"
        self._ending = threading.Event()
        self._settle_until = 0.0
        self._thread: threading.Thread | None = None
        self._counts = threading.Lock()  # guards the fields below
        self._recorded = self._journal_failures = self._database_failures = self._damaged = 0
        self._oldest: float | None = None
        self._settling = threading.Lock()  # held while what was deferred is called; guards the field below
        self._deferred: deque[Callable[[], bool]] = deque()
        self._storing = threading.Lock()  # held by the one thread that stores; guards the fields below
        self._next_search = self._next_forget = 0.0
        self._database_away = False
        self._unreadable: set[str] = set()

    @property
    def journals(self) -> tuple[str, str]:
        """The names under which the database has this process's positions: of the journal, "" for none, and memory."""
        return "" if self._journal is None else self._journal.name, self._memory_name

    def begin(self) -> None:
        """Open the journal and start the thread; once the process is forked and is about to serve."""
        if self._thread is not None:
            return
        try:
            self._journal = self._open_journal(self._folder)
        except OSError as error:
            log.warning(
                "STATE_DIR cannot be written (%s): usage is kept in memory until the database has it.", error.strerror
            )
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._thread.start()
        threading.Thread(target=self._run_settling, name="usage-settling", daemon=True).start()

    def end(self, timeout: float = 5.0) -> None:
        """Add what is left to the database, for at most this many seconds; the next process adds what still is.

        What is deferred is waited for as well, for half of them.
        """
        self._settle_until = time.monotonic() + timeout / 2
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def record(self, record: UsageRecord) -> int:
        """Keep a record; return the position behind it in the journal. Never raises, and waits for no database.

        A record that stays in memory has a negative one: -3 for the third that does.
        """
        position = self._append(record)
        with self._counts:
            self._recorded += 1
            if self._oldest is None:
                self._oldest = record.at
        return position

    def defer(self, settle: Callable[[], bool]) -> None:
        """Call `settle` once a second, and before what was recorded is stored, until it returns true."""
        self._deferred.append(settle)

    def catch_up(self, timeout: float = 2.0) -> bool:
        """Have the database get what was recorded before this call; return whether it has.

        Raises DatabaseError and SQLAlchemyError. timeout: seconds for which another thread that stores is waited for.
        """
        if not self._storing.acquire(timeout=timeout):
            return False
        try:
            self._store()
        finally:
            self._storing.release()
        return True

    def figures(self) -> RecorderFigures:
        """Return the counters."""
        journal, memory, oldest = self._journal, self._memory, self._oldest
        return RecorderFigures(
            self._recorded,
            self._journal_failures,
            self._database_failures,
            self._damaged,
            memory.lost,
            0 if journal is None else journal.end - journal.stored,
            memory.records,
            0.0 if oldest is None else max(0.0, self._clock() - oldest),
        )

    def _append(self, record: UsageRecord) -> int:
        if self._journal is None:
            return -self._memory.append(record)
        try:
            return self._journal.append(record)
        except JournalError as error:
            position = -self._memory.append(record)
            with self._counts:
                self._journal_failures += 1
                first = self._journal_failures == 1
            if first:
                log.error("The journal of usage cannot be written (%s): figures wait in memory.", error)
            return position

    # Called by the thread that stores.

    def _run(self) -> None:
        pause = PASS_SECONDS
        while True:
            ending = self._ending.wait(pause)
            while ending and self._deferred and time.monotonic() < self._settle_until:
                self._settle()
                time.sleep(SETTLE_PAUSE if self._deferred else 0)
            pause = PASS_SECONDS if self._pass() else min(LONGEST_PAUSE, pause * 2)
            if ending:
                return

    def _run_settling(self) -> None:
        """Settle in a thread that waits for no database: what an answer holds back of a budget ends with it."""
        while not self._ending.wait(PASS_SECONDS):
            self._settle()

    def _pass(self) -> bool:
        """Store what waits; return whether the database was there."""
        try:
            with self._storing:
                self._store()
                self._housekeeping()
        except Exception as error:  # of whichever database it is; the thread must go on
            self._failed(error)
            return False
        if self._database_away:
            self._database_away = False
            log.warning("The database of usage is back, and has what was waiting.")
        return True

    def _failed(self, error: Exception) -> None:
        with self._counts:
            self._database_failures += 1
        if not self._database_away:
            self._database_away = True
            if isinstance(error, DatabaseError | SQLAlchemyError):
                log.error("The database of usage is away (%s): the journal waits for it.", failure_of(error))
            else:
                trace = "".join(format_tb(error.__traceback__))
                log.error("Usage cannot be stored: %s; the journal keeps it.\n%s", type(error).__name__, trace)

    def _store(self) -> None:
        self._settle()
        with self._counts:
            oldest, self._oldest = self._oldest, None
        try:
            engine = self._engine()
            self._store_memory(engine)
            if self._journal is not None and self._journal.end > self._journal.stored:
                self._store_journal(engine, self._journal)
        except BaseException:
            with self._counts:
                self._oldest = self._oldest if oldest is None else oldest
            raise

    def _settle(self) -> None:
        with self._settling:
            for _ in range(len(self._deferred)):
                settle = self._deferred.popleft()
                if not _is_settled(settle):
                    self._deferred.append(settle)

    def _store_memory(self, engine: Engine) -> None:
        while (waiting := self._memory.waiting()) is not None:
            if not store.add(engine, self._memory_name, waiting.before, waiting.after, waiting.sums, self._bounds):
                log.info("The database had some of usage already: its answer had been lost.")
            self._memory.take()

    def _store_journal(self, engine: Engine, journal: Journal) -> None:
        position = self._store_lines(engine, journal.name, until=journal.end)
        with suppress(JournalError):  # the disk holds a line up; the next pass repeats it
            journal.take(position)

    def _store_lines(self, engine: Engine, journal: str, until: int | None = None) -> int:
        """Add a journal to the database; return the position that it has then. until: None for one that has ended."""
        position = store.position_of(engine, journal)
        while until is None or position < until:
            chunk = read(self._folder, journal, position, ended=until is None)
            if chunk.position == position:
                break
            if chunk.damaged:
                self._found_damaged(journal, chunk.damaged)
            added = store.add(engine, journal, position, chunk.position, summed(chunk.records), self._bounds)
            position = chunk.position if added else store.position_of(engine, journal)
        return position

    def _found_damaged(self, journal: str, lines: int) -> None:
        with self._counts:
            self._damaged += lines
        log.warning("The journal of usage %s has %d incomplete lines; they are passed over.", journal, lines)

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if now >= self._next_search:
            for found in left_behind(self._folder):
                try:
                    self._adopt(found)
                except OSError as error:  # of its files; those of others are added all the same
                    self._cannot_adopt(found.name, error)
                finally:
                    found.release()
            self._next_search = now + SEARCH_SECONDS
        if now >= self._next_forget:
            store.forget(self._engine(), self._clock(), self._kept)
            self._next_forget = now + FORGET_SECONDS

    def _adopt(self, found: LeftBehind) -> None:
        """Add what a process has left behind that is gone."""
        engine = self._engine()
        self._store_lines(engine, found.name)
        remove(self._folder, found.name)
        store.forget_journal(engine, found.name)

    def _cannot_adopt(self, journal: str, error: OSError) -> None:
        if journal not in self._unreadable:
            self._unreadable.add(journal)
            log.error("The journal of usage %s cannot be added (%s); it is tried again.", journal, error.strerror)


def _is_settled(settle: Callable[[], bool]) -> bool:
    """Return whether it need not be called again."""
    try:
        return settle()
    except Exception as error:  # what was recorded is stored all the same
        log.error("An answer's usage is lost: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
        return True
