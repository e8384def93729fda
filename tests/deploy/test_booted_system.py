"""Production in a booted systemd: install, reload, stop, faults. Run it with `python -m pytest -m deploy tests/deploy`.

One box serves all tests of this file, in their order; each leaves the service ready. It needs root, a quarter of an
hour, 3 GB of disk and the programs that tests/deploy/systemd_box.py names.
"""

import re

import pytest

from tests.deploy.booted_service import CHECKOUT, SETTINGS, BootedService, BoxLoad, copy_tree, now
from tests.deploy.systemd_box import SystemdBox

pytestmark = pytest.mark.deploy

LONGEST_STALL = 0.5  # seconds, where nothing else takes the processors
BUSY_FACTOR = 3
RELOAD_TRIES = 3
BREAKS_UNDER_SYSTEMD = """

_start = ModelSet.start


def _broken_start(self):
    import os

    if "AVITO_AI_NOTIFY_SOCKET" in os.environ:
        raise StartError("The weights of this release are broken.")
    _start(self)


ModelSet.start = _broken_start
"""
FREEZES = """

import ctypes, pathlib, threading
_step = EngineCore.step


def _freezing_step(self):
    order = pathlib.Path("/var/lib/avito-ai/freeze")
    if order.exists() and order.read_text() == "holding the interpreter":
        ctypes.PyDLL(None).pause()
    while order.exists():
        threading.Event().wait(1)
    return _step(self)


EngineCore.step = _freezing_step
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A bare system on which `deploy.sh production` has run once: the service, and the output of that run."""
    tree = copy_tree(tmp_path_factory.mktemp("checkout"))
    with SystemdBox("production", copies=[(tree, CHECKOUT)]) as box:
        service = BootedService(box)
        words = " ".join(f"{name}={value}" for name, value in SETTINGS.items())
        yield service, service.deploy(f"production {words}")


@pytest.fixture
def service(installed):
    """The service, ready, with systemd's count of starts reset."""
    service = installed[0]
    service.box.run("systemctl reset-failed avito-ai", check=False)
    if service.show("ActiveState") != "active":
        service.systemctl("start")
    service.await_ready()
    return service


def test_one_command_leads_from_a_bare_system_to_a_ready_service(installed):
    """It runs as a user of its own, starts at boot, and is ready when the command ends."""
    service, first = installed
    assert "Ready after" in first.stdout
    assert service.ready
    assert service.box.text("systemctl is-enabled avito-ai") == "enabled"
    assert service.box.text(f"ps -o user= -p {service.worker}") == "avito-ai"
    assert service.running()["limit"] == "1001"


def test_the_processor_computes_with_the_kernels_of_the_release(service):
    """A bare system had no compiler; the service, which may not write there, has loaded what the command made."""
    maps = service.box.text(f"cat /proc/{service.worker}/maps")
    assert f"{service.running()['folder']}/engine/model/kernels/kernels-" in maps


def test_the_same_command_again_changes_nothing(service):
    """The same master keeps serving, and there is no second release."""
    before = service.master, service.box.text("ls /opt/avito-ai/releases")
    service.deploy()
    assert (service.master, service.box.text("ls /opt/avito-ai/releases")) == before


def test_a_release_that_cannot_start_leaves_the_old_one_serving(service):
    """The command fails with the reason; the old master keeps serving, and no request is refused meanwhile."""
    before = service.running(), service.master
    service.append(f"{CHECKOUT}/models/model_set.py", BREAKS_UNDER_SYSTEMD)
    with BoxLoad(service, rate=2) as load:
        run = service.deploy(check=False)
    service.box.run(f"cd {CHECKOUT} && sed -i '/^_start = /,$d' models/model_set.py")
    assert run.returncode != 0
    assert "The weights of this release are broken." in run.stdout + run.stderr
    assert load.failed == []
    assert (service.running(), service.master) == before


def test_reload_under_load_loses_nothing(service, record_property):
    """Streams, answers and forms, 20 per second, during two reloads: none fails or stalls, and streams finish.

    On a busy machine every request waits, so a stall counts against the waits without a reload, and the best of some
    tries decides.
    """
    for _ in range(RELOAD_TRIES):
        before, figures = two_reloads(service)
        limit = max(LONGEST_STALL, BUSY_FACTOR * max(before.values()))
        print({**figures, "without_a_reload": max(before.values())})
        if max(figures.values()) <= limit:
            break
    for name, figure in figures.items():
        record_property(name, figure)
    assert max(figures.values()) <= limit


def two_reloads(service):
    """Reload twice under load, losing nothing; return the longest waits before the reloads and since."""
    with BoxLoad(service) as load:
        load.await_answers(120)
        reloaded = now()
        for _ in range(2):
            old = service.master
            service.systemctl("reload")
            assert service.master != old
            load.await_answers(60)
    print({"requests": sum(request["kind"] != "probe" for request in load.seen), "failed": len(load.failed)})
    assert load.failed == []
    taken_over = [int(line["__MONOTONIC_TIMESTAMP"]) / 1e6 for line in service.journal("stopping the old master")]
    for moment in taken_over[-2:]:
        assert any(request["kind"] == "long stream" for request in load.in_flight(moment))
    before = [request for request in load.seen if request["ended"] < reloaded]
    return waits(before), waits([request for request in load.seen if request["ended"] >= reloaded])


