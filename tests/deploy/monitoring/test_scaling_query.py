"""KEDA's query counts the requests of the pods that it scales, whatever else Prometheus has."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from tests.deploy.monitoring.exported import ROOT

SCALED = ROOT / "deploy/kubernetes/components/keda/scaled-object.yaml"
RUNNING, WAITING = "avito_ai_num_requests_running", "avito_ai_num_requests_waiting"


def series(metric, model="avibe", pod="a", **other):
    """Return the name of a series as the Prometheus operator's scrape labels it."""
    place = {"namespace": "avito-ai", "service": "avito-ai", "job": "avito-ai", "pod": pod, "model": model}
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in (place | other).items()) + "}"


OWN = {
    series(RUNNING): 3,
    series(WAITING): 2,
    series(RUNNING, "avision", pod="b"): 1,
    series(RUNNING, "avibe@v2", pod="b"): 4,
    series(WAITING, pod="b"): 0,
}
OTHERS = {
    "scraped by another job too": series(RUNNING, job="kubernetes-pods"),
    "a canary": series(RUNNING, pod="c", service="avito-ai-canary"),
    "another namespace": series(RUNNING, pod="d", namespace="staging"),
    "another service": series(WAITING, pod="e", service="other"),
    "a model of a server elsewhere": series(RUNNING, "provider"),
    "another whose name begins the same": series(RUNNING, "avibe-large"),
}


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize("other", [None, *OTHERS])
def test_only_the_pods_that_are_scaled_count(tmp_path, other):
    """Each of their own models once: those that run and those that wait."""
    (trigger,) = yaml.safe_load(SCALED.read_text(encoding="utf-8"))["spec"]["triggers"]
    found = OWN if other is None else OWN | {OTHERS[other]: 3}
    asked = {"expr": trigger["metadata"]["query"], "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": 10}]}
    values = [{"series": name, "values": f"{value}+0x9"} for name, value in found.items()]
    case = {"interval": "15s", "input_series": values, "promql_expr_test": [asked]}
    (tmp_path / "case.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "case.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
