from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pydantic import ValidationError

from recoup.records import (
    Check,
    OutageClock,
    Outcome,
    RecoveryRecord,
    StepOutcome,
    StepRecord,
    Subject,
    Verdict,
    verdict,
)
from tests.unit.samples import T, after, failed, recovered

CLOCK = OutageClock(began=T, started=after(1), restored=after(9))
STEP = StepRecord(name="restart", title="Restart", started=T, ended=after(1), outcome=StepOutcome.DONE)
DATA = Check(name="rows", subject=Subject.DATA, outcome=Outcome.PASSED)
USER = Check(name="login", subject=Subject.USER, outcome=Outcome.PASSED)


def judged(*, steps: tuple[StepRecord, ...] = (STEP,), checks: tuple[Check, ...] = (DATA, USER)) -> Verdict:
    return verdict(steps, checks, CLOCK)[0]


def test_recovered_needs_every_step_data_and_user_check_and_a_moment() -> None:
    assert judged() is Verdict.RECOVERED


@pytest.mark.parametrize("checks", [(), (DATA,), (USER,), (USER, USER)])
def test_without_a_data_and_a_user_check_nothing_is_proven(checks: tuple[Check, ...]) -> None:
    assert judged(checks=checks) is Verdict.UNPROVEN


def test_a_check_that_could_not_be_made_is_never_passed() -> None:
    unproven = DATA.model_copy(update={"outcome": Outcome.UNPROVEN, "seen": "no manifest"})
    kind, why = verdict((STEP,), (DATA, USER, unproven), CLOCK)
    assert kind is Verdict.UNPROVEN
    assert "no manifest" in why


def test_a_failed_check_outweighs_an_unproven_one() -> None:
    unproven = DATA.model_copy(update={"outcome": Outcome.UNPROVEN})
    wrong = USER.model_copy(update={"outcome": Outcome.FAILED, "seen": "502"})
    kind, why = verdict((STEP,), (unproven, DATA, wrong), CLOCK)
    assert kind is Verdict.NOT_RECOVERED
    assert "502" in why


def test_a_failed_step_is_not_recovered_whatever_the_checks_say() -> None:
    broken = STEP.model_copy(update={"outcome": StepOutcome.FAILED, "detail": "disk full"})
    kind, why = verdict((STEP, broken), (DATA, USER), CLOCK)
    assert kind is Verdict.NOT_RECOVERED
    assert "disk full" in why


def test_a_step_that_never_ended_is_unproven() -> None:
    assert judged(steps=(STEP.model_copy(update={"outcome": StepOutcome.RUNNING}),)) is Verdict.UNPROVEN


def test_a_step_that_was_not_needed_hinders_nothing() -> None:
    assert judged(steps=(STEP, STEP.model_copy(update={"outcome": StepOutcome.SKIPPED}))) is Verdict.RECOVERED


def test_without_a_moment_of_restoration_the_run_is_unproven() -> None:
    assert verdict((STEP,), (DATA, USER), OutageClock(began=T, started=T))[0] is Verdict.UNPROVEN


@pytest.mark.parametrize("record", [recovered(), failed()])
def test_a_record_survives_json(record: RecoveryRecord) -> None:
    assert RecoveryRecord.model_validate_json(record.model_dump_json()) == record


def test_rto_is_unknown_until_both_sides_are_known_then_measured() -> None:
    assert recovered().clock.rto == timedelta(seconds=100)
    assert recovered().rto_met is True
    assert failed().clock.rto is None
    assert failed().rto_met is None


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        OutageClock(started=datetime(2026, 1, 1))


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        recovered().verdict = Verdict.UNPROVEN  # type: ignore[misc]


def test_what_was_restored_beside_is_judged_by_its_data_alone() -> None:
    clock = OutageClock(started=T)
    assert verdict((STEP,), (DATA,), clock, beside=True)[0] is Verdict.RECOVERED
    assert verdict((STEP,), (), clock, beside=True)[0] is Verdict.UNPROVEN
    assert verdict((STEP,), (DATA,), clock)[0] is Verdict.UNPROVEN
