"""deploy.sh status, rollback, update and uninstall, and the proxy."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from tests.deploy.production_box import ProductionBox

pytestmark = [pytest.mark.slow, pytest.mark.linux]

TWO_WORDS = ("--certificate", "--certificate-key")


@pytest.fixture
def two(box: ProductionBox) -> ProductionBox:
    """A machine on which a second release serves."""
    box.change()
    assert box.run("production").returncode == 0
    box.log.unlink()
    return box


def with_nginx(box: ProductionBox) -> ProductionBox:
    box.tool("nginx", f'case "$1" in -v) echo nginx/1.22.1 >&2 ;; *) [ ! -e "{box.control}/nginx-fails" ] ;; esac')
    return box


def site(box: ProductionBox) -> Path:
    return box.system / "etc/nginx/sites-available/avito-ai.conf"


def test_keys_are_managed_as_the_services_user_with_its_settings(two: ProductionBox) -> None:
    """In the release that serves, in the state folder of the unit, and without the environment of the caller."""
    done = two.run("keys", "make", "the name", SECRET="leaks")
    current = (two.system / "opt/avito-ai/current").resolve()
    assert done.stdout == f"-m deploy.keys make the name production {two.system}/var/lib/avito-ai {current} clean\n"
    assert two.log.read_text() == "runuser avito-ai\n"


def test_status_says_what_runs(two: ProductionBox) -> None:
    """Service, current and previous release, settings and all releases are shown; ready is exit status 0."""
    done = two.run("status")
    assert done.returncode == 0
    first, second = two.releases
    assert f"release    {second}\n" in done.stdout
    assert f"previous   {first}" in done.stdout
    assert done.stdout.count("  ready") == 2


def test_status_of_a_service_that_is_not_ready_is_three(box: ProductionBox) -> None:
    """The exit status is systemctl's."""
    box.say("unready")
    assert box.run("status").returncode == 3


def test_status_where_nothing_is_installed_is_four(bare: ProductionBox) -> None:
    """The message has the command that installs it."""
    done = bare.run("status")
    assert (done.returncode, "./deploy.sh production" in done.stdout) == (4, True)


def test_status_without_root_says_what_it_cannot_see(box: ProductionBox) -> None:
    """The settings, which it may not read, are not called changed, nor the service not ready."""
    box.say("unready")
    box.tool("id", "echo 1000")
    box.tool("cat", f'case "$*" in *etc/avito-ai*) exit 1 ;; esac; exec {(box.bin / "cat").resolve()} "$@"')
    done = box.run("status")
    assert (done.returncode, "sudo ./deploy.sh status" in done.stderr) == (1, True)
    assert f"release    {box.current}\n" in done.stdout
    assert f"settings   {box.system}/etc/avito-ai/.env\n" in done.stdout


def test_status_reports_settings_that_are_not_applied(box: ProductionBox) -> None:
    """The output says that an edited settings file is not applied yet."""
    with (box.system / "etc/avito-ai/.env").open("a") as file:
        file.write("MAX_WAITING=7\n")
    assert "changed since the last start" in box.run("status").stdout


def test_settings_that_a_reload_has_applied_are_not_called_pending(box: ProductionBox) -> None:
    """Whoever edits the file and reloads, as the runbook says, is told that the process has read it."""
    settings = box.system / "etc/avito-ai/.env"
    settings.write_text(settings.read_text() + "LOG_LEVEL=DEBUG\n")
    hour_ago = time.time() - 3600
    os.utime(settings, (hour_ago, hour_ago))
    for running, said in ((60, "and read by the process that runs"), (7200, "./deploy.sh production applies them")):
        box.tool("ps", f"echo '  {running}'")
        assert said in box.run("status").stdout


def test_rollback_goes_to_the_release_before_and_again_back(two: ProductionBox) -> None:
    """Without downtime, by the same hand-over; a second rollback returns to the first release."""
    first, second = two.releases
    assert two.run("rollback").returncode == 0
    assert two.current == two.serving == first
    assert two.asked("systemctl reload avito-ai.service") == 1
    assert two.run("rollback").returncode == 0
    assert two.current == two.serving == second


def test_rollback_to_a_release_by_name(two: ProductionBox) -> None:
    """Any existing release can be given."""
    first, second = two.releases
    assert two.run("rollback", first).returncode == 0
    assert two.current == first
    assert two.run("rollback", "no-such-release").returncode == 1


def test_rollback_without_an_earlier_release_is_refused(box: ProductionBox) -> None:
    """Nothing is changed."""
    done = box.run("rollback")
    assert done.returncode == 1
    assert "no release to return to" in done.stderr
    assert box.serving == box.current


