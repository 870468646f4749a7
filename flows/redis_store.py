"""Redis: its backup, and its recovery: diagnose, restart, and where that is not enough restore, compare and prove."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.database import When
from flows.procedure import Run, conduct, current_watcher
from flows.redis_replica import attach_again, detach, from_replica, kept_apart, was_detached
from flows.request import Recovery, require_recovered
from flows.steps import Steps
from recoup.catalog import Repository
from recoup.clock import store_loss
from recoup.errors import RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Frozen, Outcome, RecoveryRecord, Subject
from recoup.stacks import Stack, open_stack
from tasks.copies_fetch import copies_of
from tasks.redis_backup import RedisTaken, check_redis_backup_can_begin, take_redis_backup
from tasks.redis_replica import Detached, Replica
from tasks.redis_restore import RedisChosen, choose_redis_backup, restore_redis
from tasks.redis_server import Condition, RedisServer
from tasks.redis_source import compare_with_replica
from tasks.redis_state import check_redis, diagnose_redis, kept_until, require_saving, restart_redis
from tasks.services import restart_services, services_of, start_services, stop_services
from tasks.smoke import UserCheck, check_as_user

USER_DEADLINE = timedelta(seconds=60)
# The plan has no scenario of Redis alone: its "service" scenario covers it.
SCENARIO = "service"
AS_IT_WAS = (Condition.HEALTHY, Condition.CHANGED)


class RedisSource(StrEnum):
    """Where the data come from: the replica if the primary has lost them, or one of the two in any case."""

    BEST = "best"
    REPLICA = "replica"
    BACKUP = "backup"


class RedisBackup(Frozen):
    """Which Redis to back up."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the backup")
    component: str = Field("", description="The redis component of the plan; empty: the only one")


class RedisRecovery(Recovery):
    """What to recover, and what is known of the outage."""

    component: str = Field("", description="The redis component of the plan; empty: the only one")
    source: RedisSource = Field(
        RedisSource.BEST, description="'best': the replica where the primary has lost its data, else a backup set"
    )
    restore: When = Field(When.IF_NEEDED, description="'always' restores even when Redis seems healthy")


@flow(name="back-up-redis", log_prints=False)
def back_up_redis(request: RedisBackup) -> RedisTaken:
    """Take one backup of Redis and give what was published; raises RecoupError when none was."""
    plan = load_plan(request.plan)
    return run_redis_backup(plan, open_stack(plan), request.component)


def run_redis_backup(plan: Plan, stack: Stack, component: str = "") -> RedisTaken:
    """Run the backup's steps on a stack."""
    server = RedisServer.of(plan, stack, component or None)
    repository = Repository(plan.platform.repository)
    steps = Steps(current_watcher())
    steps.step("See that a backup can begin", check_redis_backup_can_begin, server, repository)
    return steps.step("Snapshot, copy, restore beside, publish", take_redis_backup, server, repository)


