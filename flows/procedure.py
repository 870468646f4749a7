"""The skeleton that every procedure shares: lease, clock, steps, checks, verdict, record.

Whatever happens in a run, a record of it is left: a failure and an interruption are recorded and raised again.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from prefect.context import FlowRunContext

import recoup
from flows.closing import after_recovery, follow_ups
from flows.log_watcher import LogWatcher
from flows.steps import Steps as Steps
from recoup.errors import PreconditionError, RecoupError, RecoveryError, first_line
from recoup.journal import Journal, RunHeader
from recoup.lease import lease
from recoup.ledger import Ledger
from recoup.plan import Plan
from recoup.progress import Silent, Watcher
from recoup.records import (
    BackupUse,
    Check,
    ItemResult,
    KeptLog,
    OutageClock,
    RecoveryRecord,
    StepOutcome,
    StoreLoss,
    Verdict,
    now,
    verdict,
)
from recoup.stacks import Stack, open_stack
from tasks.evidence import publish_record
from tasks.images import note_healthy

# Steps whose names begin like this only look.
_LOOKING = ("diagnose", "choose", "compare", "plan")
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_records: ContextVar[list[RecoveryRecord] | None] = ContextVar("records", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell this watcher of the runs that are made in the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def recording() -> Iterator[list[RecoveryRecord]]:
    """Give a list that takes every record made in the block, whatever the runs raised."""
    records: list[RecoveryRecord] = []
    token = _records.set(records)
    try:
        yield records
    finally:
        _records.reset(token)


def current_watcher() -> Watcher:
    """Give who watches: whoever was named, else the flow run's log, else nobody."""
    return _watcher.get() or (LogWatcher() if FlowRunContext.get() is not None else Silent())


def new_run_id(procedure: str) -> str:
    """Give the Prefect flow run's id, so that its retry is the same run, or a fresh one that sorts by time."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        return str(context.flow_run.id)
    return f"{now():%Y%m%dT%H%M%SZ}-{procedure}-{uuid4().hex[:6]}"


def operator() -> str:
    """Give the name of the user at this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@dataclass(frozen=True)
class Job:
    """What a run is for. ``drill`` runs carry their fault; ``ledger`` is where the record goes.

    ``scenario`` names the procedure whose scenario of the plan is answered; empty: this one's own. ``bare``: it may
    begin where the stack itself is not there yet. ``beside``: it puts something beside what is in use and ends no
    outage. ``exclusive``: it holds the platform's lease; one without touches nothing in use, and is never resumed.
    ``counted``: the checks of the checklist that judge it: one that failed makes it ``not recovered``.
    ``covers``: the components the objective is that of, the strictest counting; empty: ``component`` alone.
    """

    plan: Plan
    procedure: str
    component: str
    ledger: Path
    began: datetime | None = None
    began_source: str = "unknown"
    declared: datetime | None = None
    operator: str = ""
    reason: str = ""
    fault: str | None = None
    drill: bool = False
    fresh: bool = False
    run_id: str = ""
    parameters: str = "{}"
    scenario: str = ""
    bare: bool = False
    beside: bool = False
    exclusive: bool = True
    counted: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()

    def rto(self, failed: tuple[str, ...] = ()) -> timedelta:
        """Give the objective: that of the most critical component that failed, or may have."""
        return min(self.plan.rto(one) for one in failed or self.covers or (self.component,))