def waits(requests):
    """Return the longest silences that clients met, in seconds."""
    return {
        "longest_wait_of_a_probe": longest_wait(requests, "probe"),
        "longest_silence_of_a_stream": longest_wait(requests, "stream", "long stream"),
        "longest_answer": longest_wait(requests, "answer", "form"),
    }


def longest_wait(requests, *kinds):
    """Return the longest silence, in seconds, that a client of these kinds has seen."""
    return round(max(request["longest_wait"] for request in requests if request["kind"] in kinds), 3)


def test_reload_runs_the_release_that_current_names(service):
    """Code, environment and settings are the new ones, also after two reloads, and the old ones after a rollback."""
    first = service.running()
    service.append(f"{CHECKOUT}/models/model_set.py", "# Another release.\n")
    service.deploy("production MAX_PROMPT_LENGTH=1002")
    second = service.running()
    assert second["limit"] == "1002"
    assert all(second[part] != first[part] for part in first)
    assert second["folder"].endswith(second["release"])
    assert second["environment"] == f"{second['folder']}/.venv"
    for limit in ("1003", "1004"):
        service.set("MAX_PROMPT_LENGTH", limit)
        service.systemctl("reload")
        assert service.running() == second | {"limit": limit}
    service.deploy("rollback")
    assert service.running() == first | {"limit": "1004"}


def test_reload_into_nothing_fails_and_changes_nothing(service):
    """A `current` without a Python is reported by systemctl; the old release keeps serving."""
    before = service.running(), service.master
    current = service.box.text("readlink /opt/avito-ai/current")
    service.box.run(
        "mkdir -p /opt/avito-ai/releases/empty && ln -sfn /opt/avito-ai/releases/empty /opt/avito-ai/current"
    )
    reload = service.systemctl("reload", check=False)
    service.box.run(f"ln -sfn {current} /opt/avito-ai/current && rmdir /opt/avito-ai/releases/empty")
    assert reload.returncode != 0
    assert (service.running(), service.master) == before


def test_stop_under_load_finishes_what_was_admitted(service):
    """Admitted requests get whole answers; later ones get 503 or are refused; the stop is clean."""
    with BoxLoad(service) as load:
        moment = now()
        service.systemctl("stop")
    assert service.show("Result") == "success"
    under_way = load.in_flight(moment)
    assert any(request["kind"] == "long stream" for request in under_way)
    assert [request for request in load.seen if request["trouble"] and not request["refused"]] == []
    late = [request for request in load.failed if request["began"] < moment]
    assert [request for request in late if "not_ready" not in request["trouble"]] == []
    refusals = {re.match(r"503|ConnectionRefusedError", request["trouble"]) is not None for request in load.failed}
    assert refusals == {True}


def test_killed_worker_is_replaced(service):
    """The master starts another without systemd."""
    old, master, restarts = service.worker, service.master, service.restarts
    service.box.run(f"kill -KILL {old}")
    service.await_ready()
    assert service.worker != old
    assert (service.master, service.restarts) == (master, restarts)


@pytest.mark.parametrize("reloaded", [False, True])
def test_killed_master_is_restarted(service, reloaded):
    """Systemd restarts the service, even if its master came from a reload."""
    if reloaded:
        service.systemctl("reload")
    old, restarts = service.master, service.restarts
    service.box.run(f"kill -KILL {old}")
    service.await_restart(restarts)
    assert service.master != old


def test_frozen_worker_is_restarted_by_the_watchdog(service):
    """A frozen process sends no keep-alives."""
    restarts = service.restarts
    service.box.run(f"kill -STOP {service.worker}")
    service.await_restart(restarts)
    assert service.journal("Watchdog timeout")


@pytest.mark.parametrize("how", ["leaving the interpreter free", "holding the interpreter"])
def test_frozen_engine_is_restarted(service, how):
    """The service exits by itself if it can, else the watchdog ends it and the stacks of all threads are logged."""
    code = f"{service.running()['folder']}/engine/engine_core.py"
    service.append(code, FREEZES)
    service.systemctl("restart")
    service.await_ready()
    restarts, dumps = service.restarts, len(service.journal("Fatal Python error: Aborted"))
    service.box.run(f"printf '%s' '{how}' >/var/lib/avito-ai/freeze")
    service.box.run("curl -s -m 60 http://127.0.0.1:8085/avibe -d prompt=x", check=False)
    service.box.run("rm /var/lib/avito-ai/freeze")
    service.await_restart(restarts)
    service.box.run(f"sed -i '/^import ctypes, pathlib/,$d' {code}")
    if how == "holding the interpreter":
        assert len(service.journal("Fatal Python error: Aborted")) == dumps + 1
