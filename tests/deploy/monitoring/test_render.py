"""One settings file is rendered to the configuration of four programs, which is valid for them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

from deploy.monitoring.render import DEFAULTS, LIMITS, LONGEST, QUANTILES, SettingsError, main, read_settings, render
from telemetry.metrics.prometheus import SECONDS
from tests.deploy.monitoring.exported import BLACKBOX, MONITORING

EXAMPLE = (MONITORING / "monitoring.env.example").read_text(encoding="utf-8")
FULL = """
SERVICE_TARGETS=10.0.0.1:8085, 10.0.0.2:8085
SITE_URL=https://ai.example.com/api/health/ready
EMAIL_TO=one@example.com, two@example.com
EMAIL_FROM=avito-ai@example.com
SMTP_SERVER=mail.example.com:587
SMTP_USER=avito-ai
SMTP_PASSWORD_FILE=/etc/secrets/smtp
SLACK_WEBHOOK_FILE=/etc/secrets/slack
SLACK_CHANNEL=#alerts
PAGERDUTY_KEY_FILE=/etc/secrets/pagerduty
WEBHOOK_URL=http://127.0.0.1:9/hook
RUNBOOK=https://git.example.com/avito/docs/runbook.md
"""
MINIMAL = "EMAIL_TO=one@example.com\nEMAIL_FROM=two@example.com\n"


def loaded(folder, name):
    return yaml.safe_load((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    ["", MINIMAL, FULL, "SLACK_WEBHOOK_FILE=/x\n", "WEBHOOK_URL=https://a.example/\n", "PAGERDUTY_KEY_FILE=/x\n"],
)
@pytest.mark.needs("prometheus", "alertmanager", "blackbox-exporter")
def test_what_is_rendered_is_valid(text, tmp_path):
    """Alertmanager, Prometheus and the blackbox exporter accept the result for any choice of receivers."""
    render(read_settings(text), tmp_path)
    for command in (
        ["amtool", "check-config", "alertmanager/alertmanager.yml"],
        ["promtool", "check", "config", "prometheus/prometheus.yml"],
        [BLACKBOX, "--config.check", "--config.file=blackbox/blackbox.yml"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stdout + done.stderr
    left = [file for file in tmp_path.rglob("*.yml") if re.search(r"\$\{(?!datasource)\w+\}", file.read_text())]
    assert left == []
    for file in tmp_path.glob("prometheus/rules/*.yml"):
        assert (
            subprocess.run(
                ["promtool", "check", "rules", str(file)], capture_output=True, check=False, timeout=600
            ).returncode
            == 0
        )


def test_every_setting_arrives(tmp_path):
    """Targets, receivers, paths of secrets and the runbook's URL are in the right places."""
    render(read_settings(FULL), tmp_path)
    receiver, at_once = loaded(tmp_path, "alertmanager/alertmanager.yml")["receivers"]
    (pager,) = at_once.pop("pagerduty_configs")
    assert pager["routing_key_file"] == "/etc/secrets/pagerduty"
    assert at_once | {"name": receiver["name"]} == receiver
    (mail,), (slack,), (hook,) = receiver["email_configs"], receiver["slack_configs"], receiver["webhook_configs"]
    assert mail["to"] == "one@example.com, two@example.com"
    assert (mail["auth_username"], mail["auth_password_file"]) == ("avito-ai", "/etc/secrets/smtp")
    assert (slack["api_url_file"], slack["channel"]) == ("/etc/secrets/slack", "#alerts")
    assert hook["url"] == "http://127.0.0.1:9/hook"
    assert all(one["send_resolved"] for one in (mail, slack, hook))
    assert loaded(tmp_path, "prometheus/targets/service.json") == [{"targets": ["10.0.0.1:8085", "10.0.0.2:8085"]}]
    assert loaded(tmp_path, "prometheus/targets/site.json") == [
        {"targets": ["https://ai.example.com/api/health/ready"], "labels": {"__meta_exporter": "127.0.0.1:9115"}}
    ]
    rules = (tmp_path / "prometheus/rules/avito-ai.yml").read_text(encoding="utf-8")
    assert "runbook_url: https://git.example.com/avito/docs/runbook.md#avitodisk" in rules


