"""From a metric of a real service to an operator's mailbox, through a real Prometheus and Alertmanager."""

from __future__ import annotations

import base64
import json

import pytest

from deploy.monitoring.grafana.dashboard import FILE
from tests.deploy.monitoring.dash_lint import queries
from tests.deploy.monitoring.exported import recorded
from tests.deploy.monitoring.watched import PATIENCE, watched
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.needs("prometheus", "alertmanager", "blackbox-exporter", "openssl")

STALLED, CERTIFICATE = "AvitoEngineStalled", "AvitoCertificate"
ASK = {"prompt": "Hello"}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Everything running, with some requests answered and one over its rate limit."""
    with watched(tmp_path_factory.mktemp("watched")) as running:
        until(lambda: answers(running), PATIENCE, every=0.2)
        until(lambda: scraped(running), PATIENCE, every=0.2)
        assert [running.post("/api/v1/text/generate", ASK) for _ in range(4)] == [200, 200, 200, 429]
        running.post("/api/v1/nothing", ASK)
        yield running


def answers(running):
    """Request a probe, which has no rate limit."""
    try:
        return running.service.get("/api/health/live", timeout=5)[0] == 200
    except OSError:
        return False


def scraped(running):
    try:
        return len(running.query("up == 1")) == 2
    except OSError:
        return False


def test_an_alert_fires_is_delivered_and_clears(running):
    """A stalled model is reported by mail, Slack, PagerDuty and webhook, and so is its recovery."""
    running.service.say("stalled")
    alert = running.told(STALLED, "firing")
    assert alert["labels"]["model"] == "avibe"
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#avitoenginestalled"
    (running.service.folder / "stalled").unlink()
    running.told(STALLED, "resolved")
    firing, resolved = f"FIRING: {STALLED} (critical)", f"RESOLVED: {STALLED} (critical)"
    until(lambda: {firing, resolved} <= set(running.mailbox.subjects()), PATIENCE)
    text = running.mailbox.text(firing)
    assert f"avibe on 127.0.0.1:{running.service.port} is stalled." in text
    assert "What to do: docs/runbook.md#avitoenginestalled" in text
    titles = [one["title"] for message in running.hooks["/slack"] for one in message["attachments"]]
    assert {firing, resolved} <= set(titles)
    until(lambda: {"trigger", "resolve"} <= {one["event_action"] for one in running.paged(STALLED)}, PATIENCE)
    assert {one["routing_key"] for one in running.paged(STALLED)} == {"a routing key"}
    assert running.paged(STALLED)[0]["payload"]["severity"] == "critical"
    assert base64.b64decode(running.mailbox.logins[0]) == b"\0avito-ai\0a password"


def test_a_certificate_that_ends_soon_is_reported_once(running):
    """The probe reads a real certificate, both rules fire, and the critical alert inhibits the warning."""
    alert = running.told(CERTIFICATE, "firing")
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["summary"].startswith("The certificate of https://127.0.0.1")
    severities = 'count by (severity) (ALERTS{alertname="AvitoCertificate",alertstate="firing"})'
    until(lambda: len(running.query(severities)) == 2, PATIENCE)
    told = [one for message in running.hooks["/hook"] for one in message["alerts"]]
    assert {one["labels"]["severity"] for one in told if one["labels"]["alertname"] == CERTIFICATE} == {"critical"}


def test_every_panel_of_the_dashboard_has_data(running):
    """Each expression returns at least one series from the Prometheus that scrapes the service."""
    dashboard = json.loads(FILE.read_text(encoding="utf-8"))
    expressions = set(queries(dashboard, window="30s"))

    def empty():
        return [(title, expression) for title, expression in expressions if not running.query(expression)]

    until(lambda: not empty(), PATIENCE, every=0.5)


def test_the_other_names_have_series(running):
    """Prometheus records what dashboards for other names of the same metrics ask for."""

    def missing():
        return {name for name in recorded() if not running.query(name)}

    until(lambda: not missing(), PATIENCE, every=0.5)
    (answered,) = running.query('sum(ai_api_requests_total{provider="avito-ai",status="success"})')
    assert answered["value"][1] == running.query('sum(avito_ai_requests_total{status="success"})')[0]["value"][1]


def test_nothing_fires_that_has_no_cause(running):
    """No other rule fires, and every rule can be evaluated."""
    known = {STALLED, CERTIFICATE, "AvitoNoReadyCopy", "AvitoCopyDown"}  # one model stalled is a copy that is not ready
    fired = {series["metric"]["alertname"] for series in running.query("count by (alertname) (ALERTS)")}
    assert fired <= known
    groups = running.ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
