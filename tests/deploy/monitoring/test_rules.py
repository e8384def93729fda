"""Every alert with series that make it fire and series just short of that, run by promtool."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field

import pytest
import yaml

from deploy.monitoring.render import LIMITS, read_settings, render
from tests.deploy.monitoring.exported import MONITORING, rules

READY = 'avito_ai_model_status{job="avito-ai",instance="a",model="%s",status="ready"}'
REQUESTS = 'avito_ai_requests_total{job="avito-ai",instance="a",model="avibe",status="%s"}'
HISTOGRAM = 'avito_ai_%s_seconds_bucket{job="avito-ai",instance="a",model="avibe",le="%s"}'
LONG = "x120"  # steps of 15 s: half an hour


def ours(metric, labels=""):
    return f'{metric}{{job="avito-ai",instance="a"{labels}}}'


def of_model(metric):
    return ours(f"avito_ai_{metric}", ',model="avibe"')


def site(metric):
    return f'{metric}{{job="avito-ai-site",instance="https://site/"}}'


def steady(value):
    """A constant gauge."""
    return f"{value}+0{LONG}"


def growing(a_step):
    """A counter that grows by this much every 15 s."""
    return f"0+{a_step}{LONG}"


def histogram(metric, **shares):
    """Buckets, by their bounds, of a histogram that grows."""
    return {
        HISTOGRAM % (metric, bound.replace("le_", "").replace("inf", "+Inf")): growing(n) for bound, n in shares.items()
    }


def models(avibe, avision, instance="a"):
    """The readiness of both models of one copy."""
    names = (("avibe", avibe), ("avision", avision))
    return {(READY % name).replace('"a"', f'"{instance}"'): steady(value) for name, value in names}


# A further version, and a further model of another server, that are not ready.
FURTHER = {READY % "avibe@v2": steady(0), READY % "provider": steady(0)}


def stalled(model):
    return ours("avito_ai_model_status", f',model="{model}",status="stalled"')


def breaker(model, state="open"):
    return ours("avito_ai_upstream_state", f',model="{model}",server="0",state="{state}"')


@dataclass
class Case:
    """fires: series with which the alert fires at `at`; not_yet: when it must not fire; quiet: series without it."""

    alert: str
    severity: str
    fires: dict[str, str]
    quiet: dict[str, str]
    at: str = "29m"
    not_yet: str = "0m"
    amount: int = 1
    also_quiet: list[dict[str, str]] = field(default_factory=list)


CASES = [
    Case(
        "AvitoNoReadyCopy", "critical", models(1, 0) | models(0, 1, "b"), models(1, 0) | models(1, 1, "b"), "3m", "1m"
    ),
    Case("AvitoNoReadyCopy", "critical", {"something_else": steady(1)}, models(1, 1) | FURTHER, "3m", "1m"),
    Case("AvitoCopyDown", "warning", {ours("up"): steady(0)} | models(1, 1, "b"), {ours("up"): steady(1)}, "12m", "9m"),
    Case("AvitoCopyDown", "warning", {ours("up"): steady(1)} | models(1, 0), models(1, 1) | FURTHER, "12m", "9m"),
    Case(
        "AvitoErrorRate",
        "critical",
        {REQUESTS % "success": growing(90), REQUESTS % "model_error": growing(10)},
        {REQUESTS % "success": growing(96), REQUESTS % "deadline_exceeded": growing(4)},
        "10m",
        "2m",
        also_quiet=[
            # Four failures in a quiet night are no alarm; what clients do wrong is none either.
            {REQUESTS % "success": steady(0), REQUESTS % "model_error": "0+0x20 4+0x100"},
            {REQUESTS % "success": growing(90), REQUESTS % "validation_error": growing(50)},
            {REQUESTS % "success": growing(90), REQUESTS % "overloaded": growing(50)},
        ],
    ),
    Case(
        "AvitoSlowAnswers",
        "warning",
        histogram("e2e_request_latency", le_60=90, le_120=100, le_inf=100),
        histogram("e2e_request_latency", le_60=96, le_120=100, le_inf=100),
        "15m",
        "9m",
    ),
    Case(
        "AvitoSlowFirstToken",
        "warning",
        histogram("time_to_first_token", le_5=90, le_10=100, le_inf=100),
        histogram("time_to_first_token", le_5=96, le_10=100, le_inf=100),
        "15m",
        "9m",
    ),
    Case(
        "AvitoQueueFull", "critical", {REQUESTS % "overloaded": growing(1)}, {REQUESTS % "overloaded": "0+0x50 5+0x70"}
    ),
    Case(
        "AvitoQueueFilling",
        "warning",
        {of_model("num_requests_waiting"): steady(110), of_model("max_waiting"): steady(128)},
        {of_model("num_requests_waiting"): steady(100), of_model("max_waiting"): steady(128)},
        "6m",
        "4m",
        also_quiet=[{of_model("num_requests_waiting"): steady(0), of_model("max_waiting"): steady(0)}],
    ),
    Case(
        "AvitoManyOverLimit",
        "warning",
        {
            ours("avito_ai_rate_limit_refusals_total", ',budget="generation",window="minute"'): growing(6),
            REQUESTS % "success": growing(4),
            REQUESTS % "rate_limit_exceeded": growing(6),
        },
        {
            ours("avito_ai_rate_limit_refusals_total", ',budget="generation",window="minute"'): growing(4),
            REQUESTS % "success": growing(6),
            REQUESTS % "rate_limit_exceeded": growing(4),
        },
        "25m",
        "10m",
        also_quiet=[
            {
                ours("avito_ai_rate_limit_refusals_total", ',budget="health",window="minute"'): growing(60),
                REQUESTS % "success": growing(4),
            }
        ],
    ),
    Case(
        "AvitoLimitsLocal",
        "warning",
        {ours("avito_ai_rate_limit_storage_failures_total"): growing(1)},
        {ours("avito_ai_rate_limit_storage_failures_total"): steady(40)},
    ),
    Case(
        "AvitoKeysStale",
        "warning",
        {ours("avito_ai_client_keys_stale"): steady(1)},
        {ours("avito_ai_client_keys_stale"): "0+0x4 1+0x4 0+0x112"},
    ),
    Case(
        "AvitoUsageLate",
        "warning",
        {ours("avito_ai_usage_lag_seconds"): steady(700)},
        {ours("avito_ai_usage_lag_seconds"): "0+100x9 0+0x112"},
    ),
    Case(
        "AvitoUsageLost",
        "warning",
        {ours("avito_ai_usage_lost_records_total"): growing(1)},
        {ours("avito_ai_usage_lost_records_total"): steady(40)},
    ),
    Case(
        "AvitoRedisDown",
        "warning",
        {'redis_up{job="redis",instance="r"}': steady(0)},
        {'redis_up{job="redis",instance="r"}': steady(1)},
        "6m",
        "4m",
    ),
    Case(
        "AvitoDatabaseDown",
        "warning",
        {'pg_up{job="postgres",instance="p"}': steady(0)},
        {'pg_up{job="postgres",instance="p"}': steady(1)},
        "6m",
        "4m",
    ),
    Case(
        "AvitoBudgetNearlySpent",
        "warning",
        {ours("avito_ai_budget_used_ratio", ',period="day"'): "0.79+0x4 0.8+0x20"},
        {ours("avito_ai_budget_used_ratio", ',period="day"'): steady(0.79)},
        "2m",
    ),
    Case(
        "AvitoBudgetSpent",
        "critical",
        {ours("avito_ai_budget_used_ratio", ',period="month"'): "0.99+0x4 1+0x20"},
        {ours("avito_ai_budget_used_ratio", ',period="month"'): steady(0.99)},
        "2m",
    ),
    Case(
        "AvitoAccountBudgets",
        "warning",
        {ours("avito_ai_account_budgets", ',state="nearly_spent"'): steady(1)},
        {ours("avito_ai_account_budgets", ',state="nearly_spent"'): steady(0)},
        "6m",
        "4m",
    ),
    Case(
        "AvitoBudgetsStale",
        "warning",
        {ours("avito_ai_budgets_stale"): steady(1)},
        {ours("avito_ai_budgets_stale"): steady(0)},
        "6m",
        "4m",
    ),
    Case(
        "AvitoWebhookFailing",
        "warning",
        {ours("avito_ai_webhook_failures_total"): "0+0x100 1+0x20"},
        {ours("avito_ai_webhook_failures_total"): steady(3)},
    ),
    Case(
        "AvitoEngineStalled",
        "critical",
        {stalled("avibe"): steady(1)} | {breaker("provider"): steady(0)},
        {stalled("avibe"): steady(0)},
        "1m",
        also_quiet=[{stalled("provider"): steady(1), breaker("provider"): steady(1)}],
    ),
    Case(
        "AvitoUpstreamDown",
        "warning",
        {breaker("provider", "closed"): steady(0), breaker("provider", "open"): steady(1)},
        {breaker("provider", "closed"): steady(1), breaker("provider", "open"): steady(0)},
        "9m",
        "4m",
        also_quiet=[
            # Half open since its last trial, without traffic, it takes the next request; and once it was open shortly.
            {breaker("provider", "closed"): steady(0), breaker("provider", "open"): "1+0x4 0+0x200"},
            {
                breaker("provider", "closed"): "1+0x30 0+0x2 1+0x200",
                breaker("provider", "open"): "0+0x30 1+0x2 0+0x200",
            },
        ],
    ),
    Case(
        "AvitoEngineDead",
        "critical",
        {ours("avito_ai_model_status", ',model="avibe",status="dead"'): "0+0x4 1+0x20"},
        {ours("avito_ai_model_status", ',model="avibe@v2",status="dead"'): steady(1)},
        "2m",
        also_quiet=[{ours("avito_ai_model_status", ',model="avibe",status="dead"'): steady(0)}],
    ),
    Case(
        "AvitoEngineDead",
        "warning",
        {ours("avito_ai_model_status", ',model="avibe@v2",status="dead"'): "0+0x4 1+0x20"},
        {ours("avito_ai_model_status", ',model="avibe",status="dead"'): steady(1)},
        "2m",
    ),
    Case(
        "AvitoEngineRestarts",
        "warning",
        {of_model("engine_restarts_total"): "0+0x100 1+0x20"},
        {of_model("engine_restarts_total"): steady(3)},
    ),
    Case(
        "AvitoNotFinite",
        "warning",
        {of_model("nan_logits_total"): "0+0x100 1+0x20"},
        {of_model("nan_logits_total"): steady(3)},
    ),
    Case(
        "AvitoRestartLoop",
        "critical",
        {ours("process_start_time_seconds"): "0+0x20 1+0x20 2+0x20 3+0x60"},
        {ours("process_start_time_seconds"): "0+0x20 1+0x20 2+0x80"},
    ),
    Case(
        "AvitoGpuMemory",
        "warning",
        {ours("avito_ai_gpu_memory_reserved_bytes"): steady(99), ours("avito_ai_gpu_memory_total_bytes"): steady(100)},
        {ours("avito_ai_gpu_memory_reserved_bytes"): steady(97), ours("avito_ai_gpu_memory_total_bytes"): steady(100)},
        "11m",
        "9m",
    ),
    Case(
        "AvitoHostMemory",
        "warning",
        {ours("avito_ai_system_memory_ratio"): steady(0.93)},
        {ours("avito_ai_system_memory_ratio"): steady(0.91)},
        "11m",
        "9m",
    ),
    Case(
        "AvitoDisk",
        "warning",
        {ours("avito_ai_system_disk_ratio"): steady(0.86)},
        {ours("avito_ai_system_disk_ratio"): steady(0.84)},
        "16m",
        "14m",
    ),
    Case(
        "AvitoDisk",
        "critical",
        {ours("avito_ai_system_disk_ratio"): steady(0.96)},
        {ours("avito_ai_system_disk_ratio"): steady(0.94)},
        "6m",
        "4m",
    ),
    Case(
        "AvitoDescriptors",
        "warning",
        {ours("process_open_fds"): steady(81), ours("process_max_fds"): steady(100)},
        {ours("process_open_fds"): steady(79), ours("process_max_fds"): steady(100)},
        "6m",
        "4m",
    ),
    Case(
        "AvitoSiteDown", "critical", {site("probe_success"): steady(0)}, {site("probe_success"): steady(1)}, "3m", "1m"
    ),
    # promtool's clock begins at 1970-01-01, so an expiry is a number of seconds.
    Case(
        "AvitoBackupOld",
        "warning",
        {ours("avito_ai_backup_timestamp_seconds"): steady(-180_000)},
        {ours("avito_ai_backup_timestamp_seconds"): steady(-177_000)},
        "16m",
        "14m",
    ),
    Case(
        "AvitoBackupFailed",
        "warning",
        {ours("avito_ai_backup_failed"): steady(1)},
        {ours("avito_ai_backup_failed"): steady(0)},
        "6m",
        "4m",
    ),
    Case(
        "AvitoBackupUntested",
        "warning",
        {ours("avito_ai_backup_test_timestamp_seconds"): steady(-16 * 86_400 - 1)},
        {ours("avito_ai_backup_test_timestamp_seconds"): steady(-16 * 86_400 + 2000)},
        "16m",
        "14m",
    ),
    Case(
        "AvitoCertificate",
        "warning",
        {site("probe_ssl_earliest_cert_expiry"): "1209500+0x140"},
        {site("probe_ssl_earliest_cert_expiry"): "1215000+0x140"},
        "31m",
        "29m",
    ),
    Case(
        "AvitoCertificate",
        "critical",
        {site("probe_ssl_earliest_cert_expiry"): "259100+0x140"},
        {site("probe_ssl_earliest_cert_expiry"): "265000+0x140"},
        "6m",
        "4m",
    ),
    Case("AvitoSiteUnwatched", "warning", {site("up"): steady(0)}, {site("up"): steady(1)}, "16m", "14m"),
]


def as_test(case, series, moments):
    """Return promtool's test: the number of firing alerts at each moment."""
    query = f'count(ALERTS{{alertname="{case.alert}",severity="{case.severity}",alertstate="firing"}})'
    return {
        "name": f"{case.alert} {case.severity}",
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": at, "exp_samples": [{"labels": "{}", "value": amount}] if amount else []}
            for at, amount in moments
        ],
    }


