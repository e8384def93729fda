"""Parts of the worker that no client can trigger on a real Gunicorn."""

import errno
import logging
import math
import os
import resource
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from gunicorn.workers.gthread import ThreadWorker

from edge.in_service import COURTESY, OFTEN, PATIENT
from edge.route_table import ROUTES, Need
from edge.turns import AT_ONCE, Turns
from engine.cores import Cores
from engine.errors import DeadlineExceeded, Overloaded
from engine.types import ModelInfo
from models import ModelSet
from serving.accepting import (
    ACCEPT_PAUSE,
    ACCEPTED_AT_ONCE,
    ACCEPTED_MOST,
    AT_LEAST,
    EXHAUSTED,
    NOT_A_CLIENT,
    SILENT_SECONDS,
)
from serving.by_address import ByAddress
from serving.connection import ClientSocket
from serving.framing import Stage
from serving.held_back import LINE, HeldBack
from serving.intake import READ_AT_ONCE
from serving.priority import Successors
from serving.slow_readers import SlowReaders
from serving.thread_pool import RecentFirstPool
from serving.worker import (
    FLOOD,
    GATHERING,
    GATHERING_ROUND,
    LIGHT_OF_A_CLIENT,
    PROBES_AT_ONCE,
    SPARE_DESCRIPTORS,
    SWEEP_INTERVAL,
    SWITCH_INTERVAL,
    ServiceWorker,
    _room_for_accepted,
    has_sibling,
)
from tests.checkpoints import text_spec
from tests.e2e.gunicorn_process import until
from tests.fakes import PATIENCE

NO_PROCESS = 2**22 + 1
# A process with one child, which ends at a line.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print("child", flush=True)
input()
child.communicate(b"\\n")
"""


@pytest.fixture(autouse=True)
def listeners_without_descriptor(monkeypatch):
    """Those in here accept by themselves."""
    monkeypatch.setattr("serving.accepting.accept_now", lambda listener: listener.accept())


class FailingListener:
    """A listening socket whose accept fails."""

    def __init__(self, number):
        self.error = OSError(number, os.strerror(number))

    def accept(self):
        raise self.error


@pytest.mark.parametrize("number", sorted(NOT_A_CLIENT))
def test_client_that_left_before_accept_is_ignored(idle, number):
    """If another worker was faster or the client disconnected, nothing happens."""
    assert idle.accept(FailingListener(number)) is None


class MainLoop:
    """A method queue that keeps the calls deferred to it."""

    def __init__(self):
        self.calls = []

    def defer(self, callback):
        self.calls.append(callback)


class Pool:
    """A thread pool that records its shutdown."""

    is_shut_down = False

    def shutdown(self, wait):
        self.is_shut_down = True


def test_interrupt_is_handled_in_the_main_loop():
    """The signal may arrive while the main thread holds the pool's lock to hand over a request."""
    worker = object.__new__(ServiceWorker)
    worker.booted, worker.method_queue, worker.tpool = True, MainLoop(), Pool()
    worker.cfg = SimpleNamespace(worker_int=lambda worker: None)
    worker.handle_quit(signal.SIGINT, None)
    assert not worker.tpool.is_shut_down
    (stop,) = worker.method_queue.calls
    with pytest.raises(SystemExit):
        stop()
    assert worker.tpool.is_shut_down