@dataclass
class Run:
    """One run under way: what a procedure's body adds its checks and losses to; ``failed`` once it knows what did."""

    job: Job
    opened: Stack | None
    journal: Journal
    steps: Steps
    resumed: bool
    checks: list[Check] = field(default_factory=list)
    stores: list[StoreLoss] = field(default_factory=list)
    checklist: tuple[ItemResult, ...] = ()
    backup: BackupUse | None = None
    failed: tuple[str, ...] = ()
    logs: tuple[KeptLog, ...] = ()
    handed_to: str = ""
    state_left: str = ""
    next_step: str = ""

    @property
    def stack(self) -> Stack:
        """The stack; raises PreconditionError while a bare host has none."""
        if self.opened is None:
            self.opened = open_stack(self.job.plan)
        return self.opened

    @property
    def began(self) -> datetime | None:
        return self.journal.header.began

    def mark(self, name: str, when: datetime | None = None) -> None:
        """Note a moment of the outage clock, once: what a killed run had marked stays."""
        if when and name not in self.journal.marks:
            self.journal.mark(name, when)

    def clock(self, closed: datetime | None = None) -> OutageClock:
        header, marks = self.journal.header, self.journal.marks
        return OutageClock(
            began=header.began,
            began_source=header.began_source,
            declared=marks.get("declared"),
            started=marks["started"],
            approved=marks.get("approved"),
            restored=marks.get("restored"),
            closed=closed,
        )

    def record(self, closed: datetime | None = None) -> RecoveryRecord:
        job = self.job
        return RecoveryRecord(
            run_id=self.journal.header.run_id,
            plan=job.plan.name,
            plan_version=job.plan.version,
            recoup_version=recoup.__version__,
            procedure=job.procedure,
            scenario="" if job.beside else job.plan.scenario_for(job.scenario or job.procedure).title,
            component=", ".join(self.failed) or job.component,
            stack=self._fingerprint(),
            beside=job.beside,
            drill=job.drill,
            fault=job.fault,
            operator=job.operator,
            reason=job.reason,
            clock=self.clock(closed),
            rto_objective=job.rto(self.failed),
            stores=tuple(self.stores),
            steps=tuple(self.steps.records.values()),
            checks=tuple(self.checks),
            backup=self.backup,
            checklist=self.checklist,
            logs=self.logs,
            handed_to=self.handed_to,
            state_left=self.state_left,
            next_step=self.next_step,
        )

    def _fingerprint(self) -> str:
        try:
            return self.stack.fingerprint
        except RecoupError:
            if not self.job.bare:
                raise
            return f"{self.job.plan.platform.stack.kind}: none yet"


def conduct(
    job: Job, body: Callable[[Run], None], *, afterwards: Callable[[Run], None] | None = None
) -> RecoveryRecord:
    """Run a procedure's body, under the platform's lease, and give its record, which is in the ledger by then.

    ``afterwards`` looks at the recovered platform before the verdict (a drill counts its lost writes there). Raises
    PreconditionError when the run could not begin, and lets an interruption through, recorded.
    """
    watcher = current_watcher()
    state = job.plan.platform.state
    what = f"{job.procedure if job.beside else f'{job.procedure} recovery'} by {job.operator or 'unknown'}"
    with lease(state, job.plan.platform.name, what) if job.exclusive else nullcontext():
        stack = None if job.bare else open_stack(job.plan)
        journal, resumed = _journal(job, state)
        run = Run(job, stack, journal, Steps(watcher, journal), resumed)
        run.mark("began", job.began)
        run.mark("started", now())
        run.mark("declared", job.declared or _asked_for() or journal.marks["started"])
        # The plan asks nobody's approval for this procedure, so it was approved when it started.
        run.mark("approved", journal.marks["started"])
        watcher.begin(run.record())
        if resumed:
            watcher.note(f"going on with run {journal.header.run_id}, which was killed or interrupted")
        try:
            body(run)
            if afterwards:
                afterwards(run)
        except RecoupError as error:
            record = _end(run, watcher, error)
            if isinstance(error, PreconditionError) and not _acted(run):
                raise
            return record
        except Exception as error:
            _end(run, watcher, _unexpected(error))
            raise
        except BaseException:
            run.state_left = "interrupted; finished steps are kept in the journal"
            run.next_step = "run the same command again: it goes on at the first unfinished step"
            _publish(run, watcher, Verdict.UNPROVEN, "the run was interrupted")
            raise
        return _end(run, watcher, None)


