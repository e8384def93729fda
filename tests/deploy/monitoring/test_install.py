"""install.sh on a bare Debian in a booted systemd: the three programs run, monitor, alert, and survive a bad change.

Run it with `python -m pytest -m deploy tests/deploy/monitoring`; it needs what tests/deploy/systemd_box.py names.
"""

from __future__ import annotations

import json

import pytest

from tests.deploy.monitoring.exported import MONITORING
from tests.deploy.systemd_box import SystemdBox
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.deploy

UNITS = ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter")
INSTALL = "bash /opt/monitoring/install.sh"
SERVICE = """
import http.server, json, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b'avito_ai_model_status{model="avibe",status="ready"} 1\\n')
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        pathlib.Path('/tmp/told').write_bytes(body)
        self.answer(b'ok')
    def answer(self, body):
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('127.0.0.1', 8085), Handler).serve_forever()
"""
QUERY = "curl -s 'http://127.0.0.1:9090/api/v1/query?query=avito_ai_model_status'"
TRIAL = "amtool --alertmanager.url=http://127.0.0.1:9093 alert add AvitoTrial severity=critical"


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A system with the monitoring's files, and a stand-in for the service and a webhook."""
    service = tmp_path_factory.mktemp("service")
    (service / "service.py").write_text(SERVICE)
    with SystemdBox("monitoring", [(MONITORING, "/opt/monitoring"), (service, "/opt/stand-in")]) as box:
        box.run("systemd-run --quiet --unit=stand-in python3 /opt/stand-in/service.py")
        box.run("echo 'WEBHOOK_URL=http://127.0.0.1:8085/hook' >/etc/avito-monitoring.env")
        box.run("apt-get update --quiet")
        yield box


def active(box):
    return [box.run(f"systemctl is-active {unit}", check=False).stdout.strip() for unit in UNITS]


def test_it_installs_monitors_and_alerts(box):
    """After one run Prometheus has the service's metrics, and an alert reaches the configured receiver."""
    done = box.run(INSTALL)
    assert "Running. Alerts and targets: http://127.0.0.1:9090." in done.stdout
    assert active(box) == ["active"] * 3
    until(lambda: json.loads(box.run(QUERY).stdout)["data"]["result"], 60, every=1)
    listening = box.run("ss -ltnH").stdout
    for port in (9090, 9093, 9115):
        assert [line.split()[3] for line in listening.splitlines() if f":{port} " in line] == [f"127.0.0.1:{port}"]
    box.run(TRIAL)
    until(lambda: box.run("cat /tmp/told", check=False).stdout, 60, every=1)
    assert json.loads(box.run("cat /tmp/told").stdout)["alerts"][0]["labels"]["alertname"] == "AvitoTrial"


def test_a_second_run_finishes_the_same(box):
    """A second run with another receiver succeeds, and the new configuration is used."""
    box.run("echo 'SMTP_SERVER=127.0.0.2:2525' >>/etc/avito-monitoring.env")
    box.run(INSTALL)
    assert active(box) == ["active"] * 3
    assert "127.0.0.2:2525" in box.run("curl -s http://127.0.0.1:9093/api/v2/status").stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SMTP_TLS=perhaps", "SMTP_TLS='perhaps'"),
        ("SLACK_WEBHOOK_FILE=/root/hook", "cannot be read by the user prometheus"),
    ],
)
def test_a_bad_change_changes_nothing(box, line, said):
    """A mistake in the settings is reported with a non-zero status, and the running programs are unchanged."""
    before = box.run("find /etc/avito-monitoring -type f | sort | xargs sha256sum").stdout
    box.run(f"cp /etc/avito-monitoring.env /tmp/good; echo '{line}' >>/etc/avito-monitoring.env")
    done = box.run(INSTALL, check=False)
    box.run("cp /tmp/good /etc/avito-monitoring.env")
    assert done.returncode != 0
    assert said in done.stderr
    assert box.run("find /etc/avito-monitoring -type f | sort | xargs sha256sum").stdout == before
    assert active(box) == ["active"] * 3
