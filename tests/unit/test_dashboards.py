"""The dashboards are what the program writes, and every query of theirs parses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from ops.dashboards import FOLDER, SLOWEST_DOCUMENTS, dashboards, written

DASHBOARDS = dashboards()
each = pytest.mark.parametrize("name", DASHBOARDS)


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each PromQL query with its panel's title, Grafana's variables filled in."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            if "expr" in target:
                yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$service", ".*")


@each
def test_the_file_is_what_the_program_writes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == written(DASHBOARDS[name]), "run python -m ops.dashboards"


def test_there_is_no_file_besides() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in DASHBOARDS}


@each
def test_every_query_parses(name: str) -> None:
    found = list(queries(DASHBOARDS[name]))
    assert len(found) >= 10
    for title, query in found:
        assert promql_parser.parse(query) is not None, title


def test_the_parser_refuses_what_is_no_query() -> None:
    with pytest.raises(ValueError):
        promql_parser.parse("sum(rate(chartloom_jobs[5m])")


def test_every_recorded_series_that_is_used_is_recorded() -> None:
    rules = yaml.safe_load((FOLDER.parent / "prometheus" / "rules.yml").read_text())
    alerts = yaml.safe_load((FOLDER.parent / "prometheus" / "alerts.yml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"]}
    used = {
        name
        for text in (
            *(rule["expr"] for part in (rules, alerts) for group in part["groups"] for rule in group["rules"]),
            *(query for dashboard in DASHBOARDS.values() for _, query in queries(dashboard)),
        )
        for name in re.findall(r"\w+(?::\w+)+", text)
    }
    assert used == recorded


@each
def test_panels_lie_side_by_side_and_none_on_another(name: str) -> None:
    taken = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_a_trace_id_in_the_overview_leads_to_its_trace() -> None:
    (table,) = [panel for panel in DASHBOARDS["overview"]["panels"] if panel["type"] == "table"]
    (override,) = table["fieldConfig"]["overrides"]
    assert override["matcher"]["options"] == "trace_id"
    (link,) = override["properties"][0]["value"]
    assert "${__value.raw}" in link["url"]
    assert table["targets"][0]["rawSql"] == SLOWEST_DOCUMENTS


def test_every_dashboard_is_said_in_the_monitoring_plan() -> None:
    plan = (Path(FOLDER).parents[1] / "docs" / "monitoring.md").read_text()
    for dashboard in DASHBOARDS.values():
        assert dashboard["title"] in plan
    assert json.loads((FOLDER / "overview.json").read_text())["uid"] in plan
