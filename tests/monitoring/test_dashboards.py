"""The dashboards are of the shape that Grafana reads; that their queries find something is in ``test_watched``.

Grafana itself is not here: what is checked is what its provisioning and its JSON model want.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.monitoring.prometheus import read_rules

GRAFANA = Path(__file__).parents[2] / "config" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}
DATA_SOURCE = {"type": "prometheus", "uid": "tradeengine-prometheus"}
KINDS = {"row", "stat", "timeseries", "bargauge", "table"}
UNITS = {"none", "s", "ops", "reqps", "percentunit", "bytes", "Bps", "dtdurations"}
COLUMNS = 24


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Give a dashboard's panels without its headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Give all that a dashboard asks Prometheus; what a variable asks, the values of a label, as a query for these."""
    asked = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            question = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert question is not None
            asked.append(f"count by ({question[2]}) ({question[1]})")
    return asked


def test_provisioning_is_complete() -> None:
    """Grafana is told of one data source and one folder of files; its uid is the one that the panels name."""
    (source,) = _provisioned("datasources")["datasources"]
    assert {"uid": source["uid"], "type": source["type"]} == DATA_SOURCE
    (provider,) = _provisioned("dashboards")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]


def test_dashboards_are_told_apart() -> None:
    """Each has a uid, by its file's name, and a title of its own, and is linked with the others by a tag."""
    assert len(DASHBOARDS) == 6
    for name, dashboard in DASHBOARDS.items():
        assert dashboard["uid"] == f"tradeengine-{name}"
        assert "tradeengine" in dashboard["tags"]
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_has_the_shape_that_grafana_reads(name: str) -> None:
    """Panels have ids of their own, lie side by side within the grid, and say what they show, in which unit."""
    dashboard = DASHBOARDS[name]
    assert dashboard["schemaVersion"] >= 37
    assert "id" not in dashboard
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["type"] in KINDS
        assert panel["title"]
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= COLUMNS
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels(dashboard):
        assert panel["description"].endswith(".")
        assert panel["datasource"] == DATA_SOURCE
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
        assert all(target["datasource"] == DATA_SOURCE for target in panel["targets"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_made_and_used(name: str) -> None:
    """Whatever a query, a link or a variable's question takes from a variable exists; each variable is used."""
    dashboard = DASHBOARDS[name]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    text = json.dumps([dashboard["panels"], dashboard["annotations"]]) + "".join(
        variable["query"]["query"] for variable in variables.values() if variable["type"] == "query"
    )
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used | {"runbooks"} == variables.keys()
    assert "instance" in used


def test_links_lead_to_runbooks() -> None:
    """Each link of a panel is a page in docs/runbooks, and the panels link to most alerts' pages."""
    linked = set()
    for dashboard in DASHBOARDS.values():
        for panel in panels(dashboard):
            for link in panel.get("links", ()):
                page = link["url"].removeprefix("${runbooks}/")
                assert (GRAFANA.parents[1] / "docs" / "runbooks" / page).exists(), page
                linked.add(page.removesuffix(".md"))
    missing = {rule["alert"] for rule in read_rules("alerts.yml")} - linked
    assert missing == {"EngineDown"}


def _provisioned(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(
        (GRAFANA / "provisioning" / kind / "tradeengine.yml").read_text(encoding="utf-8")
    )
    assert document["apiVersion"] == 1
    return document
