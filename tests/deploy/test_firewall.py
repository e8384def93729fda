"""The firewall rules that deploy.sh production shows, and applies with --firewall."""

from __future__ import annotations

import pytest

from tests.deploy.production_box import ProductionBox

pytestmark = [pytest.mark.slow, pytest.mark.linux]


def test_the_firewall_is_changed_only_when_asked(box: ProductionBox) -> None:
    """Rules are always shown, applied only with --firewall, and SSH is the first."""
    box.tool("ufw", f'echo "ufw $*" >>"{box.log}"')
    shown = box.run("production").stdout
    assert "ufw allow 8085/tcp" in shown
    assert not box.asked("ufw ")
    assert box.run("production", "--firewall", SSH_CONNECTION="10.0.0.1 50000 10.0.0.2 2222").returncode == 0
    rules = [call for call in box.calls() if call.startswith("ufw")]
    assert rules == ["ufw allow 2222/tcp", "ufw allow 8085/tcp", "ufw default deny incoming", "ufw --force enable"]


SSHD = """
port 22
addressfamily any
listenaddress 10.0.0.2:2222
listenaddress [::1]:2222
listenaddress 0.0.0.0:22022 rdomain vrf
"""
SOCKET = """
case "$*" in *ssh.socket*)
    printf 'Listen=%s (Stream)\\n' 0.0.0.0:{port} '[::]:{port}'; echo ActiveState={state}; exit ;;
esac
"""


def firewall_ports(box: ProductionBox, **environment: str) -> list[str]:
    """Return the ports that the firewall admits."""
    box.tool("ufw", f'echo "ufw $*" >>"{box.log}"')
    assert box.run("production", "--firewall", **environment).returncode == 0
    return [call.removeprefix("ufw allow ") for call in box.calls() if call.startswith("ufw allow")]


@pytest.mark.parametrize("folder", ["bin", "usr/sbin"])
def test_the_firewall_admits_every_port_of_ssh(box: ProductionBox, folder: str) -> None:
    """A second Port or ListenAddress stays open, also where PATH has no /usr/sbin; so does the session's own."""
    box.tool("sshd", f"[ \"$*\" = -T ] && echo '{SSHD}'")
    if folder != "bin":
        (box.system / folder).mkdir(parents=True)
        (box.bin / "sshd").rename(box.system / folder / "sshd")
    assert firewall_ports(box) == ["2222/tcp", "22022/tcp", "8085/tcp"]
    box.log.unlink()
    session = {"SSH_CONNECTION": "10.0.0.1 50000 10.0.0.2 2200"}
    assert firewall_ports(box, **session) == ["2200/tcp", "2222/tcp", "22022/tcp", "8085/tcp"]


@pytest.mark.parametrize(
    ("state", "ports"), [("active", ["2022/tcp", "8085/tcp"]), ("inactive", ["22/tcp", "8085/tcp"])]
)
def test_the_firewall_admits_the_port_at_which_systemd_listens(
    box: ProductionBox, state: str, ports: list[str]
) -> None:
    """For sshd, which cannot tell its ports then; where nobody can, 22 is admitted, and that is said."""
    box.tool("sshd", "echo 'Missing privilege separation directory: /run/sshd' >&2; exit 255")
    systemctl = (box.bin / "systemctl").read_text().removeprefix("#!/bin/sh\n")
    box.tool("systemctl", SOCKET.format(port=2022, state=state) + systemctl)
    assert firewall_ports(box) == ports
    assert ("sshd does not tell its ports" in box.run("production").stderr) is (state == "inactive")


def test_a_firewall_that_refuses_is_an_error(box: ProductionBox) -> None:
    """A failure to apply the rules is reported."""
    box.tool("ufw", '[ "$1" = allow ]')
    done = box.run("production", "--firewall")
    assert done.returncode == 1
    assert "ufw could not be enabled" in done.stderr
    assert box.serving == box.current
