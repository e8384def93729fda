"""A linter for Grafana dashboards: structure, variables and expressions."""

from __future__ import annotations

import json
import re
import subprocess


def panels(dashboard):
    """Yield every panel, including those inside rows."""
    for panel in dashboard.get("panels", []):
        yield panel
        yield from panels(panel)


def queries(dashboard, window="5m"):
    """Return (title, expression) of every target, with Grafana's variables replaced."""
    return [
        (panel["title"], filled_in(target["expr"], window))
        for panel in panels(dashboard)
        for target in panel.get("targets", [])
    ]


def filled_in(expression, window="5m"):
    """Return the expression as Grafana sends it with all values of the variables selected."""
    expression = re.sub(r"\$\{?__(rate_interval|interval|range)\}?", window, expression)
    return re.sub(r"\$\{?\w+(:\w+)?\}?", ".*", expression)


def mistakes(dashboard, folder):
    """Return the mistakes in a dashboard for provisioning."""
    found = [f"{key} is missing" for key in ("title", "panels", "schemaVersion", "uid") if key not in dashboard]
    if dashboard.get("id") is not None:
        found.append("id is not null")
    numbers = [panel.get("id") for panel in panels(dashboard)]
    if len(numbers) != len(set(numbers)):
        found.append("two panels have the same id")
    found += _broken_panels(dashboard) + _overlaps(dashboard)
    return found + (_parse(queries(dashboard), folder) if not found else [])


def _broken_panels(dashboard):
    variables = {variable["name"] for variable in dashboard.get("templating", {}).get("list", [])}
    found = []
    for panel in panels(dashboard):
        name = panel.get("title") or f"panel {panel.get('id')}"
        if not panel.get("title"):
            found.append(f"{name} has no title")
        if panel.get("type") == "row":
            continue
        if not panel.get("targets"):
            found.append(f"{name} has no targets")
        for target in panel.get("targets", []):
            if not target.get("expr"):
                found.append(f"{name} has a target without an expression")
            used = set(re.findall(r"\$\{?(\w+)", json.dumps(target)))
            found += [f"{name} uses ${word}" for word in used - variables if not word.startswith("__")]
    return found


def _overlaps(dashboard):
    taken, found = set(), []
    for panel in panels(dashboard):
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if cells & taken or place["x"] + place["w"] > 24:
            found.append(f"{panel.get('title')} lies over another panel or beyond the edge")
        taken |= cells
    return found


def _parse(wanted, folder):
    file = folder / "dashboard.rules.yml"
    rules = [{"record": f"dashboard:{number}", "expr": expression} for number, (_, expression) in enumerate(wanted)]
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=600
    )
    return [] if done.returncode == 0 else [done.stderr + done.stdout]
