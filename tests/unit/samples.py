"""Records to test with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recoup.clock import store_loss
from recoup.records import (
    BackupUse,
    Check,
    OutageClock,
    Outcome,
    RecoveryRecord,
    SkippedSet,
    StepOutcome,
    StepRecord,
    Subject,
    Verdict,
)

T = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def recovered(run_id: str = "run-1") -> RecoveryRecord:
    """Give a drill that recovered in 100 s, lost 30 s of data and 3 of 120 writes, and skipped one backup set."""
    return RecoveryRecord(
        run_id=run_id,
        plan="Neo Service Layer",
        plan_version="1.0.0",
        recoup_version="0.1.0",
        procedure="recover-database",
        scenario="database failure",
        component="database",
        stack="process",
        drill=True,
        fault="wipe",
        clock=OutageClock(
            began=T,
            began_source="fault",
            declared=after(1),
            started=after(2),
            approved=after(3),
            restored=after(100),
            closed=after(102),
        ),
        rto_objective=timedelta(hours=1),
        stores=(store_loss("database", timedelta(minutes=15), T, after(-30), "newest audit row", 120, 3),),
        steps=(
            StepRecord(
                name="restore",
                title="Restore the newest good backup",
                started=after(3),
                ended=after(90),
                outcome=StepOutcome.DONE,
                attempts=2,
                detail="from set-1",
            ),
        ),
        checks=(
            Check(name="row counts", subject=Subject.DATA, outcome=Outcome.PASSED, expected="7", seen="7"),
            Check(name="login", subject=Subject.USER, outcome=Outcome.PASSED),
        ),
        backup=BackupUse(
            set_id="set-1",
            recovery_point=after(-30),
            skipped=(SkippedSet(set_id="set-2", reason="data.zst: sha256 differs"),),
        ),
        verdict=Verdict.RECOVERED,
        why="every step ended well and every check passed",
    )


def failed(run_id: str = "run-2") -> RecoveryRecord:
    """Give a real run that found no usable backup and restored nothing."""
    record = recovered(run_id)
    return record.model_copy(
        update={
            "drill": False,
            "fault": None,
            "clock": record.clock.model_copy(update={"restored": None}),
            "stores": (store_loss("database", timedelta(minutes=15), T, None, ""),),
            "checks": (),
            "backup": BackupUse(set_id=None, skipped=record.backup.skipped if record.backup else ()),
            "verdict": Verdict.NOT_RECOVERED,
            "why": "step restore failed: no good backup set",
            "state_left": "the old data is untouched",
            "next_step": "name a dump with --backup",
        }
    )