def test_a_rollback_that_fails_keeps_what_serves(two: ProductionBox) -> None:
    """An earlier release that no longer starts is not served."""
    _, second = two.releases
    two.say("reload-fails")
    two.say("good", str(two.prefix / "releases" / second))
    assert two.run("rollback").returncode == 1
    assert two.current == two.serving == second


def changed_copy(box: ProductionBox, folder: Path) -> Path:
    """Return another tree: the checkout with an extra line."""
    shutil.copytree(box.root, folder, symlinks=True)
    with (folder / "config.py").open("a") as file:
        file.write("# from elsewhere\n")
    return folder


def test_update_takes_a_folder(box: ProductionBox, tmp_path: Path) -> None:
    """Another tree is installed by its own deploy.sh; no temporary files are left."""
    before = box.current
    assert box.run("update", str(changed_copy(box, tmp_path / "next"))).returncode == 0
    assert box.current == box.serving != before
    assert list(box.prefix.glob("update.*")) == []


def test_update_takes_a_tarball_that_has_its_sum(box: ProductionBox, tmp_path: Path) -> None:
    """A wrong checksum is refused before the tarball is used; with the right one it is installed."""
    before, tarball = box.current, tmp_path / "next.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(changed_copy(box, tmp_path / "next"), arcname="avito-ai-2.0")
    done = box.run("update", "--sha256", "0" * 64, str(tarball))
    assert done.returncode == 1
    assert "does not have the sha256" in done.stderr
    assert box.current == before
    box.tool("gzip", 'exec /bin/gzip "$@"')
    assert box.run("update", "--sha256", hashlib.sha256(tarball.read_bytes()).hexdigest(), str(tarball)).returncode == 0
    assert box.current == box.serving != before


@pytest.mark.needs("git")
def test_update_takes_a_tag_of_the_checkout(box: ProductionBox) -> None:
    """The tag is installed, and the checkout itself stays where it is."""
    before, text = box.current, (box.root / "config.py").read_text()
    box.change("# tagged\n")
    box.commit()
    box.git("tag", "v9")
    box.git("remote", "add", "origin", str(box.root))
    (box.root / "config.py").write_text(text)
    assert box.run("update", "v8").returncode == 1
    done = box.run("update", "v9")
    assert done.returncode == 0, done.stderr
    assert box.current == box.serving != before
    assert (box.root / "config.py").read_text() == text


@pytest.mark.needs("git")
def test_git_works_in_a_checkout_as_its_owner(box: ProductionBox) -> None:
    """What root's git writes there its owner could not use, and the keys of the remote are the owner's."""
    box.commit()
    box.git("tag", "v9")
    box.git("remote", "add", "origin", str(box.root))
    box.tool("stat", 'case "$*" in */.git) echo operator ;; *) echo root ;; esac')
    box.tool("getent", "echo operator:x:1000:1000::/home/operator:/bin/bash")
    box.tool("git", f'echo "git for $HOME" >>"{box.log}"; exec {shutil.which("git")} "$@"')
    assert box.run("update", "v9").returncode == 0
    assert box.asked("runuser operator") >= 3
    assert {call for call in box.calls() if call.startswith("git ")} == {"git for /home/operator"}


def test_root_leaves_nothing_in_the_checkout_of_another(box: ProductionBox) -> None:
    """Not even what Python compiles: its owner could not remove it."""
    for folder in list(box.root.rglob("__pycache__")):
        shutil.rmtree(folder)
    box.tool("stat", "echo operator")
    assert box.run("production", "PORT=9000").returncode == 0
    assert list(box.root.rglob("__pycache__")) == []


@pytest.mark.parametrize(("source", "sentence"), [("nothing-here", "is not a git checkout"), (".", "")])
def test_update_refuses_what_it_cannot_fetch(box: ProductionBox, source: str, sentence: str) -> None:
    """An invalid source is an error; the checkout's own folder is the same release."""
    before = box.current
    done = box.run("update", source)
    assert sentence in done.stderr
    assert (done.returncode == 0) is (source == ".")
    assert box.current == before


