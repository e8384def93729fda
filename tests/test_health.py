"""Health, readiness and metrics: the formats that probes and dashboards read, and that their values are right."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app_production import create_app
from edge.services import services
from engine.errors import Overloaded
from engine.types import Progress, ServerReport, Status
from models import ModelSet
from telemetry.metrics.machine import GIB, GpuFigures
from telemetry.metrics.prometheus import MAX_KEYS, OTHER_KEYS
from telemetry.version import VERSION
from tests.fakes import FakeMachine, ScriptedBackend

READY, TEXT = "/api/health/ready", "/api/v1/text/generate"
H200 = GpuFigures("NVIDIA H200", int(12.5 * GIB), 14 * GIB, 141 * GIB, busy=0.37)


@pytest.fixture
def on_gpu(settings, models):
    """A client of a service on a GPU."""
    return create_app(settings, models, FakeMachine(H200)).test_client()


def scraped(client):
    """Return Prometheus' samples: name and labels to value."""
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def ended(status, protocol="api"):
    """Return the series of Avibe's requests that ended so."""
    return "avito_ai_requests_total", ("model", "avibe"), ("protocol", protocol), ("status", status)


def test_health_has_exactly_two_facts(client):
    """200 while the process answers, whatever state the models are in."""
    response = client.get("/api/health")
    assert response.json == {"status": "healthy", "uptime_seconds": 0}


def test_ready_names_both_models(client):
    """On the CPU: false and 0.00, and the checkpoint of each model."""
    response = client.get(READY)
    assert (response.status_code, response.json) == (
        200,
        {
            "status": "ready",
            "cuda_available": False,
            "gpu_memory_gb": "0.00",
            "models": {
                "avibe": {"status": "ready", "model": "avibe", "demo": False},
                "avision": {"status": "ready", "model": "avision", "demo": False},
            },
        },
    )


def test_ready_shows_the_gpu(on_gpu):
    """Memory in gigabytes with two decimals, as text."""
    assert on_gpu.get(READY).json["cuda_available"] is True
    assert on_gpu.get(READY).json["gpu_memory_gb"] == "141.00"


def test_loading_is_unready_and_shows_how_far_it_is(client, avibe):
    """503 with the progress of the loading model."""
    avibe.become(Status.LOADING, progress=Progress("weights", 3_000_000, 16_000_000, 1.5))
    response = client.get(READY)
    assert response.status_code == 503
    assert response.json["status"] == "loading"
    assert response.json["reason"] == "The models are loading."
    progress = {"stage": "weights", "loaded_bytes": 3_000_000, "total_bytes": 16_000_000, "seconds": 1.5}
    assert response.json["progress"] == response.json["models"]["avibe"]["progress"] == progress
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("status", [Status.LOADING, Status.DRAINING, Status.STALLED, Status.DEAD])
@pytest.mark.parametrize("name", ["avibe", "avision"])
def test_one_model_that_takes_nothing_makes_the_service_unready(client, models, name, status):
    """503 with the reason, whichever model it is; liveness stays 200 unless a restart would help."""
    models.get(name).become(status, reason="It is so.")
    response = client.get(READY)
    assert (response.status_code, response.json["status"], response.json["reason"]) == (503, status.value, "It is so.")
    assert client.get("/api/health/live").json == {"status": "alive"}
    assert client.get("/api/health").status_code == 200


def test_the_worst_state_counts(client, avibe, avision):
    """The worst state wins: a dead model is reported although another one is loading."""
    avibe.become(Status.LOADING)
    avision.become(Status.DEAD)
    assert client.get(READY).json["status"] == "dead"


def test_a_full_queue_is_ready(client, avibe):
    """Overload is refused request by request; an unready copy would only move the load to the others."""
    avibe.capacity = 0
    assert client.post(TEXT, json={"prompt": "x"}).status_code == 503
    assert client.get(READY).status_code == 200


@pytest.mark.parametrize(
    ("status", "seconds"),
    [(Status.LOADING, "5"), (Status.DRAINING, "5"), (Status.STALLED, "10"), (Status.DEAD, "10")],
)
def test_a_probe_is_told_when_to_come_back(client, avibe, status, seconds):
    """Later where the model does not become ready by itself."""
    avibe.become(status)
    assert client.get(READY).headers["Retry-After"] == seconds


