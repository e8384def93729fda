"""Gunicorn's configuration, derived from the settings: `gunicorn -c gunicorn_config.py`.

One worker with threads, since it holds the models in memory. SIGTERM drains; SIGUSR2 reloads without losing a request;
SIGHUP reloads in place while requests wait. Gunicorn reads every module name that matches one of its settings, so
`config` must never be imported as a name.
"""

import faulthandler
import logging
import math
import os
import resource
import signal
import sys
import traceback
from types import FrameType

# Resolve links, so that later imports come from this process's own release even after `current` has moved.
sys.path[:] = map(os.path.realpath, sys.path)

from terminal import exit_on_interrupt

# Until Gunicorn has handlers of its own.
exit_on_interrupt()

from gunicorn.arbiter import Arbiter

from config import settings_or_exit
from engine.errors import StartError
from models.memory_plan import IDLE_CONNECTIONS
from serving.allocator import FreePages, set_up_heaps
from serving.garbage import FullCollections, exempt_existing_objects
from serving.gunicorn_log import GunicornLogger
from serving.startup import exit_process, start_models
from serving.systemd import Watchdog, notifier
from serving.worker import SPARE_DESCRIPTORS, ServiceWorker
from telemetry.logs import set_up_logging
from telemetry.version import RELEASE, VERSION

KEPT_NOTIFY_SOCKET = "AVITO_AI_NOTIFY_SOCKET"
DESCRIPTORS = 65_536
# How long the service may take to stop beyond the worker's drain, in seconds.
STOP_MARGIN = 15
# Exit status of a service that only a new process can recover. Gunicorn's master exits on it too; a failed load has
# another status, so that a supervisor can tell them apart.
LOST = Arbiter.APP_LOAD_ERROR


def _keep_from_gunicorn(name: str, kept: str) -> str | None:
    """Move a variable to a name of this service, where a reload of this file finds it again."""
    if name in os.environ:
        os.environ[kept] = os.environ.pop(name)
    return os.environ.get(kept)


def _connections(wanted: int) -> int:
    """Raise the limit of file descriptors and return the number of connections it allows, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, min(wanted, max(soft, allowed) - SPARE_DESCRIPTORS))


def _start_logging() -> None:
    try:
        set_up_logging(settings)
    except StartError as error:
        raise SystemExit(f"The service cannot start: {error}") from None


def _dump_stacks_on_abort() -> None:
    """On SIGABRT, which systemd's watchdog sends, print the stacks and exit.

    faulthandler prints those of the hundred newest threads, whatever they are stuck in. The main one is the oldest,
    behind the pool's; it prints its own once it runs Python, and else both supervisors kill the process soon after.
    """
    signal.signal(signal.SIGABRT, _print_stack_and_exit)
    faulthandler.enable()


def _print_stack_and_exit(number: int, frame: FrameType | None) -> None:
    print("Main thread:", file=sys.stderr)
    traceback.print_stack(frame)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _extend_stop_timeout() -> None:
    """Have systemd wait for the drain, whatever the unit's TimeoutStopSec."""
    notify(f"EXTEND_TIMEOUT_USEC={(graceful_timeout + STOP_MARGIN) * 1_000_000}")


settings = settings_or_exit(fresh=True)
notify = notifier(_keep_from_gunicorn("NOTIFY_SOCKET", KEPT_NOTIFY_SOCKET), os.environ.get("RUNTIME_DIRECTORY"))
_start_logging()

wsgi_app = "app_production:app"
chdir = os.getcwd()
proc_name = "avito-ai"
bind = (
    f"[{settings.server.host}]:{settings.server.port}"
    if ":" in settings.server.host
    else (f"{settings.server.host}:{settings.server.port}")
)
workers = settings.server.workers
worker_class = "serving.worker.ServiceWorker"
threads = settings.server.threads
worker_connections = _connections(threads + IDLE_CONNECTIONS)
# Longer than nginx keeps an idle upstream connection (60 s), so that nginx always closes first.
keepalive = 75
# Bounds how long the worker's main thread may hang; it sends heartbeats while models load as well.
timeout = 300
# The drain aborts what is left after DRAIN_SECONDS; those error responses still have to be sent.
graceful_timeout = math.ceil(settings.server.drain_delay + settings.server.drain_seconds) + 5
control_socket_disable = True
# No proxy of ours names a mount point, and a client's would have paths read as others than a proxy's rules see.
forwarder_headers = ""
# Which field says that a client came over HTTPS is the service's own rule (edge/caller.py): Gunicorn refuses requests
# whose proxies name the scheme in several fields that it reads differently.
secure_scheme_headers: dict[str, str] = {}
logger_class = GunicornLogger
loglevel = settings.logging.log_level.lower()
# Gunicorn makes its heartbeat file there with mkstemp.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nosec B108 # mkstemp


def on_starting(server: Arbiter) -> None:
    """Log version and release before anything can fail."""
    server.log.info("Avito AI API %s, release %s, is starting.", VERSION, RELEASE)


def nworkers_changed(server: Arbiter, new_value: int, old_value: int | None) -> None:
    """Keep one worker, whatever a signal or the command line sets: another would load the weights again."""
    if new_value > 1:
        server.log.warning("This service runs one worker; the request for %d is ignored.", new_value)
        server.num_workers = 1


def pre_exec(server: Arbiter) -> None:
    """Make a new master start as this one was started, in the release that is current now.

    As a script, `gunicorn/__main__.py` would put its own folder first in sys.path, where `http` is not Python's. If PWD
    is a link, the service was started in that link, not in the folder it pointed to then.
    """
    if os.path.islink(os.environ.get("PWD", "")):
        server.START_CTX["cwd"] = os.environ["PWD"]
    arguments = server.START_CTX["args"]
    if os.path.basename(arguments[1]) == "__main__.py":
        arguments[1:2] = ["-m", "gunicorn"]


def post_fork(server: Arbiter, worker: ServiceWorker) -> None:
    """Give the worker its settings and the pids of older workers, which only the master knows."""
    set_up_heaps()
    worker.predecessors = tuple(server.WORKERS)
    worker.send_timeout = settings.server.send_timeout
    worker.drain_delay = settings.server.drain_delay
    worker.drain_seconds = settings.server.drain_seconds


def post_worker_init(worker: ServiceWorker) -> None:
    """Load the models before or while serving, see `serving.startup`."""
    _dump_stacks_on_abort()
    if "WATCHDOG_USEC" in os.environ:
        interval = int(os.environ["WATCHDOG_USEC"]) / 2e6
        worker.beat = Watchdog(notify, interval, lambda: worker.models.restart_needed).beat
    worker.on_drain = _extend_stop_timeout
    worker.models.before_ready = exempt_existing_objects
    worker.begin_serving()
    FreePages().start()
    FullCollections().start()
    old_master = os.environ.get("GUNICORN_PID")
    start_models(worker, int(old_master) if old_master else None, notify, exit_process(Arbiter.WORKER_BOOT_ERROR))


def worker_int(worker: ServiceWorker) -> None:
    """Ctrl+C: stop at once."""
    worker.models.stop(timeout=0.0)


def worker_exit(server: Arbiter, worker: ServiceWorker) -> None:
    """Stop the engine; a load in progress cannot be interrupted, so the process exits without waiting for it.

    The exit status of a lost worker ends its master too, so that the supervisor restarts the service.
    """
    if worker.pid != os.getpid():
        return
    worker.models.stop(timeout=0.0)
    worker.end_serving()
    if worker.models.loading or worker.lost:
        logging.shutdown()
        os._exit(LOST if worker.lost else 0)