def test_update_refuses_a_tree_of_something_else(box: ProductionBox, tmp_path: Path) -> None:
    """A folder without the service's files is refused."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/deploy.sh").write_text("touch /tmp/never\n")
    done = box.run("update", str(tmp_path / "other"))
    assert done.returncode == 1
    assert "is not a tree of Avito AI API" in done.stderr


def test_an_update_that_does_not_serve_goes_back(box: ProductionBox, tmp_path: Path) -> None:
    """The exit status is that of the production run."""
    before = box.current
    box.say("reload-fails")
    box.say("good", str(box.prefix / "releases" / before))
    assert box.run("update", str(changed_copy(box, tmp_path / "next"))).returncode == 1
    assert box.current == box.serving == before


def test_uninstall_keeps_what_only_the_operator_has(box: ProductionBox) -> None:
    """The service, its releases and units are removed; settings and the user are kept."""
    cache = box.system / "var/cache/avito-ai"
    cache.mkdir(parents=True)
    done = box.run("uninstall", "--yes")
    assert done.returncode == 0
    assert box.serving is None
    assert not box.prefix.exists()
    assert not cache.exists()
    assert list((box.system / "etc/systemd/system").iterdir()) == []
    assert "DEVICE=cpu" in box.settings
    assert box.run("status").returncode == 4
    assert box.production().returncode == 0


def test_uninstall_purges_on_request(box: ProductionBox) -> None:
    """Settings, state, logs and the user are removed too; a second run is not an error."""
    assert box.run("uninstall", "--purge", "--yes").returncode == 0
    assert not (box.system / "etc/avito-ai").exists()
    assert box.asked("userdel avito-ai") == 1
    assert box.run("uninstall", "--purge", "--yes").returncode == 0


@pytest.mark.parametrize("options", [(), ("--purge",)])
def test_uninstall_away_from_a_terminal_must_be_confirmed(box: ProductionBox, options: tuple[str, ...]) -> None:
    """Nobody is asked there, so nothing is removed."""
    done = box.run("uninstall", *options)
    assert (done.returncode, "--yes" in done.stderr) == (1, True)
    assert box.serving == box.current
    assert (box.system / "etc/avito-ai/.env").exists()


def install_vllm(box: ProductionBox) -> Path:
    """Put the units there that deploy/engine.sh copies, of an older release; return their folder."""
    units = box.system / "etc/systemd/system"
    (units / "avito-ai-vllm@avision.service.d").mkdir()
    for name in ("avito-ai-vllm@.service", "avito-ai-vllm@avision.service.d/order.conf"):
        (units / name).write_text("# of old\n")
    return units


def test_uninstall_ends_vllm_too(box: ProductionBox) -> None:
    """It would hold the card, and its user could not be removed."""
    units = install_vllm(box)
    (box.system / "var/cache/avito-ai-vllm").mkdir(parents=True)
    assert box.run("uninstall", "--yes").returncode == 0
    for model in ("avibe", "avision"):
        assert box.asked(f"systemctl stop avito-ai-vllm@{model}.service") == 1
        assert box.asked(f"systemctl disable --quiet avito-ai-vllm@{model}.service") == 1
    assert list(units.iterdir()) == []
    assert not (box.system / "var/cache/avito-ai-vllm").exists()


def test_the_units_of_vllm_are_those_of_the_release(box: ProductionBox) -> None:
    """Where deploy/engine.sh has installed them; elsewhere they stay away."""
    units = install_vllm(box)
    box.change()
    assert box.run("production").returncode == 0
    assert (units / "avito-ai-vllm@.service").read_bytes() == (
        box.root / "deploy/systemd/avito-ai-vllm@.service"
    ).read_bytes()
    order = units / "avito-ai-vllm@avision.service.d/order.conf"
    assert order.read_bytes() == (box.root / "deploy/vllm/order.conf").read_bytes()


def test_options_of_vllm_that_an_earlier_release_wrote_wrongly_are_named(box: ProductionBox) -> None:
    """The file is the operator's, so it stays; the service does not need it to start."""
    file = box.system / "etc/avito-ai/vllm-avision.env"
    file.write_text('OPTIONS=--dtype bfloat16 --limit-mm-per-prompt {"image":4}\n')
    assert "limit-mm-per-prompt" not in box.run("production").stderr
    install_vllm(box)
    for words in ((), ("--dry-run",)):
        done = box.run("production", *words)
        assert done.returncode == 0
        assert f"{file}: vLLM does not start" in done.stderr
        assert """Write --limit-mm-per-prompt '{"image":4}' there.""" in done.stderr


def test_uninstall_refuses_other_arguments(box: ProductionBox) -> None:
    """A typo removes nothing."""
    assert box.run("uninstall", "--dry-run").returncode == 1
    assert box.serving == box.current


