"""Database failure: diagnose, restart, and where that is not enough restore beside, compare, swap, and prove."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.continuous import begin_again, replay
from flows.procedure import Run, conduct
from flows.request import Recovery, require_recovered
from recoup.catalog import Repository
from recoup.clock import store_loss
from recoup.errors import RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Check, Outcome, RecoveryRecord, Subject
from recoup.stacks import open_stack
from recoup.target import parse_target
from tasks.copies import CopyPlace
from tasks.postgres import Condition, Diagnosis, Server, crash_safe
from tasks.postgres_compare import check_integrity
from tasks.postgres_diagnosis import diagnose_database, look, restart_database
from tasks.postgres_load import legacy_command, restore_command
from tasks.postgres_replay import ChosenBase, Replayed, choose_base, find_base, replay_wal
from tasks.postgres_restore import (
    Chosen,
    choose_backup,
    find_backup,
    make_new_server,
    restore_beside,
    swap_databases,
)
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
    CONTINUOUS = "continuous"
    DUMP = "dump"


class DatabaseRecovery(Recovery):
    """What to recover, how far, and what is known of the outage."""

    component: str = Field("", description="The postgres component of the plan; empty: the only one")
    source: Source = Field(
        Source.BEST, description="'best': base backup and WAL where they can be replayed, otherwise a dump"
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
    return conduct(job, lambda run: _procedure(run, request), afterwards=afterwards)


def _procedure(run: Run, request: DatabaseRecovery) -> None:
    plan, step = run.job.plan, run.steps.step
    server = Server.of(plan, run.stack, run.job.component)
    repository = Repository(plan.platform.repository)
    copies = tuple(CopyPlace.open(spec, repository.root) for spec in plan.platform.copies)
    dependents = services_of(plan, plan.dependents(run.job.component))

    # Decisions of a killed run hold only once its swap had begun: before that the database may have come back,
    # or a newer backup set may be there.
    anew = not (run.steps.opened_before(swap_databases) or run.steps.opened_before(replay_wal))
    # 1 verify the status
    found = step("Diagnose the database", diagnose_database, server, repository, bool(copies), fresh=anew)
    # 2 restart, and wait until it truly answers
    if found.condition not in (Condition.HEALTHY, Condition.DAMAGED) and not found.emptied:
        starting = found.condition is Condition.STARTING
        found = step("Restart the database", restart_database, server, repository, starting, fresh=anew)
    # 3 if that fails: base backup and WAL; where that cannot be, the newest good dump beside, compared, swapped
    used: Chosen | None = None
    replayed: Replayed | None = None
    needed = request.restore is When.ALWAYS or request.to != "latest" or _needs_restore(run, found)
    base, why = _base(run, server, repository, request, found, copies, anew) if needed else (None, "")
    if base:
        step("Stop the dependent services", stop_services, run.stack, dependents)
        replayed = _replay(run, server, repository, base, request.to, dependents)
    elif needed:
        anew = run.steps.done_before(restore_beside) is None
        used = step(
            "Choose the newest good backup", choose_backup, server, repository, request.backup, copies, fresh=anew
        )
        run.backup = BackupUse(
            set_id=used.set_id, recovery_point=used.recovery_point, skipped=used.skipped, why=f"a dump: {why}"
        )
        _restore(run, server, repository, used, found, dependents)
    # 4 start dependents
    step("Start the dependent services", start_services, run.stack, tuple(reversed(dependents)))
    # 5 verify the integrity of the database in use
    compared = used.set_id if used else ""
    integrity = step("Verify the data", check_integrity, server, repository, compared, replayed is not None, fresh=True)
    run.checks.extend(integrity.checks)
    # 6 the user-level check through the gateway
    seen = _as_user(run, dependents)
    run.checks.extend(seen.checks)
    run.mark("restored", seen.restored)
    _count_loss(run, server, used, replayed)
    if replayed:
        begin_again(run, server, repository)
    if not run.next_step and any(check.outcome is not Outcome.PASSED for check in run.checks):
        run.next_step = "see to what the check names; if the data are wrong: recoup recover database --restore always"


def _needs_restore(run: Run, found: Diagnosis) -> bool:
    if found.condition is Condition.HEALTHY:
        return False
    if found.condition is not Condition.DAMAGED or found.unreadable or found.replaced or not found.missing:
        return True
    # A migration may have dropped a table since the backup; restoring would then undo what users did since.
    plan = run.job.plan
    seen = run.steps.step(
        "See whether users are served", check_as_user, plan, run.stack, AT_ONCE, name="check-as-user-before"
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
    run: Run, server: Server, repository: Repository, base: ChosenBase, to: str, dependents: tuple[str, ...]
) -> Replayed:
    try:
        return replay(run, server, repository, base, to, _suffix(run))
    except RecoupError:
        if run.stack.state(server.spec.service).running:
            _start_again(run, dependents)
        raise


def _restore(
    run: Run, server: Server, repository: Repository, used: Chosen, found: Diagnosis, dependents: tuple[str, ...]
) -> None:
    step, suffix = run.steps.step, _suffix(run)
    target, kept = f"{server.spec.database}_restore_{suffix}", f"{server.spec.database}_before_{suffix}"
    step("Stop the dependent services", stop_services, run.stack, dependents)
    anew = not run.steps.opened_before(swap_databases)
    try:
        if found.condition not in (Condition.HEALTHY, Condition.DAMAGED):
            step("Begin with a new data directory", make_new_server, server, suffix, fresh=anew)
        restored = step("Restore beside and compare", restore_beside, server, repository, used.set_id, target)
        run.checks.extend(restored.checks)
        swapped = step("Swap the databases", swap_databases, server, used.set_id, target, kept)
    except RecoupError:
        # What served before, however badly, is not left stopped by a recovery that failed.
        _start_again(run, dependents)
        raise
    made = run.steps.done_before(make_new_server)
    run.state_left = "; ".join(
        [
            *([f"old data directory kept at {made.aside}"] if made and made.aside else []),
            *([f"old database kept as {swapped.kept}"] if swapped.kept else []),
        ]
    )


def _start_again(run: Run, dependents: tuple[str, ...]) -> None:
    try:
        run.steps.step(
            "Start the dependent services again",
            start_services,
            run.stack,
            tuple(reversed(dependents)),
            name="start-again",
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


def _count_loss(run: Run, server: Server, used: Chosen | None, replayed: Replayed | None) -> None:
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


def preview(plan: Plan, request: DatabaseRecovery) -> tuple[str, ...]:
    """Look at the database and give, line by line, what a recovery would do; changes nothing."""
    stack = open_stack(plan)
    server = Server.of(plan, stack, request.component or None)
    repository = Repository(plan.platform.repository)
    dependents = services_of(plan, plan.dependents(server.component))
    found = look(server, repository)
    if found.condition is Condition.HEALTHY and request.restore is When.IF_NEEDED:
        return (
            f"{server.component} is {found}",
            "nothing would be restored; the data and the gateway would be checked",
        )
    lines = [f"{server.component} is {found}"]
    if found.condition not in (Condition.HEALTHY, Condition.DAMAGED):
        lines.append(
            f"restart {server.spec.service}; if it answers and its data are whole, nothing is restored. Otherwise:"
        )
    if server.spec.continuous and request.source is not Source.DUMP and request.backup == "latest":
        try:
            base = find_base(server, repository, parse_target(request.to))
        except RecoveryError as error:
            lines.append(f"no replay of WAL: {error.what}")
        else:
            return (
                *lines,
                f"replay the WAL on base backup {base} to {parse_target(request.to)}",
                f"stop {', '.join(dependents)} and {server.spec.service}; move its data aside, whole",
                "unpack, pg_verifybackup, replay, see that all that was received and the last heartbeat are there",
                f"start {server.spec.service}, receive its WAL again, start {', '.join(reversed(dependents))}",
                "read every table; make the plan's requests through the gateway; take a new base backup",
            )
    try:
        chosen = find_backup(server, repository, request.backup)
    except RecoveryError as error:
        return (*lines, f"not possible: {error.what}")
    one = repository.get(server.spec.store, chosen.set_id)
    target = f"{server.spec.database}_restore_<run>"
    return (
        *lines,
        f"use backup set {chosen}",
        f"stop {', '.join(dependents)}",
        shlex.join(legacy_command(target) if chosen.legacy else restore_command(server, one, target)),
        "compare schema, row counts and digests with the manifest",
        f"rename {server.spec.database} to {server.spec.database}_before_<run>, and {target} to {server.spec.database}",
        f"start {', '.join(reversed(dependents))}",
        "read every table; make the plan's requests through the gateway",
    )