def test_a_further_version_that_is_lost_ends_nothing(settings, machine):
    """The service is ready and alive without it, and its reason is not that of the service."""
    models = ModelSet({name: ScriptedBackend(name) for name in ("avibe@v2", "avibe", "avision")})
    models.get("avibe@v2").become(Status.DEAD, reason="The version is lost.", restart_needed=True)
    client = create_app(settings, models, machine).test_client()
    assert client.get(READY).status_code == 200
    assert client.get("/api/health/live").status_code == 200
    assert client.get("/health/detailed").json["checks"]["models"]["state"] == "warning"
    models.get("avibe").become(Status.DEAD, reason="The model is lost.", restart_needed=True)
    for path in (READY, "/api/health/live"):
        response = client.get(path)
        assert (response.status_code, response.json["reason"]) == (503, "The model is lost.")


@pytest.mark.parametrize("reason", ["", "CUDA failed."])
def test_live_fails_only_where_a_restart_is_the_cure(client, avision, reason):
    """503 makes the supervisor restart the process."""
    avision.become(Status.DEAD, reason=reason, restart_needed=True)
    response = client.get("/api/health/live")
    assert (response.status_code, response.json["status"]) == (503, "restart_needed")
    assert response.json["reason"] == (reason or "A model has failed.")


@pytest.mark.parametrize(
    ("old", "ours"),
    [("/health", "/api/health"), ("/health/ready", READY), ("/ready", READY), ("/health/live", "/api/health/live")],
)
def test_old_names_answer_as_ours(client, avibe, old, ours):
    """The names of an LLM gateway's guide, ready or not; what is not there is an error in JSON."""
    assert (client.get(old).status_code, client.get(old).json) == (200, client.get(ours).json)
    avibe.become(Status.DEAD, restart_needed=True)
    assert (client.get(old).status_code, client.get(old).json) == (client.get(ours).status_code, client.get(ours).json)
    assert client.get("/health/none").json["error"] == "not_found"


def test_system_health_is_the_machine(on_gpu):
    """The same figures as in the metrics."""
    figures, shown = on_gpu.get("/api/metrics").json, on_gpu.get("/health/system").json
    assert (shown["status"], shown["gpu"]["gpu_name"]) == ("healthy", "NVIDIA H200")
    assert {shown[name] == figures[name] for name in ("system", "gpu", "uptime_seconds")} == {True}


def detailed(settings, models, **data):
    """Return the status, the word for it and the states of the checks, of a service with these settings of its data."""
    settings = replace(settings, data=replace(settings.data, **data))
    response = create_app(settings, models, FakeMachine(H200)).test_client().get("/health/detailed")
    found = response.json
    return response.status_code, found["status"], {name: one["state"] for name, one in found["checks"].items()}


def test_detailed_health_tries_each_dependency(settings, models, avibe, tmp_path):
    """Each has a state of its own, and the worst of them decides."""
    status, word, states = detailed(settings, models)
    disk = states.pop("disk")  # the machine's own
    assert states == {
        "models": "ok",
        "gpu": "ok",
        "upstreams": "off",
        "redis": "off",
        "database": "ok",
        "collector": "off",
        "certificate": "off",
        "backup": "off",
    }
    assert (status, word) == ((200, "healthy") if disk == "ok" else (200 if disk == "warning" else 503, word))
    (tmp_path / "backup.json").write_text('{"failed": "no room"}')
    assert detailed(settings, models, backup_status=tmp_path / "backup.json")[:2] == (503, "unhealthy")
    avibe.become(Status.LOADING)
    assert detailed(settings, models)[2]["models"] == "warning"
    avibe.become(Status.STALLED)
    assert detailed(settings, models)[:2] == (503, "unhealthy")


def test_detailed_health_warns_of_a_further_version_that_is_lost(settings, models):
    """Its clients are answered by the model itself, so that the service has not failed."""
    further = ScriptedBackend("avibe@v2")
    found = ModelSet({**dict(models), "avibe@v2": further})
    assert detailed(settings, found)[2]["models"] == "ok"
    further.become(Status.DEAD, reason="The model could not be loaded.", restart_needed=True)
    status, _, states = detailed(settings, found)
    assert (status, states["models"]) == (200 if states["disk"] != "failed" else 503, "warning")
    found.get("avibe").become(Status.DEAD, reason="It failed.", restart_needed=True)
    assert detailed(settings, found)[2]["models"] == "failed"


