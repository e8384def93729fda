"""The dashboard as Grafana reads it."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from deploy.monitoring.grafana.dashboard import FILE, text
from tests.deploy.monitoring.dash_lint import mistakes
from tests.deploy.monitoring.exported import MONITORING

DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))


def test_the_dashboard_is_the_one_its_table_makes():
    """`python -m deploy.monitoring.grafana.dashboard` would write the same file."""
    assert FILE.read_text(encoding="utf-8") == text()


@pytest.mark.needs("prometheus")
def test_grafana_would_find_nothing_wrong(tmp_path):
    """Structure, variables, positions and all expressions are valid."""
    assert mistakes(DASHBOARD, tmp_path) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda board: board.update(id=7),
        lambda board: board.pop("uid"),
        lambda board: board["panels"][1].update(id=board["panels"][0]["id"]),
        lambda board: board["panels"][1].update(title=""),
        lambda board: board["panels"][1].update(targets=[]),
        lambda board: board["panels"][1]["targets"][0].update(expr=""),
        lambda board: board["panels"][1]["targets"][0].update(expr="up{job=~'$nobody'}"),
        lambda board: board["panels"][1]["targets"][0].update(expr="rate(up"),
        lambda board: board["panels"][1].update(gridPos=board["panels"][2]["gridPos"]),
    ],
)
@pytest.mark.needs("prometheus")
def test_a_mistake_in_a_dashboard_is_found(spoil, tmp_path):
    """The test above fails for each mistake."""
    board = copy.deepcopy(DASHBOARD)
    spoil(board)
    assert mistakes(board, tmp_path)


def test_every_panel_has_a_description():
    """A panel has a description, and its data from the provisioned source."""
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))
    (source,) = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "datasource"]
    assert source["current"]["value"] == provisioned["datasources"][0]["uid"]
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["datasource"]["uid"] == f"${{{source['name']}}}"
