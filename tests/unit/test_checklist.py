"""The checklist as data: how backups are judged, what counts towards a verdict, and how it is shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from deployments.options import DEFAULT_PLAN
from deployments.screen import summary
from flows.closing import follow_ups
from recoup.plan import load_plan
from recoup.readiness import PlaceSeen, StoreSeen
from recoup.records import ItemResult, Outcome, RecoveryRecord, Verdict, verdict
from recoup.report import checklist_counts, run_report
from tasks.checklist_found import failed, passed, together, unproven
from tasks.checklist_stores import of_store
from tests.unit.samples import T, after, recovered

STORE = StoreSeen(
    name="database",
    rpo=timedelta(minutes=15),
    interval=timedelta(minutes=10),
    local=PlaceSeen("/var/backups", "disk", False, T - timedelta(minutes=5)),
    proven=T - timedelta(minutes=5),
)
RED = ItemResult(item="SSL certificates valid", check="certificates", outcome=Outcome.FAILED, seen="3 days | left")
GREEN = ItemResult(item="Logs flowing", check="logs", outcome=Outcome.PASSED, seen="found")


def judged(**changes: object) -> Outcome:
    return of_store(replace(STORE, **changes), T).outcome  # type: ignore[arg-type]


def test_backups_run_when_a_young_set_is_proven() -> None:
    assert judged() is Outcome.PASSED


def test_a_set_within_the_objective_that_nobody_proved_is_unproven() -> None:
    assert judged(proven=None) is Outcome.UNPROVEN


@pytest.mark.parametrize(("minutes", "outcome"), [(20, Outcome.PASSED), (21, Outcome.FAILED)])
def test_a_proven_set_may_be_as_old_as_two_intervals(minutes: int, outcome: Outcome) -> None:
    found = of_store(replace(STORE, proven=T - timedelta(minutes=minutes)), T)
    assert found.outcome is outcome
    assert ("the schedule stands still" in found.seen) is (outcome is Outcome.FAILED)


def test_no_set_within_the_objective_fails_though_one_is_proven() -> None:
    assert judged(local=replace(STORE.local, point=T - timedelta(minutes=16))) is Outcome.FAILED


def test_what_version_control_keeps_may_be_old() -> None:
    old = T - timedelta(days=90)
    assert judged(rpo=timedelta(0), proven=old, local=replace(STORE.local, point=old)) is Outcome.PASSED


def test_the_worst_part_is_the_outcome_and_nothing_is_unproven() -> None:
    parts = [passed("a"), unproven("b"), failed("c"), failed("d")]
    assert together(parts, "none") == failed("c; d")
    assert together(parts[:2], "none") == unproven("b")
    assert together([], "none") == unproven("none")


def test_a_failed_item_judges_a_run_only_of_those_that_count() -> None:
    record = recovered()
    asked = (record.steps, record.checks, record.clock)
    assert verdict(*asked)[0] is Verdict.RECOVERED
    assert verdict(*asked, counted=(GREEN,))[0] is Verdict.RECOVERED
    assert verdict(*asked, counted=(GREEN, RED)) == (
        Verdict.NOT_RECOVERED,
        "not as the checklist asks: SSL certificates valid: 3 days | left",
    )
    unseen = GREEN.model_copy(update={"outcome": Outcome.UNPROVEN})
    assert verdict(*asked, counted=(unseen,))[0] is Verdict.RECOVERED


def with_checklist() -> RecoveryRecord:
    record = recovered().model_copy(update={"checklist": (GREEN, RED)})
    return record.model_copy(update={"post_recovery": follow_ups(load_plan(DEFAULT_PLAN), record)})


def test_the_report_shows_the_checklist_and_who_owes_what() -> None:
    shown = run_report(with_checklist())
    assert "| failed | SSL certificates valid | 3 days \\| left |" in shown
    assert "| Conduct post-mortem | Incident Commander (John Doe) | recovered: every step ended well" in shown
    assert "began 2026-11-23 03:00:00 UTC (fault)" in shown
    assert "steps that needed more than one attempt: Restore the newest good backup" in shown
    assert "backup sets that could not be used: set-2" in shown
    assert "## Checklist" not in run_report(recovered())


def test_the_screen_tells_the_counts_and_what_failed() -> None:
    told = [text for _, text, _ in summary(with_checklist())]
    assert "1 passed, 1 failed" in told
    assert "failed: SSL certificates valid: 3 days | left" in told
    assert not any("Logs flowing" in text for text in told)
    assert checklist_counts(()) == "no item"


def test_a_timeline_without_a_beginning_says_so() -> None:
    record = recovered()
    unknown = record.model_copy(update={"clock": record.clock.model_copy(update={"began": None, "started": after(2)})})
    assert follow_ups(load_plan(DEFAULT_PLAN), unknown)[0].known.startswith("began: unknown;")