@pytest.mark.parametrize(
    ("states", "state"),
    [(["closed", "half-open"], "ok"), (["closed", "open"], "warning"), (["open", "open"], "failed")],
)
def test_servers_elsewhere_are_told(settings, models, states, state):
    """A model for which none takes requests is a failure."""
    servers = SimpleNamespace(reports=lambda: [SimpleNamespace(state=one) for one in states], use_key=print)
    models.upstreams["avibe"] = servers
    assert detailed(settings, models)[2]["upstreams"] == state


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ({}, "healthy"),
        ({"avibe": ["closed"], "avision": ["closed"]}, "healthy"),
        ({"avibe": ["closed"], "avision": ["half-open"]}, "healthy"),
        ({"avibe": ["closed"], "avision": ["half-open", "open"]}, "degraded"),
        ({"avibe": ["closed", "open"], "avision": ["closed"]}, "degraded"),
        ({"avibe": ["closed"], "avision": ["open", "open"]}, "unhealthy"),
    ],
)
def test_the_word_for_servers_elsewhere_is_that_of_the_worst_model(client, models, states, status):
    """Unhealthy where one model has no server that takes requests; healthy where there are none at all."""
    for name, own in states.items():
        reports = [ServerReport(f"http://{name}/v1", state, 0, 0, {}, None, None, None, 0) for state in own]
        upstream = SimpleNamespace(kind=name, role="only")
        models.upstreams[name] = SimpleNamespace(upstream=upstream, reports=lambda reports=reports: reports)
    told = client.get("/api/health/upstreams").json
    assert (told["status"], told["upstreams"].keys()) == (status, states.keys())


def test_detailed_health_is_for_the_operator(client):
    """What is not this machine is not told."""
    response = client.get("/health/detailed", environ_base={"REMOTE_ADDR": "203.0.113.9"})
    assert (response.status_code, response.json["error"]) == (403, "forbidden")


def test_the_last_backup_is_exported_where_one_is_noted(settings, models, machine, tmp_path):
    """Its time, its size and whether something failed; nothing without a note."""
    file = tmp_path / "status.json"
    client = create_app(
        replace(settings, data=replace(settings.data, backup_status=file)), models, machine
    ).test_client()
    assert not [name for name, *_ in scraped(client) if "backup" in name]
    file.write_text('{"created": 12, "tested": 10, "size": 7, "failed": ""}')
    figures = {name: value for (name, *_), value in scraped(client).items() if "backup" in name}
    assert figures == {
        "avito_ai_backup_timestamp_seconds": 12,
        "avito_ai_backup_test_timestamp_seconds": 10,
        "avito_ai_backup_size_bytes": 7,
        "avito_ai_backup_failed": 0,
    }


def test_json_metrics_have_exactly_the_promised_shape(client):
    """The names, formats and nesting that dashboards read; without a GPU `gpu` says so."""
    body = client.get("/api/metrics").json
    timestamp = datetime.fromisoformat(body.pop("timestamp"))
    assert abs((datetime.now(UTC).replace(tzinfo=None) - timestamp).total_seconds()) < 60
    assert body == {
        "uptime_seconds": 0,
        "system": {
            "cpu_percent": "15.2%",
            "memory_percent": "45.8%",
            "memory_available_gb": "128.5",
            "disk_percent": "60.2%",
        },
        "gpu": {
            "available": False,
            "gpu_name": "none",
            "gpu_memory_allocated_gb": "0.00",
            "gpu_memory_reserved_gb": "0.00",
            "gpu_memory_total_gb": "0.00",
            "gpu_utilization": "0.00%",
        },
        "application": {
            "total_requests": 0,
            "successful_requests": 0,
            "failed_requests": 0,
            "success_rate": "0.00%",
            "avibe_requests": 0,
            "avision_requests": 0,
            "avg_response_time": "0.000s",
            "total_tokens_generated": 0,
        },
        "usage": {"recorded": 0, "lag_seconds": 0.0, "failures": 0, "lost": 0},
    }


def test_gpu_figures_keep_their_old_meaning(on_gpu):
    """Utilization is allocated over total memory; the share of busy time has its own name."""
    assert on_gpu.get("/api/metrics").json["gpu"] == {
        "gpu_name": "NVIDIA H200",
        "gpu_memory_allocated_gb": "12.5",
        "gpu_memory_reserved_gb": "14.0",
        "gpu_memory_total_gb": "141.0",
        "gpu_utilization": "8.87%",
        "gpu_busy": "37%",
    }


