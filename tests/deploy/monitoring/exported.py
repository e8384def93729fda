"""The metrics that the service exports: every sample's name and labels."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from string import Template

import yaml
from prometheus_client.parser import text_string_to_metric_families

from app_production import create_app
from config import load_settings
from deploy.monitoring.grafana.panels import ROWS
from deploy.monitoring.render import DEFAULTS, LIMITS
from models import ModelSet
from telemetry.metrics.machine import GpuFigures
from tests.fakes import CHECKPOINT, FakeMachine, ScriptedBackend, elsewhere
from tests.keys.issuer import SECRET, token

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy/monitoring"
# As Debian calls them, and as everybody else does.
ALERTMANAGER = next(filter(shutil.which, ("prometheus-alertmanager", "alertmanager")), "prometheus-alertmanager")
BLACKBOX = next(filter(shutil.which, ("prometheus-blackbox-exporter", "blackbox_exporter")), "blackbox_exporter")
# What Prometheus adds to every series, and what the exporters beside the service are asked for.
ADDED = {"job", "instance"}
OTHERS = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity"},
    "probe_success": set(),
    "redis_up": set(),
    "pg_up": set(),
    "probe_ssl_earliest_cert_expiry": set(),
}
SELECTOR = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
NAME = re.compile(r"\b((?:avito_ai|ai_api|llm|process|probe|redis|pg)_[a-z0-9_]+|up|ALERTS)\b")


def rules(file="avito-ai.yml"):
    """Return the rules of one of our files as they are by default."""
    text = (MONITORING / "prometheus/rules" / file).read_text(encoding="utf-8")
    values = {name.lower(): DEFAULTS[name] for name in LIMITS}
    groups = yaml.safe_load(Template(text).safe_substitute(values))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded():
    """Return the labels of each recorded name, as far as its rule gives or groups by them."""
    found = {}
    for rule in rules("other-names.yml"):
        labels = grouped_in(rule["expr"]) | set(rule.get("labels", {}))
        copied = set().union(*(found.get(name, set()) for name in names_in(rule["expr"])))
        found.setdefault(rule["record"], set()).update(labels | copied)
    return found


def exported():
    """Return the labels of each sample, after answers, failures and refusals.

    With a GPU, a token, a backup, a checkpoint, and a server elsewhere that has failed.
    """
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "1", "AUTH": "jwt", "JWT_SECRET_KEY": SECRET}, None)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as noted:
        noted.write("{}")
        noted.flush()
        return _exported(replace(settings, data=replace(settings.data, backup_status=Path(noted.name))))


def _exported(settings):
    backends = {"avibe": ScriptedBackend("avibe", identity=CHECKPOINT), "avision": ScriptedBackend("avision")}
    models = ModelSet(backends, upstreams={"avision": elsewhere("open")})
    client = create_app(settings, models, FakeMachine(GpuFigures("GPU", 1, 2, 3, 0.5))).test_client()
    for _ in range(2):
        client.post("/api/v1/text/generate", json={"prompt": "x"}, headers={"Authorization": f"Bearer {token()}"})
    samples = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return {name: labels for name, labels in samples.items() if not name.endswith("_created")}


def names_in(expression):
    """Return the names of the metrics in an expression."""
    return set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))


def matchers_in(expression):
    """Return (metric, label, operator, value) for every matcher of an expression."""
    found = []
    for metric, matchers in SELECTOR.findall(expression):
        found += [(metric, label, operator, value) for label, operator, value in MATCHER.findall(matchers)]
    return found


def grouped_in(expression):
    """Return the labels that an expression groups or joins by."""
    return {
        label.strip()
        for labels in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression)
        for label in labels.split(",")
    }


def expressions():
    """Return every expression of the rules and of the dashboard."""
    panels = [query for _, row in ROWS for panel in row for query, _ in panel.queries]
    return [rule["expr"] for file in ("avito-ai.yml", "other-names.yml") for rule in rules(file)], panels