@flow(name="recover-redis", log_prints=False)
def recover_redis(request: RedisRecovery) -> RecoveryRecord:
    """Recover Redis and give the record; raises RecoveryError when the verdict is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_redis_recovery(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_redis_recovery(
    plan: Plan,
    request: RedisRecovery,
    *,
    ledger: Path,
    fault: str | None = None,
    declared: datetime | None = None,
    afterwards: Callable[[Run], None] | None = None,
) -> RecoveryRecord:
    """Run the Redis procedure and give its record, which is in the ledger."""
    component, _ = plan.redis(request.component or None)
    job = request.job(
        plan,
        "redis",
        component,
        ledger,
        same={"component", "backup", "source", "restore"},
        scenario=SCENARIO,
        fault=fault,
        declared=declared,
    )
    return conduct(job, lambda run: recover_data(run, request)(), afterwards=afterwards)


def recover_data(run: Run, request: RedisRecovery, *, alone: bool = True) -> Callable[[], None]:
    """Bring the data back, prove them, and give what is left to do once users are served.

    Not ``alone``: whoever runs this as a part of more starts the services that depend on it, and sees to the users.
    """
    plan, step = run.job.plan, run.steps.step
    server = RedisServer.of(plan, run.stack, run.job.component)
    repository = Repository(plan.platform.repository)
    dependents = services_of(plan, plan.dependents(run.job.component))
    # What served before, however badly, is not left stopped by a recovery that failed; of a part, others decide that.
    again = dependents if alone else ()

    # Decisions of a killed run hold only once it had begun to lay the copy down.
    anew = not run.steps.opened_before(restore_redis)
    # 1 verify the status
    found = step("Diagnose Redis", diagnose_redis, server, repository, copies_of(plan), fresh=anew)
    require_saving(found)
    # 2 a replica that follows an emptied primary empties itself: it is detached before anything starts the primary
    replica, always = Replica.of(plan, server), request.restore is When.ALWAYS
    detached: Detached | None = None
    if replica and (always or found.condition not in AS_IT_WAS or was_detached(run)):
        detached = detach(run, replica)
    with kept_apart(detached):
        # 3 restart, and wait until it has loaded its data
        if found.condition in (Condition.DOWN, Condition.LOADING, Condition.REFUSING):
            loading = found.condition is Condition.LOADING
            found = step("Restart Redis", restart_redis, server, repository, loading, fresh=anew)
            require_saving(found)
        # 4 if that fails or the data are gone, restore: the replica's data, or the newest good backup
        used: RedisChosen | None = None
        lost = found.condition not in AS_IT_WAS or _is_behind(run, server, request, detached, anew)
        if always or lost:
            used = _choose(run, server, repository, request, lost, replica, detached)
            _restore(run, server, repository, used, dependents, again)
        # 5 start dependents
        if alone:
            step("Start the dependent services", start_services, run.stack, tuple(reversed(dependents)))
        # 6 look at the data in use
        seen = step("Verify the data", check_redis, server, repository, used is not None, fresh=True)
        run.checks.extend(seen.checks)
        # 7 the user-level check through the gateway
        if alone:
            user = _as_user(run, dependents)
            run.checks.extend(user.checks)
            run.mark("restored", user.restored)
        _count_loss(run, server, used)
    if any(check.outcome is not Outcome.PASSED for check in run.checks):
        run.next_step = "see to what the check names; if the data are wrong: recoup recover redis --restore always"
    # 8 attach the replica again; data of its own that are nowhere else are kept
    covered = used is not None and used.of_replica

    def settle() -> None:
        if replica:
            attach_again(run, replica, keep=not covered, label=_label(run))

    return settle


def _is_behind(run: Run, server: RedisServer, request: RedisRecovery, detached: Detached | None, anew: bool) -> bool:
    """Say whether a primary that came back by itself is older than its replica: it may have snapshots only."""
    if detached is None or request.source is RedisSource.BACKUP or request.backup != "latest":
        return False
    return run.steps.step("Compare with the replica", compare_with_replica, server, detached, fresh=anew).behind


def _choose(
    run: Run,
    server: RedisServer,
    repository: Repository,
    request: RedisRecovery,
    lost: bool,
    replica: Replica | None,
    detached: Detached | None,
) -> RedisChosen:
    why = ""
    if replica and detached:
        if request.source is RedisSource.BACKUP or request.backup != "latest":
            why = "a set was asked for"
        elif request.source is RedisSource.BEST and not lost:
            why = "the primary has not lost its data, and its replica has whatever is wrong with them too"
        else:
            taken = from_replica(run, replica, repository, detached)
            if taken.set_id and taken.recovery_point:
                run.checks.extend(taken.checks)
                run.backup = BackupUse(set_id=taken.set_id, recovery_point=taken.recovery_point, why=taken.why)
                return RedisChosen(set_id=taken.set_id, recovery_point=taken.recovery_point, of_replica=True)
            why = taken.why
    if request.source is RedisSource.REPLICA:
        raise RecoveryError(
            f"the replica cannot be the source: {why or 'the plan has none'}",
            state="no data was touched",
            next_step="recoup recover redis without --from, which takes the newest good set",
        )
    restored = run.steps.done_before(restore_redis) is not None
    title, copies = "Choose the newest good backup", copies_of(run.job.plan)
    used = run.steps.step(title, choose_redis_backup, server, repository, request.backup, copies, fresh=not restored)
    run.backup = BackupUse(set_id=used.set_id, recovery_point=used.recovery_point, skipped=used.skipped, why=why)
    return used


def _restore(
    run: Run,
    server: RedisServer,
    repository: Repository,
    used: RedisChosen,
    dependents: tuple[str, ...],
    again: tuple[str, ...],
) -> None:
    step = run.steps.step
    step("Stop the dependent services", stop_services, run.stack, dependents)
    try:
        done = step("Put the old data aside and restore", restore_redis, server, repository, used.set_id, _label(run))
    except RecoupError:
        _start_again(run, again)
        raise
    run.checks.extend(done.checks)
    run.state_left = f"old data kept at {done.aside}"


def _label(run: Run) -> str:
    # Derived from the run's first start, so that a resumed run puts nothing aside twice.
    return f"{run.journal.marks['started']:%Y%m%d%H%M%S}"


def _start_again(run: Run, dependents: tuple[str, ...]) -> None:
    services = tuple(reversed(dependents))
    if not services:
        return
    try:
        run.steps.step(
            "Start the dependent services again", start_services, run.stack, services, name="start-again", fresh=True
        )
    except RecoupError as error:
        run.state_left = f"the dependent services are stopped: {error.what}"


def _as_user(run: Run, dependents: tuple[str, ...]) -> UserCheck:
    plan, step = run.job.plan, run.steps.step
    title = "Check as a user, through the gateway"
    seen = step(title, check_as_user, plan, run.stack, timedelta(seconds=15), fresh=True)
    if seen.restored is None and dependents:
        # The data are proven by now: what still fails may be a service that holds dead connections.
        step("Restart the dependent services", restart_services, run.stack, tuple(reversed(dependents)))
        name = "check-as-user-again"
        seen = step("Check as a user again", check_as_user, plan, run.stack, USER_DEADLINE, name=name, fresh=True)
    return seen


def _count_loss(run: Run, server: RedisServer, used: RedisChosen | None) -> None:
    objective = run.job.plan.rpo(server.spec.store)
    point: datetime | None = None
    if used and used.of_replica:
        point, basis = used.recovery_point, "the last that the replica is known to have heard from its primary"
    elif used:
        point, basis = used.recovery_point, "the server's clock before its snapshot, held against the copy's own time"
    elif any(check.subject is Subject.DATA and check.outcome is not Outcome.PASSED for check in run.checks):
        basis = "the data are not proven to be those of before"
    elif run.began is None:
        basis = "when the outage began is not known"
    else:
        point, basis = kept_until(server, run.began)
    run.stores.append(store_loss(server.spec.store, objective, run.began, point, basis))