def test_every_gpu_in_use_has_its_figures(settings, models):
    """In JSON beside the first one, in Prometheus by its name, and their sum for probes."""
    second = GpuFigures("NVIDIA L4", 2 * GIB, 3 * GIB, 22 * GIB, device="cuda:1")
    both = create_app(settings, models, FakeMachine(H200, second)).test_client()
    figures = both.get("/api/metrics").json
    assert figures["gpu"] == figures["gpus"]["cuda:0"]
    assert figures["gpus"]["cuda:1"]["gpu_name"] == "NVIDIA L4"
    samples = scraped(both)
    assert samples["avito_ai_gpu_memory_reserved_bytes", ("gpu", "cuda:1")] == 3 * GIB
    assert ("avito_ai_gpu_busy_ratio", ("gpu", "cuda:1")) not in samples
    assert both.get(READY).json["gpu_memory_gb"] == "163.00"


def test_application_figures_count_generation_requests(client, avibe):
    """total = successful + failed; successes per model; tokens; other routes do not count."""
    for _ in range(3):
        client.post(TEXT, json={"prompt": "x"})
    client.post("/avibe", data={"prompt": "x"})
    client.post(TEXT, json={"prompt": ""})
    avibe.refusal = Overloaded("Full.", 1)
    client.post("/avibe", data={"prompt": "x"})
    for path in ("/", "/api/nothing", READY, "/avibe"):
        client.get(path)
    figures = client.get("/api/metrics").json["application"]
    assert re.fullmatch(r"\d+\.\d{3}s", figures.pop("avg_response_time"))
    assert figures == {
        "total_requests": 6,
        "successful_requests": 4,
        "failed_requests": 2,
        "success_rate": "66.67%",
        "avibe_requests": 4,
        "avision_requests": 0,
        "total_tokens_generated": 20,
    }


def test_reset_clears_the_json_figures_but_never_prometheus(client):
    """A reset leaves Prometheus' counters as they are."""
    client.post(TEXT, json={"prompt": "x"})
    assert client.post("/api/metrics/reset").json["success"] is True
    assert client.get("/api/metrics").json["application"]["total_requests"] == 0
    assert scraped(client)[ended("success")] == 1


def test_prometheus_has_the_requests_by_route_and_end(client, avibe):
    """Routes are labelled by their rule and unknown paths by one name, so that clients cannot create labels."""
    client.post(TEXT, json={"prompt": "x"})
    client.post(TEXT, json={"prompt": ""})
    client.get("/api/nothing-1")
    client.get("/nothing-2")
    client.open("/", method="BREW")
    samples = scraped(client)
    http = "avito_ai_http_requests_total"
    assert samples[http, ("method", "POST"), ("route", TEXT), ("status", "200")] == 1
    assert samples[http, ("method", "POST"), ("route", TEXT), ("status", "400")] == 1
    assert samples[http, ("method", "GET"), ("route", "unmatched"), ("status", "404")] == 2
    assert samples[http, ("method", "other"), ("route", "unmatched"), ("status", "405")] == 1
    assert samples["avito_ai_http_request_duration_seconds_count", ("route", TEXT)] == 2
    assert samples[ended("validation_error")] == 1
    labels = {value for key in samples for name, value in key[1:] if name == "route"}
    assert not any("nothing" in label for label in labels)


def test_prometheus_tells_the_protocols_apart(client):
    """The same model asked through each interface counts in a series of its own."""
    hello = [{"role": "user", "content": "x"}]
    client.post(TEXT, json={"prompt": "x"})
    client.post("/avibe", data={"prompt": "x"})
    client.post("/v1/chat/completions", json={"model": "avibe", "messages": hello})
    client.post("/v1/completions", json={"model": "avibe", "prompt": "x"})
    samples = scraped(client)
    for protocol in ("api", "form", "openai_chat", "openai_completions"):
        assert samples[ended("success", protocol)] == 1


