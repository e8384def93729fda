"""/metrics names keys and persons to this machine and to the operator, and gives everybody else their sum."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from app_production import create_app
from config import load_settings
from edge.key_tries import TRIES_PER_MINUTE
from edge.services import services
from telemetry.metrics.without_names import OPEN_LABELS, WithoutNames
from tests.deploy.monitoring.exported import exported

KEY = "a-key-of-an-operator"
ELSEWHERE = {"REMOTE_ADDR": "10.1.2.3"}
SERIES = "avito_ai_key_requests"
NAMED = {("anna", "200"): 2.0, ("billing", "200"): 1.0, ("billing", "404"): 1.0}
SUMMED = {("", "200"): 3.0, ("", "404"): 1.0}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def make(environ, models, machine):
    """Return a function that makes a client of a service with these settings, which has served two keys."""

    def make(**settings):
        client = create_app(load_settings(environ | settings, None), models, machine).test_client()
        count = services(client.application).metrics.prometheus.by_key
        for name, status in (("anna", 200), ("anna", 200), ("billing", 200), ("billing", 404)):
            count(name, status)
        return client

    return make


def families(client, **request):
    """Return what a scrape gets, by name."""
    response = client.get("/metrics", **request)
    assert response.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def by_key(client, **request):
    """Return the requests that a scrape shows, by the name of the key and the status."""
    samples = families(client, **request)[SERIES].samples
    return {
        (one.labels.get("key", ""), one.labels["status"]): one.value for one in samples if one.name == f"{SERIES}_total"
    }


def test_names_are_for_this_machine_and_for_the_operators_key(make):
    """Prometheus elsewhere sends the key; without it, or with another, it gets the sums."""
    client = make(ADMIN_KEY=KEY)
    assert by_key(client) == NAMED
    assert by_key(client, environ_base=ELSEWHERE, headers=bearer(KEY)) == NAMED
    assert by_key(client, environ_base=ELSEWHERE) == SUMMED
    assert by_key(client, environ_base=ELSEWHERE, headers=bearer("another")) == SUMMED
    assert by_key(make(), environ_base=ELSEWHERE, headers=bearer("")) == SUMMED


@pytest.mark.parametrize("proxies", ["0", "1", "2"])
@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host"])
def test_no_header_makes_a_scrape_local(make, proxies, header):
    """Neither a stranger's, nor one that a proxy on this machine passes on, however many are trusted."""
    client = make(TRUSTED_PROXIES=proxies)
    for environ in (ELSEWHERE, {}):
        for claimed in ("127.0.0.1", "127.0.0.1, 127.0.0.1", "for=127.0.0.1", "localhost"):
            assert by_key(client, environ_base=environ, headers={header: claimed}) == SUMMED


@pytest.mark.parametrize("sent", [{"Host": "rebound.example"}, {"Origin": "https://other.example"}])
def test_a_page_elsewhere_reads_no_names_on_this_machine(make, sent):
    """A browser of this machine is at the loopback address too."""
    assert by_key(make(), headers=sent) == SUMMED


def test_a_key_cannot_be_guessed_here(make):
    """Wrong keys are tries, as everywhere; a scrape with one is answered, and the right one is then refused too."""
    client = make(ADMIN_KEY=KEY)
    for _ in range(TRIES_PER_MINUTE):
        assert by_key(client, environ_base=ELSEWHERE, headers=bearer("x")) == SUMMED
    assert by_key(client, environ_base=ELSEWHERE, headers=bearer(KEY)) == SUMMED
    refused = client.post("/api/metrics/reset", environ_base=ELSEWHERE, headers=bearer(KEY))
    assert refused.status_code == 429
    assert by_key(client, environ_base={"REMOTE_ADDR": "10.9.9.9"}, headers=bearer(KEY)) == NAMED


def test_strangers_get_the_same_metrics_otherwise(make):
    """Every family, with the kind, help and samples that it has, and no name anywhere."""
    client = make()
    client.get("/metrics")  # counts in both
    ours, theirs = families(client), families(client, environ_base=ELSEWHERE)
    assert {name: (one.type, one.documentation) for name, one in ours.items()} == {
        name: (one.type, one.documentation) for name, one in theirs.items()
    }
    for name in ours.keys() - {SERIES, f"{SERIES}_created"}:
        assert [(one.name, one.labels) for one in ours[name].samples] == [
            (one.name, one.labels) for one in theirs[name].samples
        ]
    for path in ("/metrics", "/api/metrics"):
        text = client.get(path, environ_base=ELSEWHERE).text
        assert "anna" not in text
        assert "billing" not in text


def test_a_sum_begins_with_the_first_of_its_series():
    """Times of beginnings are not added up, counts are."""
    family = CounterMetricFamily("requests", "Text.", labels=["key", "status"])
    family.add_metric(["anna", "200"], 2, created=20.0)
    family.add_metric(["billing", "200"], 1, created=10.0)
    (found,) = WithoutNames(SimpleNamespace(collect=lambda: [family])).collect()
    assert [(one.name, one.labels, one.value) for one in found.samples] == [
        ("requests_total", {"status": "200"}, 3.0),
        ("requests_created", {"status": "200"}, 10.0),
    ]


def test_every_label_has_been_judged():
    """One that names somebody is not among the open ones; a new label belongs there, or into this set."""
    assert set().union(*exported().values()) - OPEN_LABELS == {"key"}
