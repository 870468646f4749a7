"""Frozen records of what a run did and saw, and the one pure function that judges them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(StrEnum):
    """Of one check; a check that could not be made is unproven, never passed."""

    PASSED = "passed"
    FAILED = "failed"
    UNPROVEN = "unproven"


class Verdict(StrEnum):
    """Of a whole run."""

    RECOVERED = "recovered"
    NOT_RECOVERED = "not recovered"
    UNPROVEN = "unproven"


class Subject(StrEnum):
    """What a check looked at. ``DATA`` compares content; ``USER`` goes through the gateway as a user would."""

    STATUS = "status"
    DATA = "data"
    USER = "user"


class StepOutcome(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Check(Frozen):
    """One thing looked at afterwards, with what was expected and what was seen."""

    name: str
    subject: Subject
    outcome: Outcome
    expected: str = ""
    seen: str = ""


class ItemResult(Frozen):
    """One item of the plan's checklist as it was found; ``seen`` is the evidence, one line."""

    item: str
    check: str
    outcome: Outcome
    seen: str = ""
    took: timedelta | None = None


class FollowUpResult(Frozen):
    """One of the plan's actions after a recovery: who owes it, and what the run itself could already fill in."""

    action: str
    owner: str
    known: str = ""


class StepRecord(Frozen):
    """One step; opened as ``running`` before it acts. ``detail`` is one line on what it did."""

    name: str
    title: str
    started: AwareDatetime
    ended: AwareDatetime | None = None
    outcome: StepOutcome = StepOutcome.RUNNING
    attempts: int = 1
    resumed: bool = False
    detail: str = ""

    @property
    def took(self) -> timedelta | None:
        return self.ended - self.started if self.ended else None


class OutageClock(Frozen):
    """The moments of an outage, aware UTC; ``began_source`` says who named the beginning."""

    began: AwareDatetime | None = None
    began_source: str = "unknown"
    declared: AwareDatetime | None = None
    started: AwareDatetime
    approved: AwareDatetime | None = None
    restored: AwareDatetime | None = None
    closed: AwareDatetime | None = None

    @property
    def rto(self) -> timedelta | None:
        """RTO achieved: restored − began; None while either is unknown."""
        return self.restored - self.began if self.restored and self.began else None


class StoreLoss(Frozen):
    """What one store lost: RPO achieved = began − recovery point, against the plan's objective."""

    store: str
    objective: timedelta
    recovery_point: AwareDatetime | None = None
    achieved: timedelta | None = None
    basis: str = ""
    acknowledged_writes: int | None = None
    acknowledged_writes_lost: int | None = None

    @property
    def met(self) -> bool | None:
        return None if self.achieved is None else self.achieved <= self.objective


class SkippedSet(Frozen):
    """A backup set that was looked at and not used."""

    set_id: str
    reason: str


class BackupUse(Frozen):
    """The backup set a restore used, ``why`` that way of restoring was taken, and the newer ones it had to skip."""

    set_id: str | None
    recovery_point: AwareDatetime | None = None
    skipped: tuple[SkippedSet, ...] = ()
    why: str = ""


class KeptLog(Frozen):
    """The end of a service's log from before it was restarted, secrets masked; ``file`` has more of it."""

    service: str
    tail: str
    file: str


class RecoveryRecord(Frozen):
    """All that is known of one run. Durations are timedelta (ISO 8601 in JSON), times aware UTC.

    ``beside``: something was restored beside what is in use. No outage was ended by it, so it claims no objective.
    ``checklist`` is the plan's, looked at after the run's own checks; of most runs it does not judge the verdict.
    ``handed_to``: the procedure that the cause belongs to; its record, which follows, claims them.
    """

    run_id: str
    plan: str
    plan_version: str
    recoup_version: str
    procedure: str
    scenario: str
    component: str
    stack: str
    drill: bool = False
    beside: bool = False
    fault: str | None = None
    operator: str = ""
    reason: str = ""
    clock: OutageClock
    rto_objective: timedelta
    stores: tuple[StoreLoss, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    checks: tuple[Check, ...] = ()
    backup: BackupUse | None = None
    checklist: tuple[ItemResult, ...] = ()
    post_recovery: tuple[FollowUpResult, ...] = ()
    logs: tuple[KeptLog, ...] = ()
    handed_to: str = ""
    verdict: Verdict = Verdict.UNPROVEN
    why: str = ""
    state_left: str = ""
    next_step: str = ""

    @property
    def rto_met(self) -> bool | None:
        return None if self.clock.rto is None else self.clock.rto <= self.rto_objective

    @property
    def claims(self) -> bool:
        """Whether the run was to end an outage itself, and so has a part in the share of objectives met."""
        return not self.beside and not self.handed_to


def verdict(
    steps: tuple[StepRecord, ...],
    checks: tuple[Check, ...],
    clock: OutageClock,
    *,
    beside: bool = False,
    counted: tuple[ItemResult, ...] = (),
) -> tuple[Verdict, str]:
    """Judge a run: ``recovered`` only when every step ended well, every check passed, data and user level among them.

    Gives the verdict and the reason in one line. A skipped or unmade check makes the run unproven, never recovered.
    What was restored ``beside`` serves no user, so its data alone are asked for. ``counted`` are the items of the
    checklist of which none may have failed.
    """
    for step in steps:
        if step.outcome is StepOutcome.FAILED:
            return Verdict.NOT_RECOVERED, f"step {step.name} failed: {step.detail}".rstrip(": ")
    for check in checks:
        if check.outcome is Outcome.FAILED:
            return Verdict.NOT_RECOVERED, f"check failed: {check.name}: {check.seen}".rstrip(": ")
    for item in counted:
        if item.outcome is Outcome.FAILED:
            return Verdict.NOT_RECOVERED, f"not as the checklist asks: {item.item}: {item.seen}".rstrip(": ")
    for step in steps:
        if step.outcome is StepOutcome.RUNNING:
            return Verdict.UNPROVEN, f"step {step.name} never ended"
    for check in checks:
        if check.outcome is Outcome.UNPROVEN:
            return Verdict.UNPROVEN, f"could not be looked at: {check.name}: {check.seen}".rstrip(": ")
    for subject in (Subject.DATA,) if beside else (Subject.DATA, Subject.USER):
        if not any(check.subject is subject for check in checks):
            return Verdict.UNPROVEN, f"no {subject} check was made"
    if clock.restored is None and not beside:
        return Verdict.UNPROVEN, "no moment of restoration was seen"
    return Verdict.RECOVERED, "every step ended well and every check passed"


def now() -> datetime:
    """Give this moment as aware UTC."""
    return datetime.now(UTC)