def test_broken_listening_socket_raises(idle):
    """Any other error of accept is raised."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        idle.accept(FailingListener(errno.EBADF))


class Waiting:
    """An intake that counts whom it closes, and drops."""

    def __init__(self):
        self.waiting, self.closed, self.dropped, self.refused = 3, 0, [], 0
        self.unread = self.unread_addresses = self.read = 0
        self.expected = []  # the keys of addresses
        self.leasts = []  # how long those that were to be closed had to be silent, in seconds
        self.calls = []

    def close_longest_waiting(self, peer=None, least=0.0):
        self.closed += 1
        self.leasts.append(least)
        return self.closed <= self.waiting

    def read_some(self):
        self.read += 1

    def read_all(self):
        self.calls.append("read")

    def cap(self, deadline):
        self.calls.append(deadline)

    def drop(self, conn):
        self.dropped.append(conn)

    def expect(self, conn, seconds, *, fresh):
        assert fresh
        self.calls.append("expect")
        self.expected.append(conn.budget_key)
        conn.close()


@pytest.fixture
def idle():
    """A worker that was not started."""
    worker = object.__new__(ServiceWorker)
    worker.sockets, worker.poller, worker._accepting = [], selectors.DefaultSelector(), False
    worker._accept_again, worker._exhaustion_logged, worker._intake = 0.0, -1e9, Waiting()
    worker._addresses, worker.nr_conns, worker.worker_connections = {}, 0, 10
    worker._peers, worker._accepted, worker._kept_waiting = Counter(), ByAddress(), 0
    worker._more_to_do = worker._more_late = False
    worker._refused, worker._flooded = 0, False
    worker._drain_until, worker._held_back = None, HeldBack(lambda client, light: 0.0, None, None)
    worker._turns = Turns()
    worker.ppid, worker._successors = NO_PROCESS, Successors(Cores())
    worker.log = logging.getLogger("avito_ai.test")
    yield worker
    while worker._accepted:
        worker._accepted.take().socket.close()
    worker.poller.close()


@pytest.mark.parametrize("number", EXHAUSTED)
def test_exhaustion_pauses_accepting_and_is_logged_once(idle, number, caplog):
    """For each failed try a connection that waits is closed; the next try is at once only if that helps."""
    for tries in range(1, 6):
        before = time.monotonic()
        idle.accept(FailingListener(number))
        assert idle._intake.closed == tries
        paused = idle._accept_again >= before + ACCEPT_PAUSE
        assert paused is (number != errno.EMFILE or tries > 3)
    assert len(caplog.records) == 1


def test_exhaustion_waits_for_what_is_yet_to_be_read(idle):
    """A fresh connection may hold a request: none is closed unread, and accepting goes on in the next round.

    Where others have taken what there is, that is of no use.
    """
    number = errno.EMFILE
    idle.cfg, idle._slow_readers, idle._intake.waiting, idle._intake.unread = None, SlowReaders(1), 0, 1
    idle.accept(FailingListener(number))
    assert idle._accept_again == 0.0
    idle._intake.unread = 0
    idle.accept(Backlog(1))
    idle.accept(FailingListener(number))
    assert idle._accept_again == 0.0
    idle.nr_conns = idle.worker_connections
    assert not idle.begin_some()  # there is no room for it
    idle.accept(FailingListener(number))
    assert (idle._accept_again > 0.0, len(idle._accepted)) == (True, 1)
    for other in EXHAUSTED:
        idle._accept_again, idle._intake.unread = 0.0, 1
        idle.accept(FailingListener(other))
        assert (idle._accept_again > 0.0) is (other != errno.EMFILE)


def test_descriptors_of_a_crowd_are_taken_first(idle):
    """The last ones that were accepted of an address with very many of them go before any that waits."""
    idle._most_of_a_peer = 500
    idle.accept(Backlog(READ_AT_ONCE + 1))
    idle.accept(Backlog(2, "127.0.0.2"))
    for closed in (0, 0, 1):
        idle.accept(FailingListener(errno.EMFILE))
        assert idle._intake.closed == closed
    assert [idle._accepted.number_of(address) for address in ("127.0.0.1", "127.0.0.2")] == [READ_AT_ONCE - 1, 2]


def test_a_lack_of_memory_pauses_accepting(idle, caplog):
    """As where the kernel has too little of it."""
    listener = FailingListener(errno.ENOMEM)
    listener.error = MemoryError()
    before = time.monotonic()
    idle.accept(listener)
    assert (idle._intake.closed, idle._accept_again >= before + ACCEPT_PAUSE) == (1, True)
    assert os.strerror(errno.ENOMEM) in caplog.text


class Lost:
    """Models that only a new process can recover; counts how often that is asked."""

    loading = False
    asked = 0

    @property
    def restart_needed(self):
        self.asked += 1
        return True


def test_a_new_process_is_asked_for_between_events_but_not_with_each(idle, caplog):
    """A flood of connections does not ask every model for its state each time; a sweep does, once it is due."""
    models = Lost()
    gate = SimpleNamespace(tell_unlogged=lambda: None)
    idle.wsgi = SimpleNamespace(extensions={"services": SimpleNamespace(models=models, gate=gate)})
    idle.lost, idle._drain_until, idle.beat = False, None, lambda: None
    idle._intake.sweep = lambda: False
    idle._next_sweep = math.inf
    for _ in range(50):
        idle.wait_for_and_dispatch_events(0)
    assert (models.asked, idle.lost) == (0, False)
    idle._next_sweep, idle._drain = 0.0, lambda until: None
    for _ in range(3):
        idle.wait_for_and_dispatch_events(0)
        idle._next_sweep = 0.0
    assert (models.asked, idle.lost) == (1, True)
    assert "A model needs a new process" in caplog.text


def test_an_error_in_a_callback_ends_no_worker(idle, caplog):
    """The other callbacks of the same turn are called; an error of a listening socket is raised."""
    ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
    called = []

    def broken(_):
        called.append("broken")
        raise ValueError("what a client sent".upper())

    for end, callback in zip(ours, (broken, called.append, broken), strict=True):
        idle.poller.register(end, selectors.EVENT_READ, callback)
    for end in theirs:
        end.sendall(b"x")
    idle._dispatch_events(1.0)
    assert len(called) == 3
    assert "ValueError" in caplog.text
    assert "WHAT A CLIENT" not in caplog.text
    idle.sockets = [ours[0]]
    with pytest.raises(ValueError, match="WHAT"):
        idle._dispatch_events(1.0)
    for end in ours + theirs:
        end.close()


def test_each_sweep_looks_for_a_successor(idle):
    """So that models leave it a core while it loads."""
    gate, looks = SimpleNamespace(tell_unlogged=lambda: None), []
    idle.wsgi = SimpleNamespace(extensions={"services": SimpleNamespace(models=Lost(), gate=gate)})
    idle.lost, idle._intake.sweep, idle._successors = True, lambda: False, SimpleNamespace(look=looks.append)
    idle._next_sweep = 0.0
    for _ in range(3):
        idle._sweep()
    assert looks == [NO_PROCESS]


def test_under_a_flood_requests_gather_between_rounds(idle, monkeypatch):
    """From so many refusals since the last sweep on, until a sweep finds fewer: the engine is interrupted less.

    A round that has taken long by itself is followed by the next at once.
    """
    paused, now, took = [], [100.0], [0.0]
    monkeypatch.setattr("serving.worker.time", SimpleNamespace(sleep=paused.append, monotonic=lambda: now[0]))
    idle._intake.read_some = lambda: now.__setitem__(0, now[0] + took[0])
    gate = SimpleNamespace(tell_unlogged=lambda: None)
    idle.wsgi = SimpleNamespace(extensions={"services": SimpleNamespace(models=Lost(), gate=gate)})
    idle.lost, idle._intake.sweep, idle.beat = True, lambda: False, lambda: None
    enough = int(FLOOD * SWEEP_INTERVAL)
    short, long = GATHERING_ROUND - GATHERING, GATHERING_ROUND - GATHERING / 4
    rounds = [(enough - 1, 0.0, []), (enough, 0.0, [GATHERING]), (enough, short, [GATHERING])]
    rounds += [(enough, long, [GATHERING / 4]), (enough, 2 * GATHERING_ROUND, [0.0]), (0, 0.0, [])]
    for more, seconds, expected in rounds:
        took[0] = seconds
        idle._intake.refused += more
        idle._next_sweep = 0.0
        idle._sweep()
        idle._next_sweep, paused[:] = math.inf, []
        idle.wait_for_and_dispatch_events(0)
        assert paused == pytest.approx(expected)


def test_a_request_that_cannot_be_ended_is_dropped(idle, caplog):
    """Its connection is closed, and the poller goes on."""
    future = Future()
    future.set_result(True)

    def end_request():
        raise OSError(errno.EIO, "damaged")

    conn = SimpleNamespace(sock=SimpleNamespace(end_request=end_request, is_last_request=False))
    idle.finish_request(conn, future)
    assert idle._intake.dropped == [conn]


def test_a_request_that_is_held_back_goes_on_when_a_turn_is_free(idle):
    """The thread that gives it back tells the polling one, if anything waits."""
    too_many, sock = ["many"], SimpleNamespace(request_head=b"POST / HTTP/1.1", request=None, has_left=False)
    deferred, served = [], []
    idle._share_cores()
    idle.method_queue = SimpleNamespace(defer=deferred.append)
    idle._held_back._courtesy = lambda client, light: PATIENCE * (client in too_many)
    idle._held_back._hand_over = served.append
    turns = []
    idle._turns.begin("other", turns.append)
    while idle._turns.free:
        idle._turns.begin("other", turns.append)
    for turn in turns[1:]:
        turn.leave()
    assert deferred == []
    conn = SimpleNamespace(asked_by="many", sock=sock)
    idle.enqueue_req(conn)
    too_many.clear()
    turns[0].leave()
    for hand_on in deferred:
        hand_on()
    assert (len(deferred), served) == (1, [conn])


def test_a_request_that_is_held_back_goes_on_when_others_end(idle):
    """When one has ended, in a sweep once it has waited for long enough, and all of them in a drain.

    A sweep ends what waits for clients that have left.
    """
    too_many, served, dropped, now = ["many"], [], [], [0.0]
    idle._held_back = HeldBack(
        lambda client, light: COURTESY * (client in too_many), served.append, dropped.append, lambda: now[0]
    )
    idle._intake.sweep, idle._intake.close_behind = lambda: False, lambda *_: None
    idle.wsgi, idle.lost = None, True
    sock = SimpleNamespace(request_head=b"POST / HTTP/1.1", request=None, has_left=False, end_request=lambda: None)
    sock.is_last_request = False
    conns = [SimpleNamespace(asked_by="many", sock=sock) for _ in range(3)]

    def sweep():
        idle._next_sweep = 0.0
        idle._sweep()

    idle.enqueue_req(conns[0])
    sweep()
    assert served == []
    too_many.clear()
    ended = Future()
    ended.set_result(False)
    idle.finish_request(SimpleNamespace(sock=sock), ended)
    assert served == conns[:1]
    too_many.append("many")
    idle.enqueue_req(conns[1])
    now[0] = COURTESY
    sweep()
    assert served == conns[:2]
    idle.enqueue_req(conns[2])
    idle._drain_until = time.monotonic() + PATIENCE
    sweep()
    assert served == conns
    idle._drain_until = None
    left = SimpleNamespace(asked_by="many", sock=SimpleNamespace(**vars(sock) | {"has_left": True}))
    idle.enqueue_req(left)
    sweep()
    assert (served, dropped) == (conns, [left])


@pytest.mark.parametrize(("cores", "turns"), [(1, 1), (2, AT_ONCE), (64, AT_ONCE)])
def test_on_one_core_one_request_is_worked_on_at_once(idle, monkeypatch, cores, turns):
    """Two would only take turns there."""
    monkeypatch.setattr("serving.worker.usable_cores", lambda: cores)
    shared(idle)
    assert idle._turns._lines[0].free == turns


def shared(worker, queue_timeout=30.0, request_timeout=300.0):
    """Let a worker share its cores; return what its gate asks of a client's line."""
    asked = []
    of_worker = SimpleNamespace(
        gate=SimpleNamespace(ask_of_lines=asked.append),
        settings=SimpleNamespace(engine=SimpleNamespace(queue_timeout=queue_timeout, request_timeout=request_timeout)),
        models=[("avibe", SimpleNamespace(info=SimpleNamespace(on_processor=True)))],
    )
    worker.tpool, worker.wsgi = None, SimpleNamespace(extensions={"services": of_worker})
    worker._share_cores()
    (full,) = asked
    return full


