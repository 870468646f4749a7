"""The configuration of a running platform is brought back as every recovery is: with a clock, checks and a verdict."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

import pytest

from flows.configuration import ConfigurationRecovery, run_configuration_backup, run_configuration_recovery
from flows.procedure import watched_by
from recoup.errors import PreconditionError
from recoup.journal import Journal
from recoup.progress import Silent
from recoup.records import Outcome, RecoveryRecord, StepOutcome, StepRecord, Subject, Verdict, now
from recoup.report import Standing, history, rpo_standing, rto_standing, run_report
from tasks.configuration import Configuration
from tests.drills.platform import Platform


def recover(platform: Platform, began: datetime | None = None, **request: object) -> RecoveryRecord:
    asked = ConfigurationRecovery.model_validate({"plan": platform.sandbox.plan, "began": began, **request})
    return run_configuration_recovery(platform.plan, asked, ledger=platform.ledger.path)


def broken(platform: Platform) -> datetime:
    """Overwrite a file that is deployed and give the moment."""
    at = now()
    (Configuration.of(platform.plan).root / "nginx/nginx.conf").write_text("half of a line")
    return at


def outcomes(record: RecoveryRecord, subject: Subject) -> set[Outcome]:
    return {check.outcome for check in record.checks if check.subject is subject}


@pytest.fixture(autouse=True)
def whole(platform: Platform) -> None:
    (Configuration.of(platform.plan).root / "nginx/nginx.conf").write_text("events {}\n")
    run_configuration_backup(platform.plan)


def test_it_leaves_a_record_with_rto_rpo_and_verdict(platform: Platform) -> None:
    looked = run_configuration_backup(platform.plan)
    assert not looked.published
    began = broken(platform)
    record = recover(platform, began, reason="somebody slipped")
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert platform.ledger.last() == record
    assert outcomes(record, Subject.DATA) == outcomes(record, Subject.USER) == {Outcome.PASSED}
    assert rto_standing(record) is Standing.MET
    (store,) = record.stores
    # A look that found nothing changed says as much as a set: what is lost cannot be older.
    assert (store.store, store.recovery_point, store.objective) == ("configuration", looked.recovery_point, timedelta())
    assert store.achieved == began - looked.recovery_point
    assert rpo_standing(record, store) is Standing.MISSED
    assert record.backup is not None
    assert record.backup.set_id == looked.set_id
    assert "docker compose up" in record.next_step
    assert "half of a line" not in record.model_dump_json()
    assert record.reason in run_report(record)
    assert "- real runs: RPO of configuration met in 0 of 1" in history([record])


def test_where_nothing_differs_nothing_was_lost(platform: Platform) -> None:
    record = recover(platform, now())
    assert record.verdict is Verdict.RECOVERED
    (store,) = record.stores
    assert store.achieved == timedelta()
    assert rpo_standing(record, store) is Standing.MET
    assert record.state_left == record.next_step == ""


def test_without_a_gateway_that_runs_it_is_unproven_and_proven_later(platform: Platform) -> None:
    began = broken(platform)
    platform.stack.stop("api-gateway")
    try:
        record = recover(platform, began)
    finally:
        platform.stack.start("api-gateway")
    assert record.verdict is Verdict.UNPROVEN
    assert outcomes(record, Subject.DATA) == {Outcome.PASSED}
    assert outcomes(record, Subject.USER) == {Outcome.UNPROVEN}
    assert "start the platform" in record.next_step
    assert recover(platform, began).verdict is Verdict.RECOVERED


def test_what_cannot_begin_changes_nothing_and_is_refused(platform: Platform) -> None:
    broken(platform)
    with pytest.raises(PreconditionError, match="no backup set"):
        recover(platform, backup="20200101T000000Z-configuration")
    kept = Configuration.of(platform.plan).root / "nginx/nginx.conf"
    assert kept.read_text() == "half of a line"


class Cut(Silent):
    """Kills this process' run, as Ctrl-C does, when a step is opened."""

    def __init__(self, step: str) -> None:
        self._step = step

    def step(self, step: StepRecord) -> None:
        if step.name == self._step and step.outcome is StepOutcome.RUNNING:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["choose-configuration", "compare-configuration", "restore-files", "check-as-user"])
def test_cut_off_at_a_step_it_goes_on(step: str, platform: Platform) -> None:
    began = broken(platform)
    with watched_by(Cut(step)), pytest.raises(KeyboardInterrupt):
        recover(platform, began)
    state, name = platform.plan.platform.state, platform.plan.platform.name
    left = Journal.unfinished(state, name, "configuration", "configuration")
    assert left is not None
    assert platform.ledger.records()[-1].verdict is Verdict.UNPROVEN
    record = recover(platform)
    assert record.verdict is Verdict.RECOVERED
    assert record.run_id == left.header.run_id
    assert record.clock.began == began
    root = Configuration.of(platform.plan).root
    assert any(
        path.read_text() == "half of a line" for path in (root / "nginx").iterdir() if ".before-" in path.name
    ), os.listdir(root / "nginx")
