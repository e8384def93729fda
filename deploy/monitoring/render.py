"""Writes the configuration of Prometheus, Alertmanager, the blackbox exporter and Grafana from one file of settings.

    python3 deploy/monitoring/render.py --settings monitoring.env --output /etc/avito-ai/monitoring

Standard library only; may be run again at any time. The settings are those of `monitoring.env.example`. All mistakes
are reported, and then nothing is written. Secrets are never read; the configuration holds the paths of their files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
RUNBOOK = "docs/runbook.md"
EXAMPLE = (HERE / "monitoring.env.example").read_text(encoding="utf-8")
DEFAULTS = dict(re.findall(r"^#([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
LIMITS = [name for name in DEFAULTS if name.startswith("ALERT_")]
# Limits of quantiles of a histogram, and its largest bucket in seconds: a quantile is never above that.
QUANTILES, LONGEST = ("ALERT_ANSWER_SECONDS", "ALERT_FIRST_TOKEN_SECONDS"), 300
PROMETHEUS_RULE = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: avito-ai
spec:
"""
TARGET = re.compile(r"[A-Za-z0-9.-]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")
ADDRESS = re.compile(r"[^@\s,]+@[^@\s,]+")
LINE = re.compile(r"([A-Z_]+)=(.*)")
LIMIT = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")

# Title and text of a notification, as Alertmanager templates.
TITLE = "{{ .Status | toUpper }}: {{ .CommonLabels.alertname }} ({{ .CommonLabels.severity }})"
TEXT = (
    "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n"
    "What to do: {{ .Annotations.runbook_url }}\n"
    'Since {{ .StartsAt.UTC.Format "2006-01-02 15:04:05" }} UTC\n\n{{ end }}'
)


class SettingsError(Exception):
    """Unusable settings, one sentence for each mistake."""