@pytest.mark.parametrize(("times", "patience"), [((30.0, 300.0), PATIENT), ((1.0, 300.0), 0.5), ((30.0, 1.0), 0.45)])
def test_a_request_waits_for_others_for_half_of_its_time_in_the_queue_at_most(idle, times, patience):
    """The other half is left for the engine's queue; it has no more than all of its time for that."""
    shared(idle, *times)
    for _ in range(OFTEN):
        idle._turns.begin("many", lambda turn: turn.leave())
    idle._turns.begin("other", lambda turn: turn.leave())
    assert idle._turns.courtesy("many") == patience


def request(client, head=b"GET / HTTP/1.1"):
    """Return a connection with a whole request."""
    return SimpleNamespace(asked_by=client, sock=SimpleNamespace(request_head=head, request=None))


class Refusing:
    """An intake that keeps what it is to refuse."""

    def __init__(self):
        self.refused = []

    def refuse(self, conn, error):
        self.refused.append((conn, error))


def test_what_is_light_is_refused_once_its_client_has_very_many(idle):
    """In service or waiting for a turn; others' are served, and so are its requests for answers."""
    shared(idle)
    idle._intake, idle._begin = Refusing(), lambda conn, turn: None
    idle._held_back._courtesy = lambda client, light: 0.0
    for _ in range(LIGHT_OF_A_CLIENT):
        idle.enqueue_req(request("many"))
    assert not idle._intake.refused
    late, answer, other = request("many"), request("many", b"POST /v1/chat/completions HTTP/1.1"), request("few")
    answer.sock.request = SimpleNamespace(plain=SimpleNamespace(path="/v1/chat/completions"))
    for one in (late, answer, other):
        idle.enqueue_req(one)
    ((refused, error),) = idle._intake.refused
    assert (refused, type(error)) == (late, Overloaded)
    assert idle._turns.number("few", light=True) == 1