def test_prometheus_has_where_the_time_of_an_answer_went(client):
    """Queue time, time to first token, inter-token latency and total, per model, in seconds."""
    client.post(TEXT, json={"prompt": "x"})
    samples, avibe = scraped(client), ("model", "avibe")
    sums = {
        "time_to_first_token_seconds": 0.5,
        "inter_token_latency_seconds": 0.1875,
        "e2e_request_latency_seconds": 1.25,
        "request_queue_time_seconds": 0.25,
        "request_prompt_tokens": 7,
        "request_generation_tokens": 5,
    }
    assert {name: samples[f"avito_ai_{name}_sum", avibe] for name in sums} == sums


def test_an_answer_of_no_or_one_token_has_no_gaps(client, avibe):
    """An event that did not occur is not observed as zero."""
    avibe.output_tokens = 1
    client.post(TEXT, json={"prompt": "x"})
    avibe.timings = type(avibe.timings)(queued=0.0, first_token=None, total=0.5)
    client.post(TEXT, json={"prompt": "x"})
    samples = scraped(client)
    assert ("avito_ai_inter_token_latency_seconds_count", ("model", "avibe")) not in samples
    assert samples["avito_ai_time_to_first_token_seconds_count", ("model", "avibe")] == 1


def test_the_names_of_keys_are_bounded(client):
    """Each has a series, and those beyond the limit have one together."""
    series = "avito_ai_key_requests_total"
    count = services(client.application).metrics.prometheus.by_key
    for number in range(MAX_KEYS + 2):
        count(f"key {number}", 200)
    found = {labels[0][1]: value for (name, *labels), value in scraped(client).items() if name == series}
    assert found == {f"key {number}": 1.0 for number in range(MAX_KEYS)} | {OTHER_KEYS: 2.0}


def test_only_counters_are_called_totals(client):
    """As promtool asks: no gauge has the ending of a counter's or of a histogram's name."""
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", client.get("/metrics").text, re.MULTILINE))
    for name, kind in kinds.items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith(("_count", "_sum", "_bucket")), name


def test_prometheus_reads_the_models_own_figures(client, avibe):
    """Running, waiting, cache usage, counters and states are the backends' current values."""
    avibe.report(
        num_requests_waiting=3,
        kv_cache_tokens_used=25,
        kv_cache_tokens_capacity=100,
        prompt_tokens_total=11,
        generation_tokens_total=22,
        nan_logits_total=1,
        engine_restarts_total=2,
    )
    avibe.become(Status.STALLED)
    samples, model = scraped(client), ("model", "avibe")
    expected = {
        "num_requests_running": 0,
        "num_requests_waiting": 3,
        "kv_cache_usage_ratio": 0.25,
        "prompt_tokens_total": 11,
        "generation_tokens_total": 22,
        "nan_logits_total": 1,
        "engine_restarts_total": 2,
    }
    assert {name: samples[f"avito_ai_{name}", model] for name in expected} == expected
    assert samples["avito_ai_model_status", model, ("status", "stalled")] == 1
    assert samples["avito_ai_model_status", model, ("status", "ready")] == 0
    assert samples["avito_ai_kv_cache_usage_ratio", ("model", "avision")] == 0


def test_prometheus_has_the_machine(client, on_gpu):
    """Host metrics always, GPU metrics with a GPU."""
    without, with_gpu = scraped(client), scraped(on_gpu)
    assert without["avito_ai_gpu_available",] == 0
    assert ("avito_ai_gpu_memory_total_bytes", ("gpu", "cuda:0")) not in without
    assert with_gpu["avito_ai_gpu_memory_total_bytes", ("gpu", "cuda:0")] == 141 * GIB
    assert with_gpu["avito_ai_gpu_busy_ratio", ("gpu", "cuda:0")] == 0.37
    assert with_gpu["avito_ai_system_cpu_ratio",] == pytest.approx(0.152)
    assert with_gpu["avito_ai_rate_limit_storage_failures_total",] == 0


def test_prometheus_has_the_release_and_the_version_that_run(client):
    """The release is its folder's name, so that a graph shows when a new one took over."""
    release = Path(__file__).resolve().parents[1].name
    assert scraped(client)["avito_ai_build_info", ("release", release), ("version", VERSION)] == 1


def test_two_applications_keep_their_figures_apart(settings, machine, models, client):
    """Each application has its own registry."""
    client.post(TEXT, json={"prompt": "x"})
    other = create_app(settings, models, machine).test_client()
    counted = [sum(v for key, v in scraped(c).items() if key[0] == "avito_ai_requests_total") for c in (client, other)]
    assert counted == [1, 0]