def _asked_for() -> datetime | None:
    """Give the moment a Prefect run was asked for: somebody, or something, declared the outage then."""
    context = FlowRunContext.get()
    return context.flow_run.created if context is not None and context.flow_run is not None else None


def _journal(job: Job, state: Path) -> tuple[Journal, bool]:
    # What was begun longer ago than the outage may last is another outage's, and so is what began before this one.
    oldest = job.rto()
    name = job.plan.platform.name
    found = Journal.unfinished(state, name, job.procedure, job.component, oldest) if job.exclusive else None
    if found and not job.fresh and found.header.parameters == job.parameters and not _later(job, found):
        return found, True
    if found:
        found.close("abandoned")
    run_id = job.run_id or new_run_id(job.procedure)
    # A Prefect retry of a run that ended keeps the flow run's id, and is a run of its own.
    tries = len(list((state / "runs").glob(f"{run_id}*.jsonl")))
    header = RunHeader(
        run_id=f"{run_id}-{tries + 1}" if tries else run_id,
        platform=name,
        procedure=job.procedure,
        component=job.component,
        began=job.began,
        began_source=job.began_source,
        parameters=job.parameters,
    )
    return Journal.create(state, header.run_id, header), False


def _later(job: Job, journal: Journal) -> bool:
    started = journal.marks.get("started")
    return bool(job.began and started and job.began > started)


def _end(run: Run, watcher: Watcher, error: RecoupError | None) -> RecoveryRecord:
    if error is not None:
        run.state_left = error.state or run.state_left
        run.next_step = error.next_step or run.next_step
        record = _publish(run, watcher, Verdict.NOT_RECOVERED, error.what)
    else:
        run.steps.leave_behind()
        # Who is handed to goes through it; until then it would only stir a store that is to be looked at.
        if run.opened is not None and not run.job.beside and not run.handed_to:
            watcher.note("going through the checklist")
            run.checklist = after_recovery(run.job.plan, run.opened)
        counted = tuple(item for item in run.checklist if item.check in run.job.counted)
        steps, checks = tuple(run.steps.records.values()), tuple(run.checks)
        found, why = verdict(steps, checks, run.clock(), beside=run.job.beside, counted=counted)
        if run.handed_to and found is Verdict.UNPROVEN:
            why = f"handed over to {run.handed_to}: the record of that run says whether the platform is back"
        record = _publish(run, watcher, found, why)
    run.journal.close(record.verdict)
    if record.verdict is Verdict.RECOVERED and not run.job.beside:
        _note_healthy(run, watcher)
    return record


def _note_healthy(run: Run, watcher: Watcher) -> None:
    try:
        note_healthy(run.job.plan, run.stack)
    except (RecoupError, OSError) as error:
        # The platform is back and its record written: this is for the next time.
        watcher.note(f"which images are healthy could not be noted: {first_line(error)}")


def _publish(run: Run, watcher: Watcher, found: Verdict, why: str) -> RecoveryRecord:
    record = run.record(now()).model_copy(update={"verdict": found, "why": why})
    if not run.job.beside:
        record = record.model_copy(update={"post_recovery": follow_ups(run.job.plan, record)})
    Ledger(run.job.ledger).append(record)
    publish_record(record)
    if (records := _records.get()) is not None:
        records.append(record)
    watcher.end(record)
    return record


def _acted(run: Run) -> bool:
    return any(
        step.outcome is StepOutcome.DONE and not step.name.rpartition("/")[2].startswith(_LOOKING)
        for step in run.steps.records.values()
    )


def _unexpected(error: Exception) -> RecoveryError:
    return RecoveryError(
        f"unexpected {type(error).__name__}: {error}",
        state="the steps marked done are done; the failed one may be half-way",
        next_step="run the same command again; if it fails the same way, do the last step by hand, report the error",
    )