def test_what_waits_for_its_turn_for_too_long_is_refused(idle):
    """As a request is that waits in the engine's queue: without a thread, and without a turn."""
    shared(idle, queue_timeout=0.0)
    idle._intake, begun = Refusing(), []
    idle._begin = lambda conn, turn: begun.append(conn)
    idle._turns._lines[0]._patience = 0.0
    asked = [request(str(number)) for number in range(20)]
    for one in asked:
        idle.enqueue_req(one)
    deadline = time.monotonic() + PATIENCE
    while len(begun) + len(idle._intake.refused) < len(asked) and time.monotonic() < deadline:
        idle._turns.hasten()
    refused = [conn for conn, error in idle._intake.refused if type(error) is DeadlineExceeded]
    assert begun + refused == asked
    assert refused


def test_clients_take_turns_with_their_probes(idle):
    """However many one has sent: that of another waits for those that have a thread, and for one of each client."""
    shared(idle)
    probing = []
    idle._probing = SimpleNamespace(submit=lambda handle, conn: probing.append(conn) or Future())
    idle.finish_request = lambda conn, future: None
    probe = b"GET /api/health/live HTTP/1.1"
    many = [request("many", probe) for _ in range(PROBES_AT_ONCE + 3)]
    few = [request("few", probe) for _ in range(2)]
    for one in (*many, *few):
        idle.enqueue_req(one)
    assert probing == many[:PROBES_AT_ONCE]
    for _ in range(len(many) + len(few)):
        idle._finish_probe(probing[0], Future())
    first, second, third = many[PROBES_AT_ONCE:]
    assert probing[PROBES_AT_ONCE:] == [first, few[0], second, few[1], third]
    assert idle._probes._free == PROBES_AT_ONCE


def test_the_gate_knows_whose_line_is_full(idle):
    """So that it refuses what would only wait longer."""
    full = shared(idle)
    sock = SimpleNamespace(request_head=b"POST / HTTP/1.1", request=None)
    idle._held_back._courtesy = lambda client, light: COURTESY
    for _ in range(LINE):
        assert not full("many")
        idle.enqueue_req(SimpleNamespace(asked_by="many", sock=sock))
    assert full("many")
    assert not full("few")


class Unnamed:
    """A listening socket that has lost its name; what it accepts is real."""

    def __init__(self, error):
        self.error = error
        self.accepted, self.client = socket.socketpair()

    def accept(self):
        return self.accepted, ("127.0.0.1", 1)

    def getsockname(self):
        raise self.error


@pytest.mark.parametrize("error", [OSError(errno.ENOBUFS, "no room"), MemoryError(), ValueError("a bug")])
def test_a_connection_that_cannot_be_set_up_is_closed(idle, error):
    """It is not counted as one of the worker's."""
    idle.cfg, listener = None, Unnamed(error)
    assert idle._accept(listener)
    assert not idle.begin_some()
    assert (idle.nr_conns, len(idle._accepted), dict(idle._peers)) == (0, 0, {})
    assert listener.client.recv(1) == b""
    listener.client.close()


def test_sibling_is_another_living_child_of_the_parent():
    """A process has a sibling while its parent has another running child."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], **pipes) as parent:
        assert parent.stdout.readline() == b"child\n"
        assert has_sibling(parent.pid)
        parent.communicate(b"\n", timeout=60)
    assert not has_sibling(NO_PROCESS)


def test_the_engine_gets_the_interpreter_lock_back_soon(monkeypatch):
    """A thread that serves a request gives the lock up after half a millisecond, once the worker serves."""
    before, during = sys.getswitchinterval(), []
    monkeypatch.setattr(ThreadWorker, "run", lambda worker: during.append(sys.getswitchinterval()))
    worker = object.__new__(ServiceWorker)
    worker.sockets, worker.poller, worker._new_intake = [], selectors.DefaultSelector(), lambda: None
    worker.worker_connections = 1
    try:
        worker.run()
    finally:
        sys.setswitchinterval(before)
    assert during == [pytest.approx(SWITCH_INTERVAL)]


def test_without_another_child_there_is_no_sibling():
    """A process whose child has ended has none."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        assert not has_sibling(parent.pid)
        parent.communicate(b"\n", timeout=60)


