"""Grafana's dashboards, as code: ``python -m ops.dashboards`` writes ops/grafana/*.json anew.

A panel is a line here; what Grafana wants besides is the same for all of them. tests/unit/test_dashboards.py parses
every query, tests/end_to_end/test_metrics.py looks for every metric on a live /metrics.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

FOLDER = Path(__file__).parent / "grafana"
METRICS = {"type": "prometheus", "uid": "${metrics}"}
ROWS = {"type": "grafana-postgresql-datasource", "uid": "${rows}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 24

BY_SERVICE = '* on (job, instance) group_left (service_name) target_info{service_name=~"$service"}'
"""A metric has the labels of its scrape; which service that is, target_info says."""

SLOWEST_DOCUMENTS = "select * from chartloom.slowest_documents()"
"""For a datasource that signs in as a member of chartloom_operator: ids and times, nothing of a record."""


@dataclass(frozen=True)
class Panel:
    """One query or several. ``threshold`` is drawn as a line; ``kind`` is Grafana's name of the panel."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    threshold: float | None = None
    kind: str = "timeseries"
    says: str = ""


def quantiles(histogram: str, by: str = "") -> dict[str, str]:
    return {
        f"p{share}{' {{' + by + '}}' if by else ''}": (
            f"histogram_quantile(0.{share}, sum by (le{', ' + by if by else ''}) "
            f"(rate({histogram}_bucket[$__rate_interval])))"
        )
        for share in ((95,) if by else (50, 95, 99))
    }


OVERVIEW = (
    Panel(
        "Read within two minutes, last hour",
        {"on time": '1 - slo:sli_error:ratio_rate1h{slo="fast_queue"}'},
        "percentunit",
        0.95,
        "stat",
        "The objective is 95 %. Empty: no document in that time.",
    ),
    Panel(
        "Kept within ten minutes, last hour",
        {"on time": '1 - slo:sli_error:ratio_rate1h{slo="ai_queue"}'},
        "percentunit",
        0.95,
        "stat",
        "The objective is 95 %. Empty: no document in that time.",
    ),
    Panel(
        "Budget left, three days",
        {"{{slo}}": "1 - slo:sli_error:ratio_rate3d / 0.05"},
        "percentunit",
        0,
        "stat",
        "Of the 5 % of documents that may be late. Below zero the objective is missed.",
    ),
    Panel("Fast queue: complete_upload to the last fast job", quantiles("chartloom_fast_queue_seconds"), "s", 120),
    Panel("AI queue: first AI job to persisted", quantiles("chartloom_ai_queue_seconds"), "s", 600),
    Panel(
        "Burn rate, 1 h",
        {"{{slo}}": "slo:sli_error:ratio_rate1h / 0.05"},
        threshold=14.4,
        says="1 uses up the budget exactly; 14.4 over an hour wakes somebody.",
    ),
    Panel(
        "Documents an hour",
        {
            "read": "sum(increase(chartloom_fast_queue_seconds_count[1h]))",
            "kept": "sum(increase(chartloom_ai_queue_seconds_count[1h]))",
        },
    ),
    Panel("Oldest job that could run", {"{{job_type}}": "job_type:oldest_ready_job_age_seconds:max"}, "s", 600),
    Panel("Dead letters of the last hour", {"{{job_type}}": "job_type:recent_dead_letters:max"}, threshold=3),
    Panel("Workers alive", {"{{service}}": 'max by (service) (chartloom_workers{state="alive"})'}),
    Panel("Workers dead", {"{{service}}": 'max by (service) (chartloom_workers{state="dead"})'}, threshold=1),
    Panel("Audit events that wait", {"events": "max(chartloom_failed_audit_events)"}, threshold=1),
)

QUEUE = (
    Panel("Jobs that wait", {"{{job_type}}": 'max by (job_type) (chartloom_jobs{status="pending"})'}),
    Panel("Jobs that run", {"{{job_type}}": 'max by (job_type) (chartloom_jobs{status="processing"})'}),
    Panel(
        "Jobs that wait for a retry, and dead letters",
        {"{{job_type}} {{status}}": 'max by (job_type, status) (chartloom_jobs{status=~"failed|dead_letter"})'},
    ),
    Panel("Wait for a worker, p95", quantiles("chartloom_queue_wait_seconds", "job_type"), "s"),
    Panel("Work, p95", quantiles("chartloom_work_seconds", "job_type"), "s"),
    Panel("Oldest job that could run", {"{{job_type}}": "job_type:oldest_ready_job_age_seconds:max"}, "s", 600),
    Panel(
        "Attempts that ended",
        {"{{outcome}}": "sum by (outcome) (rate(chartloom_job_attempts_total[$__rate_interval]))"},
        "ops",
    ),
    Panel(
        "Retries",
        {"{{job_type}}": 'sum by (job_type) (rate(chartloom_job_attempts_total{outcome="failed"}[$__rate_interval]))'},
        "ops",
    ),
    Panel(
        "Leases lost",
        {"{{job_type}}": "sum by (job_type) (increase(chartloom_leases_lost_total[$__rate_interval]))"},
    ),
    Panel(
        "Dead letters, share of the last hour",
        {"{{job_type}}": "job_type:recent_dead_letters:ratio"},
        "percentunit",
        0.05,
    ),
)