def read_settings(text: str) -> dict[str, str]:
    """Return every setting, defaults included. Raises SettingsError with all mistakes."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    pairs = [LINE.fullmatch(line) for line in lines]
    mistakes = [f"{line!r}: expected NAME=value" for line, pair in zip(lines, pairs, strict=True) if pair is None]
    given = {pair[1]: pair[2].strip() for pair in pairs if pair is not None}
    mistakes += [f"{name}: there is no such setting" for name in sorted(given.keys() - DEFAULTS.keys())]
    settings = DEFAULTS | {name: value for name, value in given.items() if value}
    mistakes += _mistakes(settings)
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return settings


def render(settings: Mapping[str, str], output: Path) -> None:
    """Write all files below `output`, which is created if missing."""
    dashboards = settings["DASHBOARDS"] or str((output / "grafana/dashboards").resolve())
    values = {
        "email_from": json.dumps(settings["EMAIL_FROM"]),
        "smtp_server": json.dumps(settings["SMTP_SERVER"]),
        "smtp_tls": settings["SMTP_TLS"],
        "email_configs": _shown(_email(settings)),
        "slack_configs": _shown(_slack(settings)),
        "webhook_configs": _shown(_webhook(settings)),
        "pagerduty_configs": _shown(_pagerduty(settings)),
        "service_authorization": _shown(_authorization(settings)),
        "prometheus_url": json.dumps(settings["PROMETHEUS_URL"]),
        "dashboards": json.dumps(dashboards),
        "output": str(output.resolve()),
        "prometheus_listen": urlsplit(settings["PROMETHEUS_URL"]).netloc,
        "alertmanager_listen": settings["ALERTMANAGER_TARGET"],
        "blackbox_listen": settings["BLACKBOX_TARGET"],
        **{name.lower(): settings[name] for name in LIMITS},
    }
    for source in sorted([*HERE.rglob("*.yml"), *HERE.glob("systemd/*.conf")]):
        _write(source, output, lambda text: Template(text).safe_substitute(values), settings["RUNBOOK"])
    for source in sorted(HERE.rglob("grafana/dashboards/*.json")):
        _write(source, output, lambda text: text, RUNBOOK)
    _write_for_kubernetes(output)
    for name, content in _targets(settings).items():
        _put(output, f"prometheus/targets/{name}.json", json.dumps(content, indent=2) + "\n")


def _write(source: Path, output: Path, fill: Callable[[str], str], runbook: str) -> None:
    text = fill(source.read_text(encoding="utf-8")).replace(f"{RUNBOOK}#", f"{runbook}#")
    _put(output, str(source.relative_to(HERE)).replace(".template", ""), text)


def _put(output: Path, name: str, text: str) -> None:
    """Write a file, which the programs read as users of their own, whatever the modes of this tree."""
    target = output / name
    target.parent.mkdir(parents=True, exist_ok=True)
    for folder in (output / part for part in Path(name).parents):
        folder.chmod(folder.stat().st_mode & 0o7777 | 0o755)
    target.write_text(text, encoding="utf-8")
    target.chmod(0o644)


def _write_for_kubernetes(output: Path) -> None:
    """Write each file of rules as a PrometheusRule object for the Prometheus operator as well."""
    for source in sorted(HERE.glob("prometheus/rules/*.yml")):
        rules = (output / "prometheus/rules" / source.name).read_text(encoding="utf-8")
        text = PROMETHEUS_RULE.format(name=source.stem) + textwrap.indent(rules, "  ")
        _put(output, f"kubernetes/{source.stem}-rules.yml", text)


def _targets(settings: Mapping[str, str]) -> dict[str, list[dict[str, object]]]:
    """Return the contents of Prometheus' target files, by name."""
    services = [target.strip() for target in settings["SERVICE_TARGETS"].split(",")]
    site: dict[str, object] = {
        "targets": [settings["SITE_URL"]],
        "labels": {"__meta_exporter": settings["BLACKBOX_TARGET"]},
    }
    return {
        "service": [{"targets": services}],
        "alertmanager": [{"targets": [settings["ALERTMANAGER_TARGET"]]}],
        "site": [site] if settings["SITE_URL"] else [],
        "redis": _if_set(settings["REDIS_EXPORTER_TARGET"]),
        "postgres": _if_set(settings["POSTGRES_EXPORTER_TARGET"]),
    }


def _if_set(target: str) -> list[dict[str, object]]:
    return [{"targets": [target]}] if target else []


def _authorization(settings: Mapping[str, str]) -> dict[str, str] | None:
    """Return how Prometheus says that it may see the names of keys."""
    return {"credentials_file": settings["ADMIN_KEY_FILE"]} if settings["ADMIN_KEY_FILE"] else None


def _email(settings: Mapping[str, str]) -> list[dict[str, object]]:
    if not settings["EMAIL_TO"]:
        return []
    mail: dict[str, object] = {
        "to": settings["EMAIL_TO"],
        "send_resolved": True,
        "headers": {"Subject": TITLE},
        "html": "",
        "text": TEXT,
    }
    if settings["SMTP_USER"]:
        mail |= {"auth_username": settings["SMTP_USER"], "auth_password_file": settings["SMTP_PASSWORD_FILE"]}
    return [mail]


def _slack(settings: Mapping[str, str]) -> list[dict[str, object]]:
    if not settings["SLACK_WEBHOOK_FILE"]:
        return []
    message = {"api_url_file": settings["SLACK_WEBHOOK_FILE"], "send_resolved": True, "title": TITLE, "text": TEXT}
    return [message | ({"channel": settings["SLACK_CHANNEL"]} if settings["SLACK_CHANNEL"] else {})]


def _pagerduty(settings: Mapping[str, str]) -> list[dict[str, object]]:
    """Return the receiver, which is told of critical alerts only."""
    if not settings["PAGERDUTY_KEY_FILE"]:
        return []
    event = {
        "routing_key_file": settings["PAGERDUTY_KEY_FILE"],
        "url": settings["PAGERDUTY_URL"],
        "send_resolved": True,
    }
    return [event | {"severity": "critical", "class": "{{ .CommonLabels.alertname }}", "description": TITLE}]


