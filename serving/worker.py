"""The Gunicorn worker: gthread with bounded connections, a drain that keeps responding, and watchdog keep-alives.

Differences from gthread:
- A connection waits in the poller, not in a thread, until its request is whole; all its waits are bounded, and bodies
  are admitted by their bytes (`serving.intake`). There it also lingers before it is closed.
- Out of descriptors or connections, room is made (`serving.accepting`); all threads exist from the start, so that no
  limit of tasks is met later.
- What is no HTTP gets a JSON response with a request id.
- At SIGTERM the listening socket stays open while admitted requests finish, and new requests get a typed 503 instead of
  waiting in the backlog. With a successor on the same socket, that one accepts them at once. Without one, connections
  established by the end of the drain are answered and later ones refused by the kernel, so that a proxy may retry them.
- For DRAIN_DELAY seconds before that, readiness is 503 and requests are still accepted.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import cached_property, partial
from selectors import BaseSelector
from types import FrameType

import psutil
from flask import Flask
from gunicorn.arbiter import Arbiter
from gunicorn.http.message import Request

from edge import errors
from edge.in_service import PATIENT
from edge.route_table import MIB
from edge.turns import AT_ONCE, BEGIN_WITHIN, Turn, Turns
from engine.errors import BUSY, WAITED_TOO_LONG, DeadlineExceeded, Overloaded, StartError
from engine.loading.control_groups import usable_cores
from engine.thread_start import start_threads
from models import ModelSet
from serving.accepting import ACCEPTED_MOST, AT_LEAST, AcceptingWorker
from serving.connection import ClientSocket, Connection, peer_of
from serving.held_back import HeldBack, is_light
from serving.intake import Intake
from serving.listener import end_listening, listen_again
from serving.malformed import FailureResponses, endless
from serving.plain_request import Environ, PlainRequest, serve, template
from serving.poller import Selector
from serving.priority import Successors
from serving.probes import Probing, is_probe
from serving.thread_pool import RecentFirstPool

# Interval at which a draining worker checks whether its requests are done, in seconds.
DRAIN_TICK = 0.1
# How long a stopping worker keeps a connection for a request that its client may already be sending, in seconds.
STOP_KEEPALIVE = 2.0
SWEEP_INTERVAL = 0.25
NOTICE_INTERVAL = 1.0
# Refusals a second from which the polling thread lets requests gather, and for how long, in seconds: each of its rounds
# takes the processor and the interpreter lock from the engine, however little there is to refuse. One that takes long
# by itself is sooner followed by the next, since probes wait for it: after so many seconds in all.
FLOOD = 100
GATHERING, GATHERING_ROUND = 0.012, 0.018
# Seconds after which a thread gives up the interpreter lock to another one that waits. The engine's thread releases it
# for each kernel, hundreds of times a second, and waits this long whenever a thread that serves a request has taken it.
SWITCH_INTERVAL = 0.0005
MAX_BODY_BYTES = 64 * MIB
PROBING_THREADS = 2
PROBES_AT_ONCE = 2 * PROBING_THREADS  # so that each thread has another one when it has served one
BEGIN_SHARE = 0.9  # of the time that a request may take; the rest is left for its work
LIGHT_OF_A_CLIENT = 256  # in service or waiting for a turn; more are refused
READING = (b"GET ", b"HEAD ")
SPARE_DESCRIPTORS = 256  # that connections leave


class ServiceWorker(AcceptingWorker):
    """One process with the models. The hooks of `gunicorn_config` set the attributes below after the fork.

    predecessors: pids of this master's workers that were alive at the fork; beat: called in each round; on_drain:
    called when a drain without a successor begins; send_timeout, drain_delay, drain_seconds: the settings.
    lost: True if the process ends because only a new one can recover.
    """

    wsgi: Flask | None = None
    predecessors: tuple[int, ...] = ()
    drain_delay = 0.0
    drain_seconds = 60.0
    beat: Callable[[], None] = staticmethod(lambda: None)
    on_drain: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._drain_until: float | None = None
        self._refuse_at = 0.0
        self._refusing = False
        self._aborted = False
        self._next_sweep = self._next_notice = 0.0
        self._refused, self._flooded = 0, False
        self._more_to_do = self._more_late = False
        self.lost = False
        self._successors = Successors()
        self._probing = ThreadPoolExecutor(PROBING_THREADS, "probe")

    @property
    def models(self) -> ModelSet:
        """The application's models; an empty set before it is built."""
        return self.wsgi.extensions["services"].models if self.wsgi is not None else ModelSet({})

    def begin_serving(self) -> None:
        """Start what the application's services run from the first connection on."""
        if self.wsgi is not None:
            self.wsgi.extensions["services"].begin_serving()

    def end_serving(self) -> None:
        """End it, once the last request has been answered."""
        if self.wsgi is not None:
            self.wsgi.extensions["services"].end_serving()

    @property
    def orphaned(self) -> bool:
        """True once the master of this worker has exited."""
        return bool(self.ppid != os.getppid())

    def load_wsgi(self) -> None:
        """Build the application; a StartError is logged as one sentence, without a traceback."""
        try:
            super().load_wsgi()
        except StartError as error:
            self.log.critical("The service cannot start: %s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def run(self) -> None:
        """Serve; listen again if an earlier worker has shut the socket down."""
        for listener in self.sockets:
            listen_again(listener, self.cfg.backlog)
        self.poller.close()  # Gunicorn's own
        self.poller: BaseSelector = Selector()
        self._intake = self._new_intake()
        self._most_accepted = _room_for_accepted(self.worker_connections)
        self._share_cores()
        sys.setswitchinterval(SWITCH_INTERVAL)
        super().run()

    def murder_keepalived(self, force: bool = False) -> None:
        """Close, at the end, every connection that no thread serves; before that, `Intake.sweep` does it."""
        if force:
            self._intake.close()

    def notify(self) -> None:
        """Tell the master that this worker is alive; not in every round of a busy loop."""
        if (now := time.monotonic()) >= self._next_notice:
            self._next_notice = now + NOTICE_INTERVAL
            super().notify()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return the pool with all its threads started, and start those for probes."""
        start_threads(self._probing, PROBING_THREADS)
        self._pool = RecentFirstPool(self.cfg.threads)
        start_threads(self._pool, self.cfg.threads)
        return self._pool

    def handle_error(self, req: Request | None, client: ClientSocket, addr: object, exc: Exception) -> None:
        """Answer a request that is no HTTP, or that failed outside of the application, in the API's own shape."""
        assert self.wsgi is not None  # built before the worker runs
        FailureResponses(self.wsgi).send(client, peer_of(addr), exc)

    def handle(self, conn: Connection) -> bool:
        """Serve one request in its own context, so that its log lines never carry an earlier request's id."""
        keep = Context().run(self._handle_in_turn, conn)
        return bool(keep) and conn.sock.request_whole

    def handle_request(self, req: Request, conn: Connection) -> bool:
        """Serve a request that was parsed; return whether its connection may serve another."""
        if not isinstance(req, PlainRequest):
            return bool(super().handle_request(req, conn))
        assert self.wsgi is not None  # built before the worker runs
        return serve(self.wsgi, req, conn, self._template, last=not self.alive)

    @cached_property
    def _template(self) -> Environ | None:
        return template(self.cfg)

    def _share_cores(self) -> None:
        patient = min(PATIENT, self._queue_timeout / 2)
        self._turns = Turns(
            min(AT_ONCE, usable_cores()),
            shares_cores=self._models_compute_here,
            patient=patient,
            begin_within=self._queue_timeout,
            on_free=self._on_free_turn,
        )
        self._held_back = HeldBack(
            self._turns.courtesy,
            self._hand_over,
            lambda conn: self._intake.drop(conn),
            free=lambda: self._turns.free,
            longest=patient,
        )
        self._probes = Probing(PROBES_AT_ONCE, self._probe)
        self._handing_over = threading.Lock()  # held while a request is given a thread
        if self.wsgi is not None:
            self.wsgi.extensions["services"].gate.ask_of_lines(self._held_back.full)

    def _on_free_turn(self) -> None:
        if self._held_back:
            self.method_queue.defer(self._held_back.hand_on)

    @property
    def _queue_timeout(self) -> float:
        """Seconds in which a request has to start."""
        if self.wsgi is None:
            return BEGIN_WITHIN
        engine = self.wsgi.extensions["services"].settings.engine
        return float(min(engine.queue_timeout, BEGIN_SHARE * engine.request_timeout))

    def _models_compute_here(self) -> bool:
        return any(backend.info.on_processor for _, backend in self.models)

    def _handle_in_turn(self, conn: Connection) -> bool:
        """Serve one request in its turn; probes have none. What a client only reads is dropped if it has left."""
        turn, conn.turn = conn.turn, None
        if turn is None:
            return self._handle(conn)
        with self._turns.serving(turn):
            if conn.sock.request_head.startswith(READING) and conn.sock.was_reset:
                return False
            return self._handle(conn)

    def _handle(self, conn: Connection) -> bool:
        if conn.sock.request_unreadable:
            self.handle_error(None, conn.sock, conn.client, endless(conn.sock.request_head))
            return False
        return bool(super().handle(conn))

    def enqueue_req(self, conn: Connection) -> None:
        """Hand a whole request to a thread, in its turn; a probe to one that nothing else occupies."""
        if is_probe(conn.sock.request_head):
            conn.sock.never_waits = True  # else a few clients that do not read would take these threads
            self._probes.put(conn)
        elif is_light(conn) and self._turns.number(conn.asked_by, light=True) >= LIGHT_OF_A_CLIENT:
            self._intake.refuse(conn, Overloaded(BUSY))
        else:
            self._held_back.put(conn)

    def _probe(self, conn: Connection) -> None:
        with contextlib.suppress(RuntimeError):  # the threads have ended, and so will the process
            future = self._probing.submit(self.handle, conn)
            future.add_done_callback(lambda done: self.method_queue.defer(self._finish_probe, conn, done))

    def _finish_probe(self, conn: Connection, future: Future[bool]) -> None:
        try:
            self.finish_request(conn, future)
        finally:
            self._probes.ended()

    def _hand_over(self, conn: Connection) -> None:
        self._turns.begin(conn.asked_by, partial(self._begin, conn), is_light(conn), partial(self._refuse_late, conn))

    def _refuse_late(self, conn: Connection) -> None:
        self._intake.refuse(conn, DeadlineExceeded(WAITED_TOO_LONG))

    def _begin(self, conn: Connection, turn: Turn) -> None:
        """Give a request its thread, and leave its turn to others until one is free; called by any thread."""
        conn.turn = turn
        with self._handing_over:  # so that no two see the same idle thread
            if not self._pool.idle:
                self.method_queue.defer(turn.yielded())
            with contextlib.suppress(RuntimeError):  # the threads have ended, and so will the process
                super().enqueue_req(conn)

    def finish_request(self, conn: Connection, future: Future[bool]) -> None:
        """Wait for the connection's next request, or close it; then hand on what was held back for this one."""
        keep = not future.cancelled() and future.exception() is None and future.result()
        was_last = conn.sock.is_last_request and not conn.leftover
        try:
            conn.sock.end_request()
        except Exception as error:
            errors.log_unexpected(error)
            self._intake.drop(conn)
            return
        if keep and self.alive:
            self._intake.expect(conn, self.cfg.keepalive)
        elif keep:
            self._intake.expect(conn, STOP_KEEPALIVE)
        else:
            self._intake.close_behind(conn, was_last)
        self._held_back.hand_on()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At SIGTERM, begin the drain in the main loop; a worker that is not serving yet just ends."""
        if self.booted:
            self.method_queue.defer(self._begin_drain)
        else:
            self.alive = False

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """At SIGQUIT and SIGINT, stop from the main loop.

        gthread shuts its pool down in the signal handler, which deadlocks if the main thread holds the pool's lock.
        """
        stop = partial(super().handle_quit, sig, frame)
        if self.booted:
            self.method_queue.defer(stop)
        else:
            stop()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        longest = SWEEP_INTERVAL if self._drain_until is None else DRAIN_TICK
        began = self._dispatch_events(0.0 if self._more_to_do else min(timeout, longest))
        more_to_begin, connections = self.begin_some(), self.nr_conns
        self._intake.read_some()
        if self._flooded:
            time.sleep(min(GATHERING, max(0.0, began + GATHERING_ROUND - time.monotonic())))
        self._sweep()
        more_to_begin |= bool(self._accepted) and self.nr_conns < connections  # there is room again
        self._more_to_do = more_to_begin or self._more_late or self._intake.unread > 0
        self.beat()
        if self._drain_until is not None:
            self._drain(self._drain_until)

    def _dispatch_events(self, timeout: float) -> float:
        """Wait for events and handle them; return when there were any, or enough was waited.

        Only an error of a listening socket ends the worker.
        """
        events = self.poller.select(timeout)
        began = time.monotonic()
        for key, _ in events:
            try:
                key.data(key.fileobj)
            except Exception as error:
                if key.fileobj in self.sockets:
                    raise
                errors.log_unexpected(error)
        return began

    def _new_intake(self) -> Intake:
        assert self.wsgi is not None  # built before the worker runs
        services = self.wsgi.extensions["services"]
        # Behind a proxy all connections are of one address.
        self._most_of_a_peer = None if services.gate.behind_proxy else max(1, self.worker_connections // 2)
        return Intake(
            self.poller,
            dispatch=self.enqueue_req,
            closed=self.forget,
            failure=FailureResponses(self.wsgi).response,
            budget=services.body_budget,
            gate=services.gate,
            patience=self.send_timeout,
            keepalive=self.cfg.keepalive,
            max_body_bytes=MAX_BODY_BYTES,
        )

    def _sweep(self) -> None:
        """Give up what is late, in every round until nothing is; and at intervals look after what no event tells."""
        now = time.monotonic()
        due = now >= self._next_sweep
        if due or self._more_late:
            self._more_late = self._intake.sweep() | self._turns.hasten()
        if due:
            self._next_sweep = now + SWEEP_INTERVAL
            self.sweep_accepted()
            self._held_back.drop_who_left()
            self._held_back.hand_on(everything=self._drain_until is not None)
            self._successors.look(self.ppid)
            before, self._refused = self._refused, self._intake.refused
            self._flooded = self._refused - before >= FLOOD * SWEEP_INTERVAL
            if self.wsgi is not None:
                self.wsgi.extensions["services"].gate.tell_unlogged()
            if not self.lost and not self.models.loading and self.models.restart_needed:
                self._give_up()

    def _begin_drain(self) -> None:
        if self._drain_until is not None:
            return
        self._refuse_at = time.monotonic() + self.drain_delay
        self._drain_until = self._refuse_at + self.drain_seconds
        if has_sibling(self.ppid):
            self.log.info("New connections go to the successor; the admitted requests are finished.")
            self.alive = False
            return
        self.on_drain()
        if self.drain_delay:
            self.log.info("Readiness is 503 now; requests are accepted for another %g s.", self.drain_delay)
            self.models.announce_stop()
        else:
            self._refuse()

    def _refuse(self) -> None:
        self._refusing = True
        self.log.info("The admitted requests are finished; new ones are refused.")
        self.models.drain()

    def _give_up(self) -> None:
        """End a process that cannot recover: answer open requests, then exit so that the supervisor restarts it."""
        self.log.critical("A model needs a new process: the service ends, to be restarted by its supervisor.")
        self.lost = True
        self._drain_until = time.monotonic()

    def _drain(self, until: float) -> None:
        """End once all admitted requests are done; abort those that exceed the time, with an error response."""
        if not self.alive:
            return
        now = time.monotonic()
        if now >= self._refuse_at and not self._refusing:
            self._refuse()
        if now >= until and not self._aborted:
            self._aborted = True
            self.models.stop(timeout=0.0)
        if self._aborted or (self._refusing and self.models.idle):
            self._stop_listening()
            self.alive = False

    def _stop_listening(self) -> None:
        """Accept established connections, to answer them, and have the kernel refuse later ones."""
        self.set_accept_enabled(False)
        if has_sibling(self.ppid):
            return
        for listener in self.sockets:
            end_listening(listener, partial(self.accept_all, listener))

    def _cap_keepalive(self, deadline: float) -> None:
        """Read what is known to have come, and bound the silent connections of a stopping worker."""
        self.begin_all()
        self._intake.read_all()
        self._intake.cap(deadline)


def _room_for_accepted(connections: int) -> int:
    """Return how many may be accepted beyond `connections`, so that descriptors are left for other files."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return ACCEPTED_MOST
    return max(AT_LEAST, min(ACCEPTED_MOST, allowed - connections - SPARE_DESCRIPTORS))


def has_sibling(parent: int) -> bool:
    """True if the parent process has another live child: a new worker, or the new master after SIGUSR2."""
    try:
        children = psutil.Process(parent).children()
        return any(child.pid != os.getpid() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    except psutil.Error:
        return False