@pytest.mark.parametrize(
    ("line", "taken"),
    [("POST /", True), ("GET /", True), ("OPTIONS /", True), ("GET /api/health/live", False), ("GET /ready", False)],
)
def test_all_but_probes_are_served_in_their_turn(monkeypatch, line, taken):
    """A probe waits for nobody; the turn ends with the request, and the next one has a thread only then."""
    served, handed, worker = [], [], object.__new__(ServiceWorker)
    worker._share_cores()
    worker._turns, worker._pool = Turns(1), SimpleNamespace(idle=True)
    worker.tpool = worker._probing = SimpleNamespace(submit=lambda *call: handed.append(call) or Future())
    first = worker._turns._lines[0]
    monkeypatch.setattr(ThreadWorker, "handle", lambda self, conn: served.append(first.free) or True)
    head = f"{line} HTTP/1.1".encode()
    sock = SimpleNamespace(
        request_unreadable=False, request_whole=True, request_head=head, request=None, was_reset=False
    )
    for _ in range(2):
        worker.enqueue_req(SimpleNamespace(sock=sock, asked_by="a", turn=None))
    assert len(handed) == (1 if taken else 2)
    handle, *arguments = handed[0]
    assert handle(*arguments)
    assert (served, first.free, len(handed)) == ([0 if taken else 1], 0 if taken else 1, 2)


def test_a_request_whose_turn_comes_when_the_threads_have_ended_harms_nobody():
    """It is the thread of another that gives it its turn."""
    worker = object.__new__(ServiceWorker)
    worker._share_cores()
    worker._turns = Turns(1)
    worker.tpool = worker._pool = RecentFirstPool(1)
    worker.method_queue = MainLoop()
    begun = []
    worker._turns.begin("a", begun.append)
    conn = SimpleNamespace(sock=SimpleNamespace(request_head=b"GET / HTTP/1.1"), asked_by="b", turn=None)
    worker.enqueue_req(conn)
    assert worker._turns.number("b", light=True) == 1  # it waits for a turn
    worker.tpool.shutdown()
    begun[0].leave()
    assert conn.turn is not None


def test_a_request_without_a_free_thread_leaves_its_turn_to_those_that_have_one():
    """It would hold the turn while it waits for one of them; it takes it again once it has a thread."""
    worker, served = object.__new__(ServiceWorker), []
    worker._share_cores()
    worker._turns, worker.method_queue = Turns(1), MainLoop()
    worker.tpool = worker._pool = RecentFirstPool(1)
    first = worker._turns._lines[0]
    occupied = threading.Event()
    held = worker._pool.submit(occupied.wait, PATIENCE)
    until(lambda: not worker._pool.idle)
    worker.handle = lambda conn: served.append(conn)
    worker.finish_request = None
    conn = SimpleNamespace(sock=SimpleNamespace(request_head=b"GET / HTTP/1.1"), asked_by="a", turn=None)
    worker.enqueue_req(conn)
    (give_back,) = worker.method_queue.calls
    assert first.free == 0
    give_back()
    assert first.free == 1
    with worker._turns.serving(conn.turn):
        assert first.free == 0
    assert first.free == 1
    occupied.set()
    held.result(PATIENCE)
    until(lambda: served)
    worker._pool.shutdown()


def test_no_two_requests_count_on_the_same_idle_thread(monkeypatch):
    """Two threads that give back their turns at once: the second request finds no idle one and leaves its turn."""
    worker = object.__new__(ServiceWorker)
    worker._share_cores()
    worker._turns, worker.method_queue, idle = Turns(2), MainLoop(), [1]
    other_waits = threading.Event()

    class Watched:
        """The lock under which a thread is given; tells when somebody waits for it."""

        def __init__(self):
            self._lock = threading.Lock()

        def __enter__(self):
            if not self._lock.acquire(blocking=False):
                other_waits.set()
                self._lock.acquire()

        def __exit__(self, *_):
            self._lock.release()

    class Pool:
        @property
        def idle(self):
            found = idle[0] > 0
            if threads[0].ident == threading.get_ident():
                threads[1].start()
                assert other_waits.wait(PATIENCE), "the other looked as well"
            return found

    def submit(*call):
        idle[0] -= 1
        return Future()

    worker._pool, worker.tpool, worker._handing_over = Pool(), SimpleNamespace(submit=submit), Watched()
    conns = [
        SimpleNamespace(sock=SimpleNamespace(request_head=b"GET / HTTP/1.1"), asked_by=name, turn=None) for name in "ab"
    ]
    threads = [threading.Thread(target=worker.enqueue_req, args=(conn,)) for conn in conns]
    threads[0].start()
    for thread in threads:
        until(lambda thread=thread: thread.ident is not None)
        thread.join(PATIENCE)
    assert (idle[0], len(worker.method_queue.calls)) == (-1, 1)


