"""A real service with real monitoring: Prometheus, Alertmanager and the blackbox exporter on loopback.

Their configuration is what `render.py` writes, made impatient: intervals and waits of minutes become parts of seconds.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from http.server import ThreadingHTTPServer

from deploy.monitoring.render import read_settings, render
from tests.deploy.monitoring.exported import ALERTMANAGER, BLACKBOX
from tests.deploy.monitoring.sinks import Answering, mail_server, serving, web_hooks
from tests.e2e.gunicorn_process import GunicornProcess, free_port, until
from tests.keys.issuer import SECRET, token

PATIENCE = 120.0
CERTIFICATE_DAYS = 2
ACCESS = {"AUTH": "jwt", "JWT_SECRET_KEY": SECRET}
APP = "tests.deploy.monitoring.stalling_app:app"


class Watched:
    """service: under Gunicorn; mailbox, hooks: the received notifications."""

    def __init__(self, service, prometheus, mailbox, hooks):
        self.service, self.mailbox, self.hooks = service, mailbox, hooks
        self._prometheus = prometheus

    def query(self, expression):
        """Return the series of an expression now."""
        return self.ask("query?query=" + urllib.parse.quote(expression))["result"]

    def ask(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self._prometheus}/api/v1/{path}", timeout=5) as response:
            return json.load(response)["data"]

    def told(self, alert, status):
        """Wait until the webhook has received the alert with this status; return it."""

        def look():
            messages = list(self.hooks.get("/hook", []))
            alerts = [one for message in messages for one in message["alerts"]]
            return next((a for a in alerts if a["labels"]["alertname"] == alert and a["status"] == status), None)

        return until(look, PATIENCE)

    def paged(self, alert):
        """Return the events that PagerDuty got of an alert."""
        return [one for one in self.hooks.get("/pagerduty", []) if one.get("payload", {}).get("class") == alert]

    def post(self, path, body):
        """Send JSON to the service with a client's token; return the status."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.service.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {token()}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code


@contextmanager
def watched(folder):
    """Run everything until the context ends."""
    with ExitStack() as running:
        start = running.enter_context
        mailbox, smtp = start(mail_server())
        hooks, web = start(web_hooks())
        (folder / "service").mkdir()
        noted = folder / "backup.json"
        noted.write_text(json.dumps({"created": time.time(), "tested": time.time(), "size": 1}))
        environ = ACCESS | {"BACKUP_STATUS": str(noted), "RATE_LIMIT_PER_MINUTE": "3"}
        service = start(GunicornProcess(folder / "service", app=APP, **environ))
        site = start(_site(folder))
        ports = {name: free_port() for name in ("prometheus", "alertmanager", "blackbox")}
        configured = _configure(folder, service.port, site, smtp, web, ports)
        for command in _commands(configured, ports):
            start(_program(command, folder, {"SSL_CERT_FILE": str(folder / "cert.pem")}))
        yield Watched(service, ports["prometheus"], mailbox, hooks)


def _configure(folder, service, site, smtp, web, ports):
    (folder / "slack").write_text(f"http://127.0.0.1:{web}/slack")
    (folder / "password").write_text("a password")
    (folder / "pagerduty").write_text("a routing key")
    settings = f"""
        SERVICE_TARGETS=127.0.0.1:{service}
        SITE_URL=https://127.0.0.1:{site}/api/health/ready
        BLACKBOX_TARGET=127.0.0.1:{ports["blackbox"]}
        ALERTMANAGER_TARGET=127.0.0.1:{ports["alertmanager"]}
        EMAIL_TO=operator@example.com
        EMAIL_FROM=avito-ai@example.com
        SMTP_SERVER=127.0.0.1:{smtp}
        SMTP_TLS=false
        SMTP_USER=avito-ai
        SMTP_PASSWORD_FILE={folder / "password"}
        SLACK_WEBHOOK_FILE={folder / "slack"}
        PAGERDUTY_KEY_FILE={folder / "pagerduty"}
        PAGERDUTY_URL=http://127.0.0.1:{web}/pagerduty
        WEBHOOK_URL=http://127.0.0.1:{web}/hook
    """
    configured = folder / "configured"
    render(read_settings(settings), configured)
    for file in configured.rglob("*.yml"):
        file.write_text(_impatient(file.read_text(encoding="utf-8")), encoding="utf-8")
    return configured


def _impatient(text):
    text = re.sub(r"(scrape_interval|scrape_timeout|evaluation_interval): \w+", r"\1: 250ms", text)
    text = re.sub(r"(group_wait|group_interval): \w+", r"\1: 300ms", text)
    return re.sub(r"(\bfor): \w+", r"\1: 250ms", text)


def _commands(configured, ports):
    at = {name: f"--web.listen-address=127.0.0.1:{port}" for name, port in ports.items()}
    data = configured.parent / "data"
    return [
        [BLACKBOX, f"--config.file={configured}/blackbox/blackbox.yml", at["blackbox"]],
        [
            ALERTMANAGER,
            f"--config.file={configured}/alertmanager/alertmanager.yml",
            f"--storage.path={data}/alertmanager",
            "--cluster.listen-address=",
            at["alertmanager"],
        ],
        [
            "prometheus",
            f"--config.file={configured}/prometheus/prometheus.yml",
            f"--storage.tsdb.path={data}/prometheus",
            at["prometheus"],
        ],
    ]


@contextmanager
def _program(command, folder, environ):
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environ, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


@contextmanager
def _site(folder):
    """Return 200 over TLS, with a certificate that expires in two days; yield the port."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-days", str(CERTIFICATE_DAYS), "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
        timeout=600,
    )

    class Handler(Answering):
        do_GET = Answering.ok

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass  # a probe that leaves early

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        yield port
