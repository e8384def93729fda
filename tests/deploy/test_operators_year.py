"""What an operator does in a year, in booted systems: install, back up, restore, update, go back, lose the machine.

    python -m pytest -m deploy -s tests/deploy/test_operators_year.py

prints what each step took, by its stages, and the processor time of that, which other programs of the machine hardly
change. It needs root, twenty minutes, 6 GB of disk and the programs that tests/deploy/systemd_box.py names. The tests
run in their order; each leaves the service ready.
"""

import os
import shutil
from collections import Counter

import pytest

from tests.deploy.booted_service import CHECKOUT, SETTINGS, BootedService, BoxLoad, copy_tree
from tests.deploy.stages import timed
from tests.deploy.systemd_box import SystemdBox
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.deploy

WORDS = " ".join(f"{name}={value}" for name, value in SETTINGS.items())
NEWER = "/srv/newer"
BACKUP = "/root/kept.tar.gz"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The files of this checkout."""
    return copy_tree(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def bare(tree):
    """A system that was booted a moment ago, with the tree and nothing of the service."""
    with SystemdBox("year", copies=[(tree, CHECKOUT)]) as box:
        yield BootedService(box)


def do(service, line):
    """Run a command that must succeed; print what its stages took."""
    run = timed(service.box.start(f"cd {CHECKOUT} && {line}"), service.box.cpu_seconds)
    assert run.status == 0, run.output[-4000:]
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n$ {line}\n{run.table()}")
    print(f"{run.seconds:7.1f} s; without apt and pip {run.own_seconds:.1f} s, {run.own_cpu:.1f} s of a processor")
    print(f"load of this machine: {load}")
    return run


def do_under_load(service, line):
    """Run a command at 20 requests a second, streams and answers mixed; no request may fail.

    A machine that other programs keep busy refuses some as `overloaded`, which the failure then names.
    """
    with BoxLoad(service) as load:
        run = do(service, line)
        load.await_answers(60)
    answers = [request for request in load.seen if request["kind"] != "probe"]
    longest = max(request["longest_wait"] for request in load.seen)
    print(f"{len(answers)} requests, {len(load.failed)} failed; the longest silence was {longest:.2f} s")
    reasons = Counter(request["trouble"][:120] for request in load.failed)
    assert not reasons, reasons.most_common(5)
    return run


def keys(service):
    """Return the lines that name client keys."""
    return service.box.text(f"cd {CHECKOUT} && ./deploy.sh keys list")


def test_a_bare_system_becomes_ready(bare, record_property):
    """By one command, with a backup of it an hour later that can be restored."""
    run = do(bare, f"./deploy.sh production {WORDS}")
    record_property("ready_without_apt_and_pip", (round(run.own_seconds, 1), round(run.own_cpu, 1)))
    assert bare.ready
    bare.deploy("keys make team-a")


def test_a_backup_fails_no_request(bare):
    """As the timer makes it each night."""
    run = do_under_load(bare, "deploy/backup.sh run")
    assert "The backup can be restored" in run.output


def test_restored_settings_are_applied_and_fail_no_request(bare):
    """The service goes on with its database, and has the former settings when the command ends."""
    bare.box.run(f"cd {CHECKOUT} && deploy/backup.sh create {BACKUP}")
    bare.deploy("production MAX_PROMPT_LENGTH=1002")
    assert bare.running()["limit"] == "1002"
    bare.deploy("keys make team-b")
    do_under_load(bare, f"deploy/backup.sh restore {BACKUP} --settings-only")
    assert bare.running()["limit"] == "1001"
    assert "team-b" in keys(bare)


def test_an_update_fails_no_request(bare, record_property):
    """It backs up first and serves the newer release when it ends."""
    before = bare.running()
    bare.box.run(f"cp -a {CHECKOUT} {NEWER} && echo '# newer' >>{NEWER}/config.py")
    run = do_under_load(bare, f"./deploy.sh update {NEWER}")
    record_property("update_seconds", round(run.seconds, 1))
    assert "Backing up settings and database before the update." in run.output
    assert bare.running()["release"] != before["release"]


def test_a_rollback_fails_no_request(bare):
    """The former release serves again."""
    newer = bare.running()
    do_under_load(bare, "./deploy.sh rollback")
    assert bare.running()["release"] != newer["release"]


def test_everything_is_restored_where_it_was_lost(bare):
    """The database too, for which the service is stopped, and it is ready when the command ends."""
    assert "team-b" in keys(bare)
    do(bare, f"deploy/backup.sh restore {BACKUP}")
    assert bare.ready
    assert ("team-a" in keys(bare), "team-b" in keys(bare)) == (True, False)


def test_an_update_of_an_idle_service(bare, record_property):
    """What it takes where no client is served meanwhile."""
    bare.box.run(f"echo '# newer still' >>{NEWER}/config.py")
    run = do(bare, f"./deploy.sh update {NEWER}")
    record_property("idle_update_seconds", round(run.seconds, 1))
    assert bare.ready


def test_a_lost_machine_comes_back_by_one_command(bare, tree, tmp_path, record_property):
    """On a bare system: settings, keys and database are those of the backup, and the service is ready."""
    shutil.copy2(bare.box.root / BACKUP.lstrip("/"), tmp_path / "kept.tar.gz")
    with SystemdBox("lost", copies=[(tree, CHECKOUT), (tmp_path, "/root")]) as box:
        service = BootedService(box)
        run = do(service, f"deploy/backup.sh restore {BACKUP}")
        record_property("restored_without_apt_and_pip", (round(run.own_seconds, 1), round(run.own_cpu, 1)))
        assert service.ready
        assert service.running()["limit"] == "1001"
        assert "team-a" in keys(service)
        assert service.box.text("systemctl is-enabled avito-ai") == "enabled"


def test_a_user_that_is_gone_is_said_in_the_units_journal(bare):
    """A sentence at the first failed start, and no further start until it is mended; one command mends it."""
    bare.systemctl("stop")
    bare.box.run("userdel avito-ai")
    assert bare.systemctl("start", check=False).returncode != 0
    until(lambda: bare.journal("cannot start: there is no user avito-ai"), patience=20)
    assert bare.show("NRestarts") == "0"
    do(bare, "./deploy.sh production")
    assert bare.ready