@pytest.mark.parametrize("where", ["_intake.sweep", "_turns.hasten"])
def test_what_a_sweep_left_late_is_seen_to_in_the_next_rounds(idle, where):
    """Until nothing is: the loop waits for no event meanwhile, and what is done at intervals is not done more often."""
    gate, looks, left = SimpleNamespace(tell_unlogged=lambda: None), [], [True, True, False]
    idle.wsgi = SimpleNamespace(extensions={"services": SimpleNamespace(models=Lost(), gate=gate)})
    idle.lost, idle.beat, idle._successors = True, lambda: None, SimpleNamespace(look=looks.append)
    idle._intake.sweep = lambda: False
    owner, name = where.split(".")
    setattr(getattr(idle, owner), name, lambda: left.pop(0))
    idle._next_sweep, seen = 0.0, []
    for _ in range(4):
        idle.wait_for_and_dispatch_events(0)
        idle._next_sweep = math.inf
        seen.append((len(left), idle._more_to_do))
    assert seen == [(2, True), (1, True), (0, False), (0, False)]
    assert len(looks) == 1


def test_a_sweep_lets_requests_begin_that_have_waited_long_enough(idle):
    """No thread waits in their place."""
    idle.wsgi, idle.lost, began = None, True, []
    idle._intake.sweep = lambda: False
    idle._turns = Turns(1, patience=0.0, late=1)
    for name in "ab":
        idle._turns.begin(name, lambda turn: began.append(turn.client))
    assert began == ["a"]
    idle._next_sweep = 0.0
    idle._sweep()
    assert began == ["a", "b"]


@pytest.mark.parametrize(("devices", "shared"), [(("cpu", "cuda:0"), True), (("cuda:0", "cuda:1"), False), ((), False)])
def test_requests_are_held_back_where_a_model_computes_on_these_cores(tmp_path, devices, shared):
    """One on the processor is enough; before the application is built there is none."""
    worker = object.__new__(ServiceWorker)
    infos = [ModelInfo.of(text_spec(tmp_path, device=device), 64) for device in devices]
    models = ModelSet({f"model {number}": SimpleNamespace(info=info) for number, info in enumerate(infos)})
    worker.wsgi = SimpleNamespace(extensions={"services": SimpleNamespace(models=models)}) if devices else None
    assert worker._models_compute_here() == shared


@pytest.mark.parametrize("line", ["POST / HTTP/1.1", "GET /api/health/live HTTP/1.1"])
def test_a_request_that_cannot_be_read_is_no_longer_counted_once_it_is_answered(monkeypatch, line):
    """Else its client would have ever more requests in service."""
    answered, handed, worker = [], [], object.__new__(ServiceWorker)
    worker._share_cores()
    worker.tpool = worker._probing = SimpleNamespace(submit=lambda *call: handed.append(call) or Future())
    worker._pool = SimpleNamespace(idle=True)
    monkeypatch.setattr(ServiceWorker, "handle_error", lambda self, req, sock, client, error: answered.append(client))
    sock = SimpleNamespace(
        request_unreadable=True, request_whole=False, request_head=line.encode(), request=None, was_reset=False
    )
    conn = SimpleNamespace(sock=sock, asked_by="a", client="address", turn=None)
    worker.enqueue_req(conn)
    ((handle, *arguments),) = handed
    assert worker._turns._service.number("a") == (0 if "health" in line else 1)
    assert not handle(*arguments)
    assert (answered, worker._turns._service.number("a"), len(worker._turns._service._counts)) == (["address"], 0, 0)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
def test_what_is_only_read_is_dropped_for_a_client_that_has_left(monkeypatch, method, reset):
    """Its turn came too late; what may change something is done all the same."""
    served = []
    worker = object.__new__(ServiceWorker)
    worker._turns, begun = Turns(), []
    worker._turns.begin("a", begun.append)
    monkeypatch.setattr(ThreadWorker, "handle", lambda self, conn: served.append(method) or True)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        sock = ClientSocket(server.accept()[0], 1.0)
        sock.request = SimpleNamespace(
            head=f"{method} / HTTP/1.1".encode(), unreadable=False, stage=Stage.WHOLE, close=lambda: None
        )
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            assert select.select([sock], [], [], PATIENCE)[0]
        kept = worker.handle(SimpleNamespace(sock=sock, asked_by="a", turn=begun[0]))
        dropped = reset and method in ("GET", "HEAD")
        assert (served, kept) == ([] if dropped else [method], not dropped)
        sock.close()


# The routes that the table opens to probes, under all their names, and how load balancers ask for them.
PROBED = [name.split()[1] for name, row in ROUTES.items() if row.need is Need.PROBE]
PROBED += [f"http://10.0.0.1:8000{PROBED[0]}", f"HTTPS://a.example{PROBED[-1]}"]
ASKED = [("GET", ""), ("HEAD", ""), ("GET", "?lb=1"), ("HEAD", "?"), ("GET", "/"), ("HEAD", "/?a=/b&c")]


@pytest.mark.parametrize(
    ("line", "own"),
    [
        *((f"{method} {path}{rest}", True) for path in PROBED for method, rest in ASKED),
        ("GET /", False),
        ("POST /api/health", False),
        ("POST /ready", False),
        ("GET /ready/x", False),
        ("GET /readyx", False),
        ("GET /?/ready", False),
        ("GET /health?/ready", False),
        ("GET http://a?/ready", False),
        ("get /ready", False),
    ],
)
def test_a_probe_is_served_by_a_thread_of_its_own(line, own):
    """However many other requests wait for a thread; and that thread waits for no client."""
    handed = []

    class Named:
        def __init__(self, name):
            self.name = name

        def submit(self, handle, conn):
            handed.append(self.name)
            return Future()

    worker = object.__new__(ServiceWorker)
    worker._probing, worker.tpool = Named("own"), Named("pool")
    worker._pool = SimpleNamespace(idle=True)
    worker._share_cores()
    sock = SimpleNamespace(request_head=f"{line} HTTP/1.1\r\n".encode(), request=None)
    worker.enqueue_req(SimpleNamespace(sock=sock, asked_by="a"))
    assert handed == ["own" if own else "pool"]
    assert getattr(sock, "never_waits", False) is own
    assert worker._turns._service.number("a") == (0 if own else 1)  # counted from here on


