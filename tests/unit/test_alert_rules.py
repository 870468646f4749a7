"""The alert rules answer every detection signal of the plan, each is tried, and what is watched is in the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recoup.plan import load_plan

INFRA = Path(__file__).resolve().parents[2] / "infra"


def read(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text(encoding="utf-8"))


RULES = [rule for group in read("monitoring/rules.yaml")["groups"] for rule in group["rules"]]
TRIED = [case for test in read("monitoring/rules.test.yaml")["tests"] for case in test.get("alert_rule_test", ())]
SIGNALS = [(one.name, signal) for one in load_plan(INFRA / "plan.yaml").scenarios for signal in one.detection]


@pytest.mark.parametrize(("scenario", "signal"), SIGNALS)
def test_every_signal_of_every_scenario_has_an_alert(scenario: str, signal: str) -> None:
    assert (scenario, signal) in {(rule["labels"]["scenario"], rule["labels"]["signal"]) for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_speaks_of_a_signal_of_the_plan_and_is_seen_to_fire(rule: dict[str, Any]) -> None:
    assert (rule["labels"]["scenario"], rule["labels"]["signal"]) in SIGNALS
    assert rule["annotations"]["summary"]
    assert [case for case in TRIED if case["alertname"] == rule["alert"] and case["exp_alerts"]]


def test_every_service_of_the_sandbox_that_tells_metrics_is_watched() -> None:
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"]
        for job in read("monitoring/prometheus.yaml")["scrape_configs"]
    }
    services = read("sandbox/compose.yaml")["services"]
    assert set(jobs["neo"]) == {
        f"{name}:8080" for name, one in services.items() if "recoup-sandbox/app" in one["image"]
    }
    assert jobs["prometheus"] == ["localhost:9090"]