def test_without_a_domain_no_proxy_is_touched(box: ProductionBox) -> None:
    """An nginx with other sites keeps its files."""
    with_nginx(box).change()
    assert box.run("production").returncode == 0
    assert not (box.system / "etc/nginx").exists()
    assert not box.asked("nginx")


@pytest.mark.needs("openssl")
def test_a_domain_with_a_certificate_of_ones_own(box: ProductionBox, certificate: tuple[str, str]) -> None:
    """nginx gets the site with that certificate, and the service listens for it alone."""
    with_nginx(box)
    words = [word for pair in zip(TWO_WORDS, certificate, strict=True) for word in pair]
    done = box.run("production", "--domain", "ai.example", *words)
    assert done.returncode == 0, done.stderr
    assert {"HOST=127.0.0.1", "TRUSTED_PROXIES=1"} <= set(box.settings)
    assert f"ssl_certificate {certificate[0]};" in site(box).read_text()
    assert "server 127.0.0.1:8085" in site(box).read_text()
    assert box.asked("systemctl reload-or-restart nginx") == 1
    assert box.asked("--resolve ai.example:443:127.0.0.1") == 1
    assert "ufw allow 443/tcp" in done.stdout
    assert not box.asked("certbot")


@pytest.mark.needs("openssl")
def test_a_site_follows_the_settings(box: ProductionBox, certificate: tuple[str, str]) -> None:
    """Without --domain too: a port or a time that changes is the site's as well, and is asked for through nginx."""
    with_nginx(box)
    words = [word for pair in zip(TWO_WORDS, certificate, strict=True) for word in pair]
    assert box.run("production", "--domain", "ai.example", *words).returncode == 0
    first = site(box).read_text()
    for given, now, then in (
        ("PORT=9000", "server 127.0.0.1:8085 ", "server 127.0.0.1:9000 "),
        ("REQUEST_TIMEOUT=600.5", "proxy_read_timeout 310s;", "proxy_read_timeout 611s;"),
    ):
        box.log.unlink()
        before = site(box).read_text()
        planned = box.run("production", "--dry-run", given)
        assert "would set up nginx anew at https://ai.example" in planned.stdout
        assert site(box).read_text() == before
        done = box.run("production", given)
        assert done.returncode == 0, done.stderr
        assert site(box).read_text() == before.replace(now, then) != before
        assert box.asked("--resolve ai.example:443:127.0.0.1") == 1
        assert "Ready after" in done.stdout
        assert "https://ai.example" in done.stdout
        box.log.unlink()
        assert box.run("production", given).returncode == 0
        assert not box.asked("nginx")
    assert box.run("production", "PORT=8085", "REQUEST_TIMEOUT=300").returncode == 0
    assert site(box).read_text() == first


@pytest.mark.needs("openssl")
@pytest.mark.parametrize(
    ("written", "edited"),
    [
        ("server_name ai.example;", "server_name ai.example www.ai.example;"),
        ("ssl_certificate ", "ssl_certificate  "),
        ("ssl_certificate_key /", "ssl_certificate_key /etc/ssl/we+b/"),
    ],
)
def test_what_the_operator_has_edited_in_the_site_stops_no_update(
    box: ProductionBox, certificate: tuple[str, str], written: str, edited: str
) -> None:
    """Nothing of it follows the settings; where these change, the site cannot be set up from it, and that is said."""
    with_nginx(box)
    words = [word for pair in zip(TWO_WORDS, certificate, strict=True) for word in pair]
    assert box.run("production", "--domain", "ai.example", *words).returncode == 0
    text = site(box).read_text()
    site(box).write_text(text.replace(written, edited))
    before = site(box).read_text()
    assert before != text
    for arguments in ((), ("--dry-run",)):
        done = box.run("production", *arguments)
        assert done.returncode == 0, done.stderr
    done = box.run("production", "PORT=9000")
    assert done.returncode == 1
    assert "--domain NAME does" in done.stderr
    assert site(box).read_text() == before


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("failure", ["nginx-fails", "restart-fails"])
def test_a_site_that_does_not_follow_is_put_back(
    box: ProductionBox, certificate: tuple[str, str], failure: str
) -> None:
    """The service that served before is at the old port."""
    with_nginx(box)
    words = [word for pair in zip(TWO_WORDS, certificate, strict=True) for word in pair]
    assert box.run("production", "--domain", "ai.example", *words).returncode == 0
    before = site(box).read_text()
    box.say(failure)
    box.change()
    assert box.run("production", "PORT=9000").returncode == 1
    assert site(box).read_text() == before
    assert "PORT=9000" not in box.settings


