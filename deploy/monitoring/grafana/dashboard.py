"""Generates the dashboard: `python -m deploy.monitoring.grafana.dashboard` writes `dashboards/avito-ai.json`.

`panels` declares its content; this module turns that into Grafana's JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from deploy.monitoring.grafana.panels import OVER_TIME, ROWS, STAT, STATES, Panel

FILE = Path(__file__).with_name("dashboards") / "avito-ai.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # columns of Grafana's grid


def dashboard() -> dict[str, object]:
    """Return the dashboard as Grafana's provisioning reads it."""
    return {
        "id": None,
        "uid": "avito-ai",
        "title": "Avito AI API",
        "tags": ["avito-ai"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": [_source(), _variable("model"), _variable("instance")]},
        "annotations": {"list": [_alerts()]},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, object]]:
    number, top = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            "panels": [],
        }
        top, left, height = top + 1, 0, 0
        for panel in panels:
            if left + panel.width > WIDTH:
                top, left, height = top + height, 0, 0
            number += 1
            yield _panel(panel, number, left, top)
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, object]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _field(panel: Panel) -> dict[str, object]:
    field: dict[str, object] = {"unit": panel.unit, "min": 0, "thresholds": _thresholds(panel)}
    if panel.axis_max is not None:
        field["max"] = panel.axis_max
    if panel.kind == OVER_TIME:
        limited = panel.warn is not None or panel.limit is not None
        field["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if limited else "off"},
        }
    else:
        field["color"] = {"mode": "thresholds" if panel.kind == STAT else "palette-classic"}
    return field


def _thresholds(panel: Panel) -> dict[str, object]:
    colours = [("red", None), ("yellow", panel.limit), ("green", panel.warn)]
    if not panel.falling:
        colours = [("green", None), ("yellow", panel.warn), ("red", panel.limit)]
    steps = [{"color": colour, "value": value} for colour, value in colours]
    return {"mode": "absolute", "steps": [steps[0], *(step for step in steps[1:] if step["value"] is not None)]}


def _options(panel: Panel) -> dict[str, object]:
    if panel.kind == STAT:
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "area"}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    if panel.kind == STATES:
        return {"showValue": "never", "legend": legend | {"showLegend": False}}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _source() -> dict[str, object]:
    current = {"text": "Prometheus", "value": "avito-ai-prometheus"}
    return {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus", "current": current}


def _variable(label: str) -> dict[str, object]:
    return {
        "name": label,
        "label": label.title(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values(avito_ai_model_status, {label})", "refId": label},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 1,
    }


def _alerts() -> dict[str, object]:
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing",alertname=~"Avito.*"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{model}} {{instance}}",
    }


def text() -> str:
    """Return the content of the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
