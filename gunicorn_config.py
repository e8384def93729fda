"""How Gunicorn runs the service: `gunicorn -c gunicorn_config.py`, everything from the settings.

One worker with threads, since the models are in its memory. SIGTERM finishes the admitted requests; SIGUSR2 is the
reload that loses none; SIGHUP reloads in place, with requests waiting meanwhile. Every public name here that Gunicorn
knows is taken as a setting of its own, so `config` must never be imported as a name.
"""

import faulthandler
import logging
import math
import os
import resource
import signal
import sys

# What this process imports later still has to come from its own release, whichever one `current` names by then.
sys.path[:] = map(os.path.realpath, sys.path)

from gunicorn.arbiter import Arbiter

from config import settings_or_exit
from engine.errors import StartError
from serving.gunicorn_log import GunicornLogger
from serving.startup import leave_process, start_models
from serving.systemd import Watchdog, notifier
from serving.worker import ServiceWorker
from telemetry.logs import set_up_logging
from telemetry.version import RELEASE, VERSION

KEPT_NOTIFY_SOCKET = "AVITO_AI_NOTIFY_SOCKET"
IDLE_CONNECTIONS = 1024
DESCRIPTORS = 65_536
SPARE_DESCRIPTORS = 256
# How much longer than the worker's drain the end of the whole service may take, in seconds.
STOP_MARGIN = 15
# The status of a service that only a new process can cure: of those at which Gunicorn's master ends too, the one that
# no failed load has, so that a supervisor can tell them apart.
LOST = Arbiter.APP_LOAD_ERROR


def _keep_from_gunicorn(name: str, kept: str) -> str | None:
    """Move a variable to a name of ours, under which a reload of this file finds it again."""
    if name in os.environ:
        os.environ[kept] = os.environ.pop(name)
    return os.environ.get(kept)


def _connections(wanted: int) -> int:
    """Allow this process its descriptors and return how many connections they are good for."""
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


def _tell_where_it_hangs() -> None:
    """At SIGABRT, which the watchdog sends to what has hung, write where each thread is, and end."""
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    faulthandler.enable()


def _ask_for_time() -> None:
    """Have systemd wait for a drain of any length, whatever the unit's TimeoutStopSec."""
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
# Longer than nginx keeps an idle connection to us (60 s), so that it is never we who close one it is about to use.
keepalive = 75
# Bounds only how long the worker's main thread may be stuck: it shows signs of life also while models load.
timeout = 300
# The drain itself ends what is left after DRAIN_SECONDS; then the answers to that still have to leave.
graceful_timeout = math.ceil(settings.server.drain_delay + settings.server.drain_seconds) + 5
control_socket_disable = True
logger_class = GunicornLogger
loglevel = settings.logging.log_level.lower()
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def on_starting(server: Arbiter) -> None:
    """Log what starts, before anything can go wrong."""
    server.log.info("Avito AI API %s, release %s, is starting.", VERSION, RELEASE)


def nworkers_changed(server: Arbiter, new_value: int, old_value: int | None) -> None:
    """Stay with one worker, whatever a signal or the command line asks for: another would load the weights again."""
    if new_value > 1:
        server.log.warning("This service has one worker; %d are not started.", new_value)
        server.num_workers = 1


def pre_exec(server: Arbiter) -> None:
    """Make a new master start as this one was started, in the release that is the current one now.

    As a script, `gunicorn/__main__.py` would put its own folder first in the path, where `http` is not Python's. Where
    PWD names a link, that link is where the service was told to run, and not the folder it named then.
    """
    if os.path.islink(os.environ.get("PWD", "")):
        server.START_CTX["cwd"] = os.environ["PWD"]
    arguments = server.START_CTX["args"]
    if os.path.basename(arguments[1]) == "__main__.py":
        arguments[1:2] = ["-m", "gunicorn"]


def post_fork(server: Arbiter, worker: ServiceWorker) -> None:
    """Tell the worker what it cannot find out by itself: here the master's memory is still at hand."""
    worker.predecessors = tuple(server.WORKERS)
    worker.send_timeout = settings.server.send_timeout
    worker.drain_delay = settings.server.drain_delay
    worker.drain_seconds = settings.server.drain_seconds


def post_worker_init(worker: ServiceWorker) -> None:
    """Load the models, before or while serving; see `serving.startup`."""
    _tell_where_it_hangs()
    if "WATCHDOG_USEC" in os.environ:
        interval = int(os.environ["WATCHDOG_USEC"]) / 2e6
        worker.beat = Watchdog(notify, interval, lambda: worker.models.restart_needed).beat
    worker.on_drain = _ask_for_time
    worker.wsgi.extensions["services"].begin_serving()
    old_master = os.environ.get("GUNICORN_PID")
    start_models(worker, int(old_master) if old_master else None, notify, leave_process(Arbiter.WORKER_BOOT_ERROR))


def worker_int(worker: ServiceWorker) -> None:
    """Ctrl+C: stop at once."""
    worker.models.stop(timeout=0.0)


def worker_exit(server: Arbiter, worker: ServiceWorker) -> None:
    """End the engine; a load that is under way cannot be interrupted, so the process leaves without it.

    A worker that is lost takes its master along: its status is what tells the supervisor to start the service again.
    """
    if worker.pid != os.getpid():
        return
    worker.models.stop(timeout=0.0)
    if worker.models.loading or worker.lost:
        logging.shutdown()
        os._exit(LOST if worker.lost else 0)
