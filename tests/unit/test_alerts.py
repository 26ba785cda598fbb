"""Every alert fires on what it is about, is silent otherwise, and has a page that says what to do."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "ops" / "prometheus"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
NAMES = sorted({alert["alert"] for alert in ALERTS})
CASES = sorted((RULES / "tests").glob("*.yml"))

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt install prometheus)"
)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "config", RULES / "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", RULES / "rules.yml", RULES / "alerts.yml")


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=[path.stem for path in CASES])
def test_alerts_fire_and_are_silent_as_their_cases_say(cases: Path) -> None:
    promtool("test", "rules", cases)


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_case_where_it_fires_and_one_where_it_must_not(name: str) -> None:
    expected = {
        bool(test["exp_alerts"])
        for path in CASES
        for case in yaml.safe_load(path.read_text())["tests"]
        for test in case.get("alert_rule_test", [])
        if test["alertname"] == name
    }
    assert expected == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=[f"{alert['alert']}-{alert['labels']['severity']}" for alert in ALERTS])
def test_an_alert_says_how_urgent_it_is_and_where_its_page_is(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    page = (REPOSITORY / alert["annotations"]["runbook"]).read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    for heading in ("## It means", "## Look here", "## Do this"):
        assert heading in page


def test_no_page_is_left_of_an_alert_that_is_gone() -> None:
    assert sorted(path.stem for path in (REPOSITORY / "docs" / "alerts").iterdir()) == NAMES