class Backlog:
    """A listening socket with so many clients in its backlog, all of one address."""

    def __init__(self, clients, address="127.0.0.1"):
        self.clients, self.address, self.named = clients, address, 0

    def accept(self):
        if not self.clients:
            raise BlockingIOError(errno.EAGAIN, "nobody")
        self.clients -= 1
        ours, client = socket.socketpair()
        client.close()
        return ours, (self.address, 1)

    def getsockname(self):
        self.named += 1
        return ("127.0.0.1", 8085)


def begin_while_there_are_more(worker):
    """As the loop does, which waits for nothing else meanwhile."""
    while worker.begin_some():
        pass


def test_connections_are_accepted_together(idle):
    """So many in one round, the rest in the next; never beyond the bound, where one that waits goes for the next."""
    idle.cfg, idle.worker_connections, listener = None, 1000, Backlog(ACCEPTED_AT_ONCE + 3)
    idle._slow_readers, idle._most_of_a_peer = SlowReaders(1), 1000
    idle.accept(listener)
    assert (listener.clients, len(idle._accepted)) == (3, ACCEPTED_AT_ONCE)
    idle.accept(listener)
    begin_while_there_are_more(idle)
    assert (len(idle._accepted), idle.nr_conns, listener.named) == (0, ACCEPTED_AT_ONCE + 3, 1)
    idle.nr_conns, listener.clients = 998, 9
    idle.accept(listener)
    assert (idle._intake.closed, idle.begin_some()) == (0, False)
    assert (len(idle._accepted), idle.nr_conns, idle._intake.closed) == (7, 1000, 2)  # one for each of the last two
    assert set(idle._intake.leasts) == {SILENT_SECONDS}
    assert idle._intake.calls.count("expect") == ACCEPTED_AT_ONCE + 3 + 2  # also the one for which nobody went


@pytest.mark.parametrize(
    ("most_of_a_peer", "unread", "addresses", "accepted"),
    [
        (None, 0, 0, READ_AT_ONCE),  # behind a proxy
        (None, READ_AT_ONCE, 1, AT_LEAST),
        (500, 10 * READ_AT_ONCE, READ_AT_ONCE - 2, ACCEPTED_AT_ONCE),
        (500, 10 * READ_AT_ONCE, READ_AT_ONCE - 1, AT_LEAST),
    ],
)
def test_few_are_accepted_behind_a_round_of_others(idle, most_of_a_peer, unread, addresses, accepted):
    """Behind those of one address the next one may be another's; behind those of many it is not read at once."""
    idle._most_of_a_peer, idle._intake.unread, idle._intake.unread_addresses = most_of_a_peer, unread, addresses
    idle.accept(Backlog(ACCEPTED_AT_ONCE, "127.0.0.9"))
    assert len(idle._accepted) == accepted


def test_of_those_accepted_each_address_has_its_turn(idle):
    """Who comes behind a crowd begins in the next round; the crowd goes on as it came, and nobody is closed."""
    idle.cfg, idle.worker_connections, idle._slow_readers = None, 1000, SlowReaders(1)
    idle._most_of_a_peer = 500
    idle.accept(Backlog(3 * READ_AT_ONCE))
    idle.accept(Backlog(2, "127.0.0.2"))
    assert idle.begin_some()
    assert Counter(idle._intake.expected) == {"127.0.0.1": READ_AT_ONCE - 2, "127.0.0.2": 2}
    begin_while_there_are_more(idle)
    assert (idle._peers["127.0.0.1"], idle.nr_conns, idle._intake.closed) == (3 * READ_AT_ONCE, 3 * READ_AT_ONCE + 2, 0)


def test_a_turn_is_kept_until_there_is_room(idle):
    """With one place that is free now and then, each address gets it in turn, whoever has as many as it may have."""
    idle.cfg, idle._slow_readers, idle._most_of_a_peer = None, SlowReaders(1), 5
    idle.worker_connections = idle.nr_conns = 10
    idle._intake.waiting, idle._peers["127.0.0.3"] = 0, 5
    for address in ("127.0.0.1", "127.0.0.3", "127.0.0.2"):
        idle.accept(Backlog(4, address))
    for _ in range(6):
        idle.nr_conns -= 1
        assert not idle.begin_some()
    assert idle._intake.expected == ["127.0.0.1", "127.0.0.2"] * 3


def test_what_finds_no_room_for_long_is_closed(idle, monkeypatch):
    """As a connection is that says nothing for as long; a sweep looks."""
    now = [100.0]
    monkeypatch.setattr("serving.accepting.time.monotonic", lambda: now[0])
    idle.wsgi, idle.lost, idle._intake.sweep, idle.send_timeout = None, True, lambda: False, 30.0
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        idle.accept(Backlog(1, address))
        now[0] += 14.0
        idle._next_sweep = 0.0
        idle._sweep()
    assert [one.budget_key for one in idle._accepted] == ["127.0.0.2", "127.0.0.3"]