@pytest.mark.needs("prometheus")
def test_prometheus_sends_the_operators_key_where_it_is_set(tmp_path):
    """To the service alone, from the file of the settings; otherwise it sends none."""
    (tmp_path / "admin-key").write_text("a-key-of-an-operator")
    for line, expected in ((f"ADMIN_KEY_FILE={tmp_path}/admin-key\n", str(tmp_path / "admin-key")), ("", None)):
        render(read_settings(MINIMAL + line), tmp_path)
        jobs = loaded(tmp_path, "prometheus/prometheus.yml")["scrape_configs"]
        sent = {job["job_name"]: job["authorization"] for job in jobs if job.get("authorization")}
        assert sent == ({"avito-ai": {"credentials_file": expected}} if expected else {})
        command = ["promtool", "check", "config", "prometheus/prometheus.yml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_gets_the_same_alerts(tmp_path):
    """The object for the Prometheus operator has the same groups as Prometheus' file."""
    render(read_settings(FULL), tmp_path)
    for name in ("avito-ai", "other-names"):
        rule = loaded(tmp_path, f"kubernetes/{name}-rules.yml")
        assert (rule["kind"], rule["apiVersion"]) == ("PrometheusRule", "monitoring.coreos.com/v1")
        assert rule["metadata"]["name"] == name
        assert rule["spec"] == loaded(tmp_path, f"prometheus/rules/{name}.yml")


def test_systemd_starts_what_was_written_where_the_settings_say(tmp_path):
    """The drop-ins for Debian's units use the rendered files and the ports of the settings."""
    render(read_settings("ALERTMANAGER_TARGET=127.0.0.1:19093\nPROMETHEUS_URL=http://127.0.0.1:19090\n"), tmp_path)
    texts = {file.stem: file.read_text(encoding="utf-8") for file in (tmp_path / "systemd").glob("*.conf")}
    assert set(texts) == {"prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter"}
    assert "--web.listen-address=127.0.0.1:19090" in texts["prometheus"]
    assert "--web.listen-address=127.0.0.1:19093" in texts["prometheus-alertmanager"]
    for text in texts.values():
        (file,) = re.findall(r"--config\.file=(\S+)", text)
        assert (tmp_path / file).exists()


def test_grafana_finds_source_and_dashboard(tmp_path):
    """The data source is the Prometheus of the settings; the dashboards' folder is the rendered one."""
    render(read_settings("PROMETHEUS_URL=http://prometheus:9090\n"), tmp_path)
    (source,) = loaded(tmp_path, "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = loaded(tmp_path, "grafana/provisioning/dashboards/avito-ai.yml")["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert provider["options"]["path"] == str(tmp_path / "grafana/dashboards")
    assert json.loads((tmp_path / "grafana/dashboards/avito-ai.json").read_text())["uid"] == source["uid"][:8]


def test_exporters_are_scraped_where_they_are_set(tmp_path, capsys):
    """The settings name them, or one line on the command line does, which counts as the last of the file."""
    (tmp_path / "monitoring.env").write_text(MINIMAL + "REDIS_EXPORTER_TARGET=redis:9121\n")
    words = ["--settings", str(tmp_path / "monitoring.env"), "--output", str(tmp_path / "output")]
    assert main([*words, "--set", "POSTGRES_EXPORTER_TARGET=postgres:9187"]) == 0
    targets = tmp_path / "output/prometheus/targets"
    assert json.loads((targets / "redis.json").read_text()) == [{"targets": ["redis:9121"]}]
    assert json.loads((targets / "postgres.json").read_text()) == [{"targets": ["postgres:9187"]}]
    assert main(words) == 0
    assert json.loads((targets / "postgres.json").read_text()) == []
    assert main([*words, "--set", "POSTGRES_EXPORTER_TARGET=postgres"]) == 2
    assert "POSTGRES_EXPORTER_TARGET='postgres'" in capsys.readouterr().err


def test_without_a_site_none_is_probed(tmp_path):
    """Without SITE_URL, no site is probed."""
    render(read_settings(MINIMAL), tmp_path)
    assert loaded(tmp_path, "prometheus/targets/site.json") == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SERVICE_TARGETS=http://a:1", "SERVICE_TARGETS='http://a:1'"),
        ("SMTP_SERVER=mail", "SMTP_SERVER='mail'"),
        ("SITE_URL=http://ai.example.com", "https://"),
        ("WEBHOOK_URL=hook", "WEBHOOK_URL='hook'"),
        ("EMAIL_TO=somebody", "EMAIL_TO='somebody'"),
        ("EMAIL_TO=a@b", "expected both or neither"),
        ("SMTP_USER=me", "SMTP_USER and SMTP_PASSWORD_FILE"),
        ("SMTP_TLS=yes", "SMTP_TLS='yes'"),
        ("PAGERDUTY_URL=events", "PAGERDUTY_URL='events'"),
        ("ALERT_ANSWER_SECONDS=1m", "ALERT_ANSWER_SECONDS='1m': expected a number"),
        ("ALERT_ANSWER_SECONDS=300", "ALERT_ANSWER_SECONDS='300': expected less than 300, or the alert never fires"),
        ("ALERT_FIRST_TOKEN_SECONDS=999999", "ALERT_FIRST_TOKEN_SECONDS='999999': expected less than 300"),
        ("ALERT_DISK_PERCENT=101", "ALERT_DISK_PERCENT='101': expected a number of at most 100"),
        ("ALERT_DISK_PERCENT=-1", "ALERT_DISK_PERCENT='-1'"),
        ("EMAIL=a@b", "EMAIL: there is no such setting"),
        ("export A=1", "expected NAME=value"),
    ],
)
def test_a_mistake_is_reported_by_its_name(line, said):
    """A mistake is reported before anything is written."""
    with pytest.raises(SettingsError) as raised:
        read_settings(line)
    assert said in str(raised.value)


