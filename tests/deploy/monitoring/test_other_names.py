"""Alerts that were written for other names of our metrics fire, with the series that the service exports."""

from __future__ import annotations

import pytest

from edge.errors import ERRORS
from tests.deploy.monitoring.exported import matchers_in, rules
from tests.deploy.monitoring.test_rules import Case, as_test, growing, of_model, ours, promtool, steady

OTHER_NAMES = rules("other-names.yml")
REQUESTS = ',model="avibe",protocol="%s",status="%s"'
BUCKET = ',model="avibe",le="%s"'


def requests(status, a_step, protocol="api"):
    return {ours("avito_ai_requests_total", REQUESTS % (protocol, status)): growing(a_step)}


def latency(below_10, all_of_them):
    return {
        ours("avito_ai_e2e_request_latency_seconds_bucket", BUCKET % bound): growing(count)
        for bound, count in (("10", below_10), ("30", all_of_them), ("+Inf", all_of_them))
    }


def alert(name, expr, **more):
    return {"alert": name, "expr": expr, "for": "2m", "labels": {"severity": "warning"}, **more}


# As such guides write them: by series, and by the sum over all providers.
ALERTS = [
    alert("HighErrorRate", 'rate(ai_api_requests_total{status="error"}[5m]) > 0.05'),
    alert(
        "HighErrorShare",
        'sum(rate(llm_requests_total{status="error"}[5m])) / sum(rate(llm_requests_total[5m])) > 0.05',
    ),
    alert("HighLatency", "histogram_quantile(0.95, rate(ai_api_request_duration_seconds_bucket[5m])) > 10"),
    alert("HighAPICost", "sum by (provider) (increase(ai_api_cost_total[1h])) > 100"),
    alert("TooManyActive", "sum(ai_api_active_requests) > 100"),
    alert("TokenBurst", "sum(rate(ai_api_tokens_total[5m])) by (provider) > 1000"),
]
CASES = [
    Case("HighErrorRate", "warning", requests("model_error", 2), requests("validation_error", 50)),
    Case(
        "HighErrorShare",
        "warning",
        requests("success", 90) | requests("overloaded", 5) | requests("not_ready", 5, "form"),
        requests("success", 90) | requests("overloaded", 4) | requests("rate_limit_exceeded", 50),
    ),
    Case("HighLatency", "warning", latency(90, 100), latency(96, 100)),
    Case("HighAPICost", "warning", {of_model("cost_total"): growing(1.5)}, {of_model("cost_total"): growing(0.1)}),
    Case(
        "TooManyActive",
        "warning",
        {of_model("num_requests_running"): steady(64), of_model("num_requests_waiting"): steady(40)},
        {of_model("num_requests_running"): steady(64), of_model("num_requests_waiting"): steady(30)},
    ),
    Case(
        "TokenBurst",
        "warning",
        {of_model("prompt_tokens_total"): growing(9_000), of_model("generation_tokens_total"): growing(9_000)},
        {of_model("prompt_tokens_total"): growing(7_000), of_model("generation_tokens_total"): growing(7_000)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
@pytest.mark.needs("prometheus")
def test_an_alert_for_another_name_fires_as_written(case, tmp_path):
    """It fires for series of the service beyond its limit, and not for those short of it."""
    tests = [as_test(case, case.fires, [("0m", 0), ("29m", 1)]), as_test(case, case.quiet, [("29m", 0)])]
    done = promtool([*OTHER_NAMES, *ALERTS], tests, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_end_of_a_request_is_counted_once():
    """What a client did wrong is refused, every other failure is an error, whatever errors there will be."""
    refused = {meaning.code for meaning in ERRORS.values() if meaning.status < 500}
    sides = {}
    for rule in OTHER_NAMES:
        if rule["record"] == "ai_api_requests_total":
            ((_, _, operator, value),) = matchers_in(rule["expr"])
            sides[rule["labels"]["status"]] = operator, set(value.split("|"))
    assert sides == {"success": ("=", {"success"}), "error": ("!~", refused | {"success"}), "refused": ("=~", refused)}
