"""The plan's checklist on a healthy sandbox, and with each item made to fail once: only that one turns red."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from deployments.cli import run
from flows.backup import run_backup
from flows.configuration import run_configuration_backup
from flows.database import DatabaseRecovery, run_recovery
from flows.redis_store import run_redis_backup
from recoup.plan import ChecklistItem
from recoup.records import Outcome, Verdict
from tasks.checklist import LOOKS, Checklist, go_through
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject
from tasks.sandbox import create, destroy
from tests.drills.validated import BREAKS, Validated, behind_a_front, lose_the_backups


@pytest.fixture(scope="module")
def whole(state: Path) -> Iterator[Validated]:
    """Give a sandbox in which all items pass; each test mends what it broke."""
    made = create("process")
    try:
        with behind_a_front(made) as whole:
            run_backup(whole.plan, whole.stack)
            run_redis_backup(whole.plan, whole.stack)
            run_configuration_backup(whole.plan)
            yield whole
    finally:
        destroy(made)


def outcomes(found: Checklist) -> dict[str, Outcome]:
    return {item.check: item.outcome for item in found.items}


def test_every_item_passes_on_a_healthy_platform(whole: Validated) -> None:
    found = go_through(whole.plan, whole.stack)
    assert outcomes(found) == dict.fromkeys(LOOKS, Outcome.PASSED), [i for i in found.items if i.seen]
    assert found.passed
    assert str(found) == "13 passed"
    assert all(item.seen and item.took is not None for item in found.items)


def test_each_item_of_the_plan_is_looked_at_and_broken_here(whole: Validated) -> None:
    assert {item.check for item in whole.plan.checklist} == set(LOOKS) == set(BREAKS)


@pytest.mark.parametrize("check", BREAKS)
def test_what_is_broken_turns_red_and_nothing_else(check: str, whole: Validated) -> None:
    breaking, told = BREAKS[check]
    with contextmanager(breaking)(whole):
        found = go_through(whole.plan, whole.stack)
    assert outcomes(found) == {**dict.fromkeys(LOOKS, Outcome.PASSED), check: Outcome.FAILED}, found.items
    (item,) = found.of(Outcome.FAILED)
    assert told in item.seen
    assert "\n" not in item.seen
    assert not found.passed


def test_what_is_not_there_is_unproven_and_never_passed(whole: Validated, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--plan", str(whole.directory / "plan.yaml"), "--json"]) == 1
    items = {one["check"]: one for one in json.loads(capsys.readouterr().out)["items"]}
    unproven = {check for check, one in items.items() if one["outcome"] == "unproven"}
    assert unproven == {"monitoring", "enclaves-attested"}
    assert {one["outcome"] for check, one in items.items() if check not in unproven} == {"passed"}
    assert "platform.monitoring" in items["monitoring"]["seen"]


def test_the_command_is_0_only_when_all_passed(whole: Validated, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--plan", str(whole.file)]) == 0
    assert "13 passed" in capsys.readouterr().out
    with contextmanager(lose_the_backups)(whole):
        assert run(["validate", "--plan", str(whole.file)]) == 1
    shown = capsys.readouterr().out
    assert "12 passed, 1 failed" in shown
    assert "redis: there is no good set" in shown


def test_what_cannot_be_gone_through_is_2(whole: Validated, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--plan", str(tmp_path / "none.yaml")]) == 2
    gone = whole.plan.platform.stack.model_copy(update={"directory": tmp_path})
    platform = whole.plan.platform.model_copy(update={"stack": gone})
    (tmp_path / "plan.yaml").write_text(whole.plan.model_copy(update={"platform": platform}).dump_yaml())
    assert run(["validate", "--plan", str(tmp_path / "plan.yaml")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_item_that_takes_too_long_or_has_no_check_is_unproven(whole: Validated) -> None:
    strange = (*whole.plan.checklist, ChecklistItem(item="Coffee is hot", check="coffee"))
    breaking, _ = BREAKS["database-connectivity"]
    with contextmanager(breaking)(whole):
        found = go_through(whole.plan.model_copy(update={"checklist": strange}), whole.stack, timedelta(seconds=3))
    seen = {item.check: item.seen for item in found.of(Outcome.UNPROVEN)}
    assert seen == {"database-connectivity": "not found out within 3 s", "coffee": "there is no check named coffee"}


def test_smoke_tests_go_to_any_address(whole: Validated, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["smoke", "--plan", str(whole.file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    upstream = whole.front.upstream
    assert run(["smoke", "--plan", str(whole.file), "--url", upstream]) == 0
    assert f"{upstream}: 8 of 8 requests passed" in capsys.readouterr().out
    assert run(["smoke", "--plan", str(whole.file), "--url", "http://127.0.0.1:9"]) == 1
    assert run(["smoke", "--plan", str(whole.file), "--url", "127.0.0.1"]) == 2


def test_a_recovery_ends_with_the_checklist_beside_its_verdict(whole: Validated) -> None:
    identity = whole.stack.sandbox
    assert identity
    with contextmanager(lose_the_backups)(whole):
        broken = inject(Server.of(whole.plan, whole.stack, None), Fault.KILL, identity)
        broken.held.close()
        asked = DatabaseRecovery(plan=whole.file, began=broken.at)
        record = run_recovery(whole.plan, asked, ledger=whole.directory / "ledger.jsonl")

    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert [item.item for item in record.checklist] == [item.item for item in whole.plan.checklist]
    assert {item.check for item in record.checklist if item.outcome is Outcome.FAILED} == {"backups"}
    actions = {one.action: one for one in record.post_recovery}
    assert [one.owner for one in actions.values()].count("Incident Commander (John Doe)") == 2
    assert "injected" not in actions["Document incident timeline"].known
    assert "Restart the database" in actions["Document incident timeline"].known
    assert actions["Conduct post-mortem"].known.startswith("recovered: every step ended well")