@pytest.mark.parametrize("copies", ["", "server 127.0.0.1:8085 x;\n    server 127.0.0.1:8086 x;"])
def test_a_site_of_the_operators_own_is_left_alone(box: ProductionBox, copies: str) -> None:
    """With several copies, or none yet."""
    with_nginx(box)
    for path in (site(box), box.system / "etc/nginx/sites-enabled/avito-ai.conf"):
        path.parent.mkdir(parents=True)
        path.write_text(f"upstream own {{\n    {copies}\n}}\nserver_name ai.example;\n")
    before = site(box).read_text()
    assert box.run("production", "PORT=9000").returncode == 0
    assert site(box).read_text() == before
    assert not box.asked("nginx")


@pytest.mark.needs("openssl")
def test_a_certificate_of_another_name_is_refused(bare: ProductionBox, certificate: tuple[str, str]) -> None:
    """Before anything else; so is a key that does not match."""
    bare.tool("openssl", f'exec {shutil.which("openssl")} "$@"')
    cert, key = certificate
    done = bare.run("production", "--domain", "b.example", "--certificate", cert, "--certificate-key", key)
    assert "is not for b.example" in done.stderr
    done = bare.run("production", "--domain", "ai.example", "--certificate", cert, "--certificate-key", cert)
    assert "is not the key of" in done.stderr


def test_a_domain_gets_its_certificate_from_certbot(box: ProductionBox) -> None:
    """First the challenge's site, then the certificate, then the final site."""
    live = box.system / "etc/letsencrypt/live/ai.example"
    with_nginx(box).tool(
        "certbot",
        f'echo "certbot $* with $(grep -c ssl_certificate "{site(box)}")" >>"{box.log}"\n'
        f'mkdir -p "{live}"; touch "{live}/fullchain.pem" "{live}/privkey.pem"',
    )
    done = box.run("production", "--domain", "ai.example", "--email", "me@ai.example")
    assert done.returncode == 0, done.stderr
    (call,) = [call for call in box.calls() if call.startswith("certbot")]
    assert "--non-interactive --agree-tos" in call
    assert "--email me@ai.example" in call
    assert call.endswith("with 0")
    assert f"ssl_certificate {live}/fullchain.pem;" in site(box).read_text()


def test_without_a_certificate_the_service_serves_all_the_same(box: ProductionBox) -> None:
    """certbot's failure is an error with its reason; the release that was installed stays."""
    with_nginx(box).tool("certbot", "echo 'the name does not lead here'; exit 1")
    box.change()
    done = box.run("production", "--domain", "ai.example")
    assert done.returncode == 1
    assert "There is no certificate for ai.example yet" in done.stderr
    assert "the name does not lead here" in done.stdout
    assert box.current == box.serving == box.releases[-1]
    assert "HOST=127.0.0.1" in box.settings


def test_a_site_that_nginx_refuses_changes_nothing(box: ProductionBox) -> None:
    """The previous site, the settings and the service are kept."""
    with_nginx(box).tool("certbot", "exit 0")
    site(box).parent.mkdir(parents=True)
    site(box).write_text("# the site before\n")
    box.say("nginx-fails")
    done = box.run("production", "--domain", "ai.example")
    assert done.returncode == 1
    assert "nginx rejects the site" in done.stderr
    assert site(box).read_text() == "# the site before\n"
    assert "HOST=127.0.0.1" not in box.settings
    assert not box.asked("systemctl restart")


def test_a_site_with_a_certificate_that_nginx_refuses_leaves_the_one_that_serves(box: ProductionBox) -> None:
    """By then the release serves and stays; the next start of nginx must not fail by what certbot brought."""
    live = box.system / "etc/letsencrypt/live/ai.example"
    with_nginx(box).tool(
        "certbot", f'mkdir -p "{live}"; touch "{live}/fullchain.pem" "{live}/privkey.pem" "{box.control}/nginx-fails"'
    )
    done = box.run("production", "--domain", "ai.example")
    assert done.returncode == 1
    assert "nginx rejects the site" in done.stderr
    assert "ssl_certificate" not in site(box).read_text()
    assert "/.well-known/acme-challenge/" in site(box).read_text()


def test_nginx_and_certbot_are_installed_where_they_are_missing(box: ProductionBox) -> None:
    """One command is enough."""
    box.tool("apt-get", f'echo "apt-get $*" >>"{box.log}"; exit 1')
    done = box.run("production", "--domain", "ai.example")
    assert done.returncode == 1
    assert "apt could not install" in done.stderr
    assert any("install --yes --no-install-recommends" in call and "certbot" in call for call in box.calls())