def _webhook(settings: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"url": settings["WEBHOOK_URL"], "send_resolved": True}] if settings["WEBHOOK_URL"] else []


def _shown(value: object) -> str:
    """Return the value as JSON, which is valid YAML."""
    return json.dumps(value, ensure_ascii=False)


def _mistakes(settings: Mapping[str, str]) -> Iterator[str]:
    for name in ("SERVICE_TARGETS", "BLACKBOX_TARGET", "ALERTMANAGER_TARGET", "SMTP_SERVER"):
        targets = settings[name].split(",") if name == "SERVICE_TARGETS" else [settings[name]]
        if not all(TARGET.fullmatch(target.strip()) for target in targets):
            yield f"{name}={settings[name]!r}: expected host:port" + (", comma-separated" * (len(targets) > 1))
    for name in ("REDIS_EXPORTER_TARGET", "POSTGRES_EXPORTER_TARGET"):
        if settings[name] and not TARGET.fullmatch(settings[name]):
            yield f"{name}={settings[name]!r}: expected host:port, or nothing"
    for name, schemes in (
        ("SITE_URL", {"https"}),
        ("PROMETHEUS_URL", {"http", "https"}),
        ("WEBHOOK_URL", {"http", "https"}),
        ("PAGERDUTY_URL", {"http", "https"}),
    ):
        address = urlsplit(settings[name])
        if settings[name] and (address.scheme not in schemes or not address.hostname):
            yield f"{name}={settings[name]!r}: expected an address that begins with {' or '.join(sorted(schemes))}://"
    for name in ("EMAIL_TO", "EMAIL_FROM"):
        if settings[name] and not all(ADDRESS.fullmatch(one.strip()) for one in settings[name].split(",")):
            yield f"{name}={settings[name]!r}: expected e-mail addresses"
    if bool(settings["EMAIL_TO"]) != bool(settings["EMAIL_FROM"]):
        yield "EMAIL_TO and EMAIL_FROM: expected both or neither"
    if bool(settings["SMTP_USER"]) != bool(settings["SMTP_PASSWORD_FILE"]):
        yield "SMTP_USER and SMTP_PASSWORD_FILE: expected both or neither"
    if settings["SMTP_TLS"] not in ("true", "false"):
        yield f"SMTP_TLS={settings['SMTP_TLS']!r}: expected true or false"
    yield from _mistaken_limits(settings)


def _mistaken_limits(settings: Mapping[str, str]) -> Iterator[str]:
    for name in LIMITS:
        value, percent = settings[name], name.endswith("_PERCENT")
        if not LIMIT.fullmatch(value) or (percent and float(value) > 100):
            yield f"{name}={value!r}: expected a number" + (" of at most 100" if percent else "")
        elif name in QUANTILES and float(value) >= LONGEST:
            yield f"{name}={value!r}: expected less than {LONGEST}, or the alert never fires"


def main(arguments: list[str]) -> int:
    """Render with the arguments of the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="render.py", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--settings", type=Path, required=True, help="a file in the format of monitoring.env.example")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one more line of the settings"
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to write into")
    chosen = parser.parse_args(arguments)
    os.umask(0o022)  # for the folders above the output
    try:
        settings = read_settings("\n".join([chosen.settings.read_text(encoding="utf-8"), *chosen.set]))
        render(settings, chosen.output)
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    if not any(settings[name] for name in ("EMAIL_TO", "SLACK_WEBHOOK_FILE", "PAGERDUTY_KEY_FILE", "WEBHOOK_URL")):
        print("warning: no receiver is set: alerts are shown, but not sent", file=sys.stderr)
    if not settings["SITE_URL"]:
        print("warning: SITE_URL is not set: neither the site nor its certificate is monitored", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # this file also runs where the others are not
        sys.exit(128 + signal.SIGINT)