def promtool_test(case, tests, folder):
    """Return promtool's result for these tests, with this rule only, which is faster."""
    (rule,) = [one for one in rules() if (one["alert"], one["labels"]["severity"]) == (case.alert, case.severity)]
    return promtool([rule], tests, folder)


def promtool(chosen, tests, folder):
    """Return promtool's result for these tests of these rules."""
    (folder / "rule.yml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": chosen}]}))
    file = folder / "rule.test.yml"
    file.write_text(yaml.safe_dump({"rule_files": ["rule.yml"], "evaluation_interval": "15s", "tests": tests}))
    return subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{case.severity}")
@pytest.mark.needs("prometheus")
def test_an_alert_fires_when_it_should_and_not_before(case, tmp_path):
    """It fires after its duration, and not for series just short of its threshold."""
    tests = [as_test(case, case.fires, [(case.not_yet, 0), (case.at, case.amount)])]
    tests += [
        as_test(case, quiet, [(at, 0) for at in ("5m", case.at, "29m")]) for quiet in (case.quiet, *case.also_quiet)
    ]
    done = promtool_test(case, tests, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("prometheus")
def test_promtool_notices_an_alert_that_does_not_fire(tmp_path):
    """The tests above can fail."""
    case = CASES[0]
    done = promtool_test(case, [as_test(case, case.quiet, [(case.at, 1)])], tmp_path)
    assert done.returncode != 0


def test_every_alert_is_tested():
    """Each rule has a case for each severity."""
    named = [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]
    assert set(named) == {(case.alert, case.severity) for case in CASES}
    assert len(set(named)) == len(named)


def test_every_limit_is_a_setting(tmp_path):
    """A number that an alert compares with is one of ALERT_..., unless it is 0 or 1, which stand for no and yes."""
    text = (MONITORING / "prometheus/rules/avito-ai.yml").read_text(encoding="utf-8")
    compared = re.findall(r"[<>]=? *(\S+)", re.sub(r"#.*", "", text))
    assert {one for one in compared if not one.startswith("${alert_")} <= {"0", "1", ">-", "-"}
    assert {name.lower() for name in LIMITS} == set(re.findall(r"\$\{(alert_\w+)\}", text))


@pytest.mark.needs("prometheus")
def test_a_limit_moves_its_alert_and_what_it_says(tmp_path):
    """With another limit the alert fires there and not at the default, and its description names it."""
    render(read_settings("ALERT_MEMORY_PERCENT=70.5\nALERT_ANSWER_SECONDS=90\n"), tmp_path)
    groups = yaml.safe_load((tmp_path / "prometheus/rules/avito-ai.yml").read_text(encoding="utf-8"))["groups"]
    changed = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    assert "over 90 s" in changed["AvitoSlowAnswers"]["annotations"]["description"]
    case = Case("AvitoHostMemory", "warning", {}, {})
    moments = [("29m", 1)], [("29m", 0)]
    tests = [
        as_test(case, {ours("avito_ai_system_memory_ratio"): steady(share)}, at)
        for share, at in zip((0.71, 0.70), moments, strict=True)
    ]
    done = promtool([changed["AvitoHostMemory"]], tests, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