def test_limits_of_quantiles_are_below_the_largest_bucket():
    """The rules and the service's own histograms say which limits these are, and what that bucket is."""
    rules = (MONITORING / "prometheus/rules/avito-ai.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"histogram_quantile.*> \$\{(\w+)\}", rules)) == sorted(map(str.lower, QUANTILES))
    assert max(SECONDS) == LONGEST
    for name in QUANTILES:
        assert read_settings(f"{name}=299.999")[name] == "299.999"


def test_all_mistakes_are_reported_at_once():
    """One run reports all mistakes."""
    with pytest.raises(SettingsError) as raised:
        read_settings("SMTP_TLS=yes\nSMTP_SERVER=mail\nNOTHING=1\n")
    assert len(str(raised.value).splitlines()) == 3


def test_the_command_writes_or_says_why_not(tmp_path, capsys):
    """Status 0 and files, or status 2, the reason, and no file."""
    settings, output = tmp_path / "monitoring.env", tmp_path / "output"
    assert main(["--settings", str(settings), "--output", str(output)]) == 2
    settings.write_text("SMTP_TLS=yes\n")
    assert main(["--settings", str(settings), "--output", str(output)]) == 2
    assert "SMTP_TLS='yes'" in capsys.readouterr().err
    assert not output.exists()
    settings.write_text("")
    assert main(["--settings", str(settings), "--output", str(output)]) == 0
    warnings = capsys.readouterr().err
    assert "no receiver is set" in warnings
    assert "SITE_URL is not set" in warnings
    settings.write_text(FULL)
    assert main(["--settings", str(settings), "--output", str(output)]) == 0
    assert capsys.readouterr().err == ""


def test_the_script_needs_nothing_but_python(tmp_path):
    """It runs without any package."""
    (tmp_path / "monitoring.env").write_text(MINIMAL)
    command = [
        sys.executable,
        "-I",
        "-S",
        str(MONITORING / "render.py"),
        "--settings",
        "monitoring.env",
        "--output",
        "o",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    assert (tmp_path / "o/alertmanager/alertmanager.yml").exists()


def test_the_example_has_every_setting_and_its_default():
    """The example sets nothing, and with all lines uncommented it says the same."""
    assert read_settings(EXAMPLE) == DEFAULTS
    assert read_settings(re.sub(r"(?m)^#(?=[A-Z_]+=)", "", EXAMPLE)) == DEFAULTS
    program = (MONITORING / "render.py").read_text(encoding="utf-8")
    assert set(re.findall(r'settings\["([A-Z_]+)"\]', program)) | set(LIMITS) == DEFAULTS.keys()