SERVICE = (
    Panel("Jobs in hand", {"{{instance}}": f"sum by (job, instance) (chartloom_jobs_in_hand) {BY_SERVICE}"}),
    Panel(
        "Since NOTIFY was proved",
        {"{{instance}}": f"chartloom_notify_proof_age_seconds {BY_SERVICE}"},
        "s",
        180,
        says="No line: the process gets no NOTIFY and polls.",
    ),
    Panel(
        "Pool in use",
        {"{{instance}}": f"chartloom_pool_connections_in_use / chartloom_pool_connections_limit {BY_SERVICE}"},
        "percentunit",
        1,
    ),
    Panel(
        "ocr: pages a minute",
        {"{{text_source}}": "sum by (text_source) (rate(chartloom_ocr_pages_total[$__rate_interval])) * 60"},
    ),
    Panel(
        "ocr: mean confidence of a page",
        {
            "mean": "sum(rate(chartloom_ocr_page_confidence_sum[$__rate_interval]))"
            " / sum(rate(chartloom_ocr_page_confidence_count[$__rate_interval]))"
        },
        "percentunit",
        0.8,
    ),
    Panel("ai: call of the model, p95", quantiles("chartloom_ai_call_seconds", "model"), "s"),
    Panel(
        "ai: calls by outcome",
        {"{{outcome}}": "sum by (outcome) (rate(chartloom_ai_call_seconds_count[$__rate_interval]))"},
        "ops",
    ),
    Panel(
        "ai: tokens a second",
        {"{{model}} {{direction}}": "sum by (model, direction) (rate(chartloom_ai_tokens_total[$__rate_interval]))"},
    ),
    Panel(
        "ai: cost a day",
        {"{{model}}": "sum by (model) (increase(chartloom_ai_cost_total[1d]))"},
        says="In the currency of AI_PRICES; empty without it.",
    ),
    Panel(
        "ai: put off for the rate limit, seconds a second",
        {"{{reason}}": "sum by (reason) (rate(chartloom_ai_rate_limit_wait_seconds_sum[$__rate_interval]))"},
    ),
    Panel(
        "ai: findings that the page bears out",
        {
            "share": 'sum(rate(chartloom_ai_findings_total{grounded="yes"}[$__rate_interval]))'
            " / sum(rate(chartloom_ai_findings_total[$__rate_interval]))"
        },
        "percentunit",
    ),
)


def drawn(panel: Panel, number: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
    if panel.kind == "stat":
        # These are better the higher they are.
        steps = [{**step, "color": color} for step, color in zip(steps, ("red", "green"), strict=True)]
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": METRICS,
        "gridPos": _place(number),
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {}
                if panel.kind == "stat" or panel.threshold is None
                else {"thresholdsStyle": {"mode": "line"}},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": METRICS, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def slowest_documents(number: int) -> dict[str, Any]:
    """A table of rows whose trace ids lead to their traces."""
    pane = {
        "datasource": "${traces}",
        "queries": [
            {
                "refId": "A",
                "datasource": {"type": "tempo", "uid": "${traces}"},
                "queryType": "traceql",
                "query": "${__value.raw}",
            }
        ],
        "range": {"from": "now-7d", "to": "now"},
    }
    # Grafana puts the variables in, so they stay as they are.
    link = "/explore?schemaVersion=1&panes=" + quote(json.dumps({"trace": pane}), safe="${}")
    return {
        "id": number + 1,
        "type": "table",
        "title": "Slowest of the latest documents",
        "description": "The same in a terminal: chartloom trace DOCUMENT",
        "datasource": ROWS,
        "gridPos": {**_place(number), "x": 0, "w": COLUMNS},
        "fieldConfig": {
            "defaults": {},
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": "trace_id"},
                    "properties": [{"id": "links", "value": [{"title": "Trace", "url": link, "targetBlank": True}]}],
                }
            ],
        },
        "targets": [
            {"refId": "A", "datasource": ROWS, "format": "table", "rawQuery": True, "rawSql": SLOWEST_DOCUMENTS}
        ],
    }


def _place(number: int) -> dict[str, int]:
    row, column = divmod(number, COLUMNS // WIDTH)
    return {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT}


def dashboard(name: str, title: str, panels: list[dict[str, Any]], variables: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "uid": f"chartloom-{name}",
        "title": title,
        "tags": ["chartloom"],
        "schemaVersion": 36,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "links": [{"type": "dashboards", "tags": ["chartloom"], "title": "Chartloom", "keepTime": True}],
        "templating": {"list": [_datasource("metrics", "prometheus"), *variables]},
        "panels": panels,
    }


def _datasource(name: str, kind: str) -> dict[str, Any]:
    return {"type": "datasource", "name": name, "label": name.capitalize(), "query": kind}


def dashboards() -> dict[str, dict[str, Any]]:
    """Each by the name of its file."""
    service = {
        "type": "query",
        "name": "service",
        "label": "Service",
        "datasource": METRICS,
        "query": {"query": "label_values(target_info, service_name)", "refId": "service"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
    overview = [drawn(panel, number) for number, panel in enumerate(OVERVIEW)]
    overview.append(slowest_documents(len(overview)))
    links = [_datasource("rows", "grafana-postgresql-datasource"), _datasource("traces", "tempo")]
    return {
        "overview": dashboard("overview", "Chartloom: pipeline", overview, links),
        "queue": dashboard("queue", "Chartloom: queue", [drawn(p, n) for n, p in enumerate(QUEUE)], []),
        "service": dashboard("service", "Chartloom: service", [drawn(p, n) for n, p in enumerate(SERVICE)], [service]),
    }


def written(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name, content in dashboards().items():
        (FOLDER / f"{name}.json").write_text(written(content))


if __name__ == "__main__":
    main()
