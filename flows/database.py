"""Database failure: diagnose, restart, and where that is not enough restore beside, compare, swap, and prove."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.continuous import begin_again, replay
from flows.procedure import Run, conduct
from flows.request import Recovery, require_recovered
from flows.standby import follow_again, receive_anew, take_over
from recoup.catalog import Repository
from recoup.clock import store_loss
from recoup.errors import RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Check, Outcome, RecoveryRecord, Subject
from recoup.target import parse_target
from tasks.copies import CopyPlace
from tasks.postgres import Condition, Diagnosis, Server, crash_safe
from tasks.postgres_choice import ChosenBase, choose_base
from tasks.postgres_compare import check_integrity
from tasks.postgres_diagnosis import diagnose_database, restart_database
from tasks.postgres_replay import Replayed, replay_wal
from tasks.postgres_restore import (
    Chosen,
    choose_backup,
    make_new_server,
    restore_beside,
    swap_databases,
)
from tasks.postgres_standby import Promoted, fence_primary
from tasks.services import restart_services, services_of, start_services, stop_services
from tasks.smoke import UserCheck, check_as_user

USER_DEADLINE = timedelta(seconds=60)
AT_ONCE = timedelta(0)


class When(StrEnum):
    """When to restore from a backup."""

    IF_NEEDED = "if needed"
    ALWAYS = "always"


class Source(StrEnum):
    """What to restore from."""

    BEST = "best"
    STANDBY = "standby"
    CONTINUOUS = "continuous"
    DUMP = "dump"


class DatabaseRecovery(Recovery):
    """What to recover, how far, and what is known of the outage."""

    component: str = Field("", description="The postgres component of the plan; empty: the only one")
    source: Source = Field(
        Source.BEST, description="'best': the standby if there is one, else base backup and WAL, else a dump"
    )
    to: str = Field("latest", description="'latest', or by WAL a time with its zone, xid:N or lsn:X/Y (just before)")
    restore: When = Field(When.IF_NEEDED, description="'always' restores even when the database seems healthy")


@flow(name="recover-database", log_prints=False)
def recover_database(request: DatabaseRecovery) -> RecoveryRecord:
    """Recover the database and give the record; raises RecoveryError when the verdict is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_recovery(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_recovery(
    plan: Plan,
    request: DatabaseRecovery,
    *,
    ledger: Path,
    fault: str | None = None,
    declared: datetime | None = None,
    afterwards: Callable[[Run], None] | None = None,
) -> RecoveryRecord:
    """Run the database procedure and give its record, which is in the ledger."""
    component, _ = plan.postgres(request.component or None)
    parse_target(request.to)
    job = request.job(
        plan,
        "database",
        component,
        ledger,
        same={"component", "backup", "restore", "source", "to"},
        fault=fault,
        declared=declared,
    )
    return conduct(job, lambda run: recover_data(run, request)(), afterwards=afterwards)


def recover_data(run: Run, request: DatabaseRecovery, *, alone: bool = True) -> Callable[[], None]:
    """Bring the data back, prove them, and give what is left to do once users are served.

    Not ``alone``: whoever runs this as a part of more starts the services that depend on it, and sees to the users.
    """
    plan, step = run.job.plan, run.steps.step
    server = Server.of(plan, run.stack, run.job.component)
    repository = Repository(plan.platform.repository)
    copies = tuple(CopyPlace.open(spec, repository.root) for spec in plan.platform.copies)
    dependents = services_of(plan, plan.dependents(run.job.component))
    # What served before, however badly, is not left stopped by a recovery that failed; of a part, others decide that.
    again = dependents if alone else ()

    # Decisions of a killed run hold only once its swap had begun: before that the database may have come back,
    # or a newer backup set may be there.
    anew = not any(run.steps.opened_before(one) for one in (swap_databases, replay_wal, fence_primary))
    # 1 verify the status
    # Where all was lost an empty database had data: without a set it is not started, and nobody is let in.
    known = bool(copies) or not alone
    found = step("Diagnose the database", diagnose_database, server, repository, known, fresh=anew)
    # 2 restart, and wait until it truly answers
    if found.condition not in (Condition.HEALTHY, Condition.DAMAGED) and found.startable:
        starting = found.condition is Condition.STARTING
        found = step("Restart the database", restart_database, server, repository, starting, fresh=anew)
    # 3 if that fails: the standby takes over; else base backup and WAL; else the newest good dump beside, swapped
    used: Chosen | None = None
    replayed: Replayed | Promoted | None = None
    base, why = None, ""
    needed = request.restore is When.ALWAYS or request.to != "latest" or _needs_restore(run, found, anew)
    sound = found.condition is Condition.HEALTHY
    if needed and server.spec.standby:
        replayed, why = _take_over(run, server, repository, request, found, anew)
        if run.steps.opened_before(fence_primary):
            found = found.model_copy(update={"condition": Condition.DOWN, "fenced": True})
    if needed and not replayed:
        base, said = _base(run, server, repository, request, found, copies, anew)
        why = "; ".join(filter(None, (why, said)))
    if isinstance(replayed, Promoted):
        server = server.named(replayed.service)
    elif base:
        step("Stop the dependent services", stop_services, run.stack, dependents)
        replayed = _replay(run, server, repository, base, request.to, again)
    elif needed:
        anew = run.steps.done_before(restore_beside) is None
        used = step(
            "Choose the newest good backup", choose_backup, server, repository, request.backup, copies, fresh=anew
        )
        run.backup = BackupUse(
            set_id=used.set_id, recovery_point=used.recovery_point, skipped=used.skipped, why=f"a dump: {why}"
        )
        _restore(run, server, repository, used, found, dependents, again)
    # 4 start dependents
    if alone:
        step("Start the dependent services", start_services, run.stack, tuple(reversed(dependents)))
    # 5 verify the integrity of the database in use
    compared = used.set_id if used else ""
    integrity = step("Verify the data", check_integrity, server, repository, compared, replayed is not None, fresh=True)
    run.checks.extend(integrity.checks)
    # 6 the user-level check through the gateway
    if alone:
        seen = _as_user(run, dependents)
        run.checks.extend(seen.checks)
        run.mark("restored", seen.restored)
    _count_loss(run, server, used, replayed)
    return lambda: _settle(run, server, repository, replayed, sound=sound)


def _settle(
    run: Run, server: Server, repository: Repository, replayed: Replayed | Promoted | None, *, sound: bool
) -> None:
    """See to what later recoveries need, once users are served: receiver, base backup, standby."""
    if isinstance(replayed, Promoted):
        receive_anew(run, server)
    if replayed:
        begin_again(run, server, repository)
    if server.spec.standby and (replayed or run.steps.opened_before(make_new_server)):
        follow_again(run, server, _suffix(run), sound=sound)
    if not run.next_step and any(check.outcome is not Outcome.PASSED for check in run.checks):
        run.next_step = "see to what the check names; if the data are wrong: recoup recover database --restore always"


def _needs_restore(run: Run, found: Diagnosis, anew: bool) -> bool:
    if found.condition is Condition.HEALTHY:
        return False
    if found.condition is not Condition.DAMAGED or found.unreadable or found.replaced or not found.missing:
        return True
    # A migration may have dropped a table since the backup; restoring would then undo what users did since.
    plan = run.job.plan
    seen = run.steps.step(
        "See whether users are served", check_as_user, plan, run.stack, AT_ONCE, name="check-as-user-before", fresh=anew
    )
    if seen.restored is None:
        return True
    run.checks.append(
        Check(
            name="no table of the last backup is missing",
            subject=Subject.DATA,
            outcome=Outcome.UNPROVEN,
            expected="all its tables",
            seen=f"{', '.join(found.missing)} gone, yet users are served: a migration? Nothing was restored",
        )
    )
    run.next_step = "dropped by mistake: recoup recover database --restore always; on purpose: recoup backup now"
    return False


def _take_over(
    run: Run, server: Server, repository: Repository, request: DatabaseRecovery, found: Diagnosis, anew: bool
) -> tuple[Promoted | None, str]:
    """Give the standby that took over; None, with the reason, where something else is to be restored."""
    if request.source not in (Source.BEST, Source.STANDBY) or request.to != "latest" or request.backup != "latest":
        return None, ""
    if found.missing and not found.replaced:
        why = "what dropped the missing tables was done on the standby too"
    elif found.condition is Condition.HEALTHY and request.source is not Source.STANDBY:
        why = "a database that answers and is restored all the same holds what its standby holds"
    else:
        promoted, why = take_over(run, server, repository, _suffix(run), anew=anew)
        if promoted:
            return promoted, ""
    if request.source is Source.STANDBY:
        fenced = run.steps.opened_before(fence_primary)
        raise RecoveryError(
            f"the standby cannot take over: {why}",
            state=f"{server.service} is stopped and fenced; its data are whole" if fenced else "nothing was changed",
            next_step="recoup recover database --from continuous",
        )
    return None, f"no standby: {why}"


def _base(
    run: Run,
    server: Server,
    repository: Repository,
    request: DatabaseRecovery,
    found: Diagnosis,
    copies: tuple[CopyPlace, ...],
    anew: bool,
) -> tuple[ChosenBase | None, str]:
    """Give the base backup to replay; None, with the reason, where a dump is to be restored."""
    if request.source is Source.DUMP or (request.backup != "latest" and request.source is Source.BEST):
        return None, "asked for"
    why = ""
    if server.spec.continuous is None:
        why = "the plan has no continuous backup"
    elif request.source is Source.BEST and request.to == "latest" and found.missing and not found.replaced:
        why = "the WAL up to the latest moment drops the missing tables again; to before it: --to TIME"
    else:
        chosen = run.steps.step(
            "Choose the base backup to replay", choose_base, server, repository, request.to, copies, fresh=anew
        )
        if chosen.set_id:
            return chosen, chosen.why
        why = chosen.why
    if request.source is Source.CONTINUOUS or request.to != "latest":
        raise RecoveryError(
            f"it cannot be restored to {request.to} by WAL: {why}",
            state="no data was touched",
            next_step="recoup recover database --from dump, if older data will do",
        )
    return None, why


def _replay(
    run: Run, server: Server, repository: Repository, base: ChosenBase, to: str, again: tuple[str, ...]
) -> Replayed:
    try:
        return replay(run, server, repository, base, to, _suffix(run))
    except RecoupError:
        if run.stack.state(server.spec.service).running:
            _start_again(run, again)
        raise


def _restore(
    run: Run,
    server: Server,
    repository: Repository,
    used: Chosen,
    found: Diagnosis,
    dependents: tuple[str, ...],
    again: tuple[str, ...],
) -> None:
    step, suffix = run.steps.step, _suffix(run)
    target, kept = f"{server.spec.database}_restore_{suffix}", f"{server.spec.database}_before_{suffix}"
    anew = not run.steps.opened_before(swap_databases)
    step("Stop the dependent services", stop_services, run.stack, dependents)
    try:
        if found.condition not in (Condition.HEALTHY, Condition.DAMAGED):
            step("Begin with a new data directory", make_new_server, server, suffix, fresh=anew)
        restored = step("Restore beside and compare", restore_beside, server, repository, used.set_id, target)
        run.checks.extend(restored.checks)
        swapped = step("Swap the databases", swap_databases, server, used.set_id, target, kept)
    except RecoupError:
        _start_again(run, again)
        raise
    made = run.steps.done_before(make_new_server)
    run.state_left = "; ".join(
        [
            *([f"old data directory kept at {made.aside}"] if made and made.aside else []),
            *([f"old database kept as {swapped.kept}"] if swapped.kept else []),
        ]
    )


def _start_again(run: Run, dependents: tuple[str, ...]) -> None:
    if not dependents:
        return
    try:
        run.steps.step(
            "Start the dependent services again",
            start_services,
            run.stack,
            tuple(reversed(dependents)),
            name="start-again",
            fresh=True,
        )
    except RecoupError as error:
        run.state_left = f"the dependent services are stopped: {error.what}"


def _as_user(run: Run, dependents: tuple[str, ...]) -> UserCheck:
    plan, step = run.job.plan, run.steps.step
    seen = step(
        "Check as a user, through the gateway", check_as_user, plan, run.stack, timedelta(seconds=15), fresh=True
    )
    if seen.restored is None and dependents:
        # The data are proven by now: what still fails may be a service that holds dead connections.
        step("Restart the dependent services", restart_services, run.stack, tuple(reversed(dependents)))
        seen = step(
            "Check as a user again",
            check_as_user,
            plan,
            run.stack,
            USER_DEADLINE,
            name="check-as-user-again",
            fresh=True,
        )
    return seen


def _count_loss(run: Run, server: Server, used: Chosen | None, replayed: Replayed | Promoted | None) -> None:
    objective = run.job.plan.rpo(server.spec.store)
    if replayed:
        basis, point = "the last commit and heartbeat that were replayed", replayed.recovery_point
    elif used:
        basis = (
            "the snapshot's time, read from the database"
            if used.recovery_point
            else "a plain dump does not say when it was taken"
        )
        point = used.recovery_point
    else:
        safe, basis = crash_safe(server)
        if any(check.subject is Subject.DATA and check.outcome is not Outcome.PASSED for check in run.checks):
            safe, basis = False, "the data are not proven to be those of before"
        point = run.began if safe else None
    run.stores.append(store_loss(server.spec.store, objective, run.began, point, basis))


def _suffix(run: Run) -> str:
    # Derived from the run's first start, so that a resumed run finds its own databases.
    return f"{run.journal.marks['started']:%Y%m%d%H%M%S}"