@pytest.mark.parametrize("leave", ["read_some", "sweep"])
def test_room_is_used_at_once(idle, leave):
    """Where one that was read, or given up in a sweep, has left it: the loop waits for nothing else."""
    idle.cfg, idle._slow_readers, idle._most_of_a_peer = None, SlowReaders(1), 5
    idle.wsgi, idle.lost, idle.beat, idle._peers["127.0.0.1"] = None, True, lambda: None, 5
    idle._intake.waiting, idle._intake.sweep, idle._next_sweep = 0, lambda: False, 0.0
    idle.accept(Backlog(1))
    idle.wait_for_and_dispatch_events(0)
    assert not idle._more_to_do
    setattr(idle._intake, leave, lambda: bool(idle.forget(SimpleNamespace(budget_key="127.0.0.1"))))
    idle.nr_conns, idle._next_sweep = 5, 0.0
    idle.wait_for_and_dispatch_events(0)
    assert idle._more_to_do
    idle.wait_for_and_dispatch_events(0)
    assert idle._intake.expected == ["127.0.0.1"]


@pytest.mark.parametrize(("last", "leftover"), [(True, b""), (True, b"GET"), (False, b"")])
def test_behind_its_last_answer_a_connection_is_closed(idle, last, leftover):
    """What it was is asked before it is ended."""
    ended, closed, future = [], [], Future()
    future.set_result(False)

    class Ending:
        @property
        def is_last_request(self):
            return last and not ended

        def end_request(self):
            ended.append(True)

    idle._intake.close_behind = lambda conn, was_last: closed.append(was_last)
    idle.finish_request(SimpleNamespace(sock=Ending(), leftover=leftover), future)
    assert closed == [last and not leftover]


def test_too_many_that_were_accepted_are_closed(idle):
    """The last ones of the address that has most of them, whoever came last."""
    idle._most_accepted = 10
    idle.accept(Backlog(9))
    idle.accept(Backlog(4, "127.0.0.2"))
    assert [idle._accepted.number_of(address) for address in ("127.0.0.1", "127.0.0.2")] == [6, 4]


def test_what_is_unread_is_read_without_waiting_for_anything_else(idle):
    """Some in each round; before a stop and at the end of listening all of it, with all that were accepted."""
    idle._next_sweep, idle.beat, waited = math.inf, lambda: None, []
    idle.poller = SimpleNamespace(select=lambda seconds: waited.append(seconds) or [], close=lambda: None)
    for unread in (0, 1, 0):
        idle._intake.unread = unread
        idle.wait_for_and_dispatch_events(0.125)
    assert (waited, idle._intake.read) == ([0.125, 0.125, 0.0], 3)
    idle.cfg, idle._slow_readers, idle.worker_connections = None, SlowReaders(1), 1000
    idle._most_of_a_peer = 500
    idle.accept(Backlog(READ_AT_ONCE + 1))
    for _ in range(3):
        idle.wait_for_and_dispatch_events(0.125)
    assert (waited[3:], idle.nr_conns) == ([0.125, 0.0, 0.125], READ_AT_ONCE + 1)
    idle._intake.calls.clear()
    idle.nr_conns = idle.worker_connections
    idle.accept(Backlog(1))
    idle._cap_keepalive(7.0)
    assert idle._intake.calls == ["expect", "read", 7.0]
    idle._intake.calls.clear()
    idle.accept_all(Backlog(2))
    assert idle._intake.calls == ["expect", "read", "expect", "read"]


def test_an_address_has_a_bounded_number_of_connections(idle):
    """In service or not: one of its own that waits is closed for a new one, or that one waits until there is room."""
    idle.cfg, idle.worker_connections, idle._most_of_a_peer = None, 1000, 5
    idle._slow_readers, listener = SlowReaders(1), Backlog(5)
    idle.accept(listener)
    assert not idle.begin_some()
    assert (idle.nr_conns, idle._intake.closed) == (5, 0)
    listener.clients = 10
    idle.accept(listener)
    idle.accept(Backlog(1, "127.0.0.2"))
    assert not idle.begin_some()
    waiting = 10 - idle._intake.waiting
    assert (idle.nr_conns, len(idle._accepted)) == (5 + idle._intake.waiting + 1, waiting)
    assert set(idle._intake.leasts) == {SILENT_SECONDS}
    assert not idle.begin_some()
    assert len(idle._accepted) == waiting
    idle._peers["127.0.0.1"] = 5
    of_it = SimpleNamespace(budget_key="127.0.0.1")
    idle.forget(of_it)
    assert not idle.begin_some()
    assert (len(idle._accepted), idle._peers["127.0.0.1"]) == (waiting - 1, 5)
    for _ in range(5):
        idle.forget(of_it)
    assert "127.0.0.1" not in idle._peers


@pytest.mark.parametrize("limit", [400, 2000, 10_000, resource.RLIM_INFINITY])
def test_connections_that_were_accepted_leave_descriptors(monkeypatch, limit):
    """With few of them only some are accepted beyond those that may be in service."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    left = {400: AT_LEAST, 2000: 2000 - 1520 - SPARE_DESCRIPTORS}.get(limit, ACCEPTED_MOST)
    assert _room_for_accepted(1520) == left


def test_the_master_is_told_of_life_a_few_times_and_not_in_every_round(idle, monkeypatch):
    """Each notice is a system call."""
    told = []
    monkeypatch.setattr(ThreadWorker, "notify", lambda worker: told.append(worker))
    idle._next_notice = 0.0
    for _ in range(100):
        idle.notify()
    assert told == [idle]
    idle._next_notice = 0.0
    idle.notify()
    assert told == [idle, idle]
