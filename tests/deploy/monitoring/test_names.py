"""Metrics and labels in rules, dashboard and deployment files, compared with those that the service exports."""

from __future__ import annotations

import re

import pytest

from edge.errors import ERRORS
from engine.types import Status
from telemetry.metrics import SUCCESS
from tests.deploy.monitoring.exported import (
    ADDED,
    OTHERS,
    ROOT,
    exported,
    expressions,
    grouped_in,
    matchers_in,
    names_in,
    recorded,
    rules,
)

RULES, PANELS = expressions()
TEXT_FILES = {".yml", ".yaml", ".json", ".sh", ".py"}


@pytest.fixture(scope="module")
def known():
    return exported() | OTHERS | recorded()


@pytest.mark.parametrize("expression", [*RULES, *PANELS])
def test_what_an_expression_names_exists(expression, known):
    """Its metrics are exported, with the labels that it uses."""
    names = names_in(expression)
    assert names
    assert names <= known.keys()
    for metric, label, _, _ in matchers_in(expression):
        assert label in known[metric] | ADDED, (metric, label)
    assert grouped_in(expression) <= set().union(ADDED, *(known[name] for name in names))


def test_the_ends_and_states_that_an_expression_looks_for_exist():
    """Rules and panels use only statuses that requests and models can have, and those of each metric."""
    values = {
        "avito_ai_requests_total": {SUCCESS} | {meaning.code for meaning in ERRORS.values()},
        "avito_ai_model_status": {status.value for status in Status},
        "ai_api_requests_total": {"success", "error", "refused"},
    }
    found = [
        (metric, status)
        for expression in [*RULES, *PANELS]
        for metric, label, _, value in matchers_in(expression)
        if label == "status" and metric != "avito_ai_http_requests_total"  # of HTTP
        for status in value.split("|")
    ]
    assert {metric for metric, _ in found} == values.keys()
    assert [one for one in found if one[1] not in values[one[0]]] == []


def test_every_name_in_a_deployment_file_exists(known):
    """Autoscalers, monitors and scripts use existing metrics only; nginx's variables and zones are none."""
    named = {
        (name, path.name)
        for path in ROOT.joinpath("deploy").rglob("*")
        if path.suffix in TEXT_FILES and path.is_file()
        for name in re.findall(r"(?<!\$)(?<!limit_conn )\bavito_ai_[a-z0-9_]+\b", path.read_text(encoding="utf-8"))
    }
    families = known.keys() | {re.sub(r"_(bucket|total|count|sum)$", "", name) for name in known}
    assert {(name, file) for name, file in named if name not in families} == set()


def test_every_metric_has_a_reader(known):
    """Every exported metric is used in the dashboard or in a rule."""
    read = set().union(*(names_in(expression) for expression in [*RULES, *PANELS]))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known}
    unread = {name for name in families - read if not any(f"{name}{end}" in read for end in ("_bucket", "_count"))}
    assert {name for name in unread if name.startswith("avito_ai_")} == set()


def test_every_alert_leads_to_its_entry_in_the_runbook():
    """Each alert links to a heading of the runbook, and has summary and description."""
    document = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    anchors = {heading.lower() for heading in re.findall(r"^#+ (Avito\w+)$", document, re.MULTILINE)}
    named = set()
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert set(rule["labels"]) == {"severity"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        named.add(rule["alert"].lower())
    assert named == anchors


def test_every_error_of_the_service_counts_in_the_error_rate():
    """Overload has an alert of its own; whatever errors there will be, what is no client's doing is in this one."""
    failures = {meaning.code for meaning in ERRORS.values() if meaning.status >= 500} - {"overloaded"}
    refused = {meaning.code for meaning in ERRORS.values() if meaning.status < 500}
    (rule,) = [rule for rule in rules() if rule["alert"] == "AvitoErrorRate"]
    named = {(operator, frozenset(value.split("|"))) for _, _, operator, value in matchers_in(rule["expr"])}
    counted = {values for operator, values in named if operator == "=~"}
    left_out = {values for operator, values in named if operator == "!~"}
    assert counted == {frozenset(failures)}
    assert all(values <= refused for values in left_out)
