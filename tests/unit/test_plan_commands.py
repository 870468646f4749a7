"""recoup plan check, show and schema as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.plan_commands import app
from recoup.errors import PlanError

PLAN = Path(__file__).resolve().parents[2] / "infra" / "plan.yaml"


def run(*argv: str, env: dict[str, str] | None = None) -> str:
    result = CliRunner().invoke(app, list(argv), env={"COLUMNS": "160", "RECOUP_PLAN": None, **(env or {})})
    if result.exception:
        raise result.exception
    return result.output


def test_check_says_what_the_plan_holds() -> None:
    assert run("check").startswith("plan ok: 10 components, 5 scenarios, 10 drills, 13 checklist items")


def test_the_plan_is_named_by_argument_option_or_environment(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\n", encoding="utf-8")
    for argv, env in (
        ([str(bad)], {}),
        (["--plan", str(bad)], {}),
        (["-p", str(bad)], {}),
        ([], {"RECOUP_PLAN": str(bad)}),
    ):
        with pytest.raises(PlanError, match="components: missing"):
            run("check", *argv, env=env)
    # The argument wins over the environment.
    assert "plan ok" in run("check", str(PLAN), env={"RECOUP_PLAN": str(bad)})


@pytest.mark.parametrize(
    "part",
    [
        "critical services",
        "every 10 min",
        "Detected by: Prometheus alerts; Health check failures; User reports",
        "0 5 2 1,4,7,10 *",
        "bob.johnson@company.com",
        "PagerDuty",
        "SSL certificates valid",
        "Conduct post-mortem",
        "neo-service-layer-backups",
        "do not run it as it stands",
        "Rollback Procedure (rollback.sh)",
    ],
)
def test_show_has_every_part(part: str) -> None:
    assert part in run("show")


def test_show_prints_brackets_as_they_are(tmp_path: Path) -> None:
    own = tmp_path / "plan.yaml"
    own.write_text(PLAN.read_text(encoding="utf-8").replace("John Doe", "'John [red] Doe [/]'"), encoding="utf-8")
    assert "John [red] Doe [/]" in run("show", str(own))


def test_schema_is_a_json_schema() -> None:
    assert json.loads(run("schema"))["title"] == "Plan"
