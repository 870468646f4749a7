"""Redis: its backup, and its recovery: diagnose, restart, and where that is not enough restore, compare and prove."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.database import When
from flows.procedure import Run, Steps, conduct, current_watcher
from flows.request import Recovery, require_recovered
from recoup.catalog import Repository
from recoup.clock import store_loss
from recoup.errors import RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Frozen, Outcome, RecoveryRecord, Subject
from recoup.stacks import Stack, open_stack
from tasks.redis_backup import RedisTaken, check_redis_backup_can_begin, take_redis_backup
from tasks.redis_restore import RedisChosen, choose_redis_backup, find_redis_backup, restore_redis
from tasks.redis_server import Condition, Diagnosis, RedisServer
from tasks.redis_state import check_redis, diagnose_redis, kept_until, look, require_saving, restart_redis
from tasks.services import restart_services, services_of, start_services, stop_services
from tasks.smoke import UserCheck, check_as_user

USER_DEADLINE = timedelta(seconds=60)
# The plan has no scenario of Redis alone: its "service" scenario covers it.
SCENARIO = "service"
_AS_IT_WAS = (Condition.HEALTHY, Condition.CHANGED)


class RedisBackup(Frozen):
    """Which Redis to back up."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the backup")
    component: str = Field("", description="The redis component of the plan; empty: the only one")


class RedisRecovery(Recovery):
    """What to recover, and what is known of the outage."""

    component: str = Field("", description="The redis component of the plan; empty: the only one")
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
        same={"component", "backup", "restore"},
        scenario=SCENARIO,
        fault=fault,
        declared=declared,
    )
    return conduct(job, lambda run: _procedure(run, request), afterwards=afterwards)


def _procedure(run: Run, request: RedisRecovery) -> None:
    plan, step = run.job.plan, run.steps.step
    server = RedisServer.of(plan, run.stack, run.job.component)
    repository = Repository(plan.platform.repository)
    dependents = services_of(plan, plan.dependents(run.job.component))

    # Decisions of a killed run hold only once it had begun to lay the copy down.
    anew = not run.steps.opened_before(restore_redis)
    # 1 verify the status
    found = step("Diagnose Redis", diagnose_redis, server, repository, fresh=anew)
    require_saving(found)
    # 2 restart, and wait until it has loaded its data
    if found.condition in (Condition.DOWN, Condition.LOADING, Condition.REFUSING):
        loading = found.condition is Condition.LOADING
        found = step("Restart Redis", restart_redis, server, repository, loading, fresh=anew)
        require_saving(found)
    # 3 if that fails or the data are gone, restore the newest good backup
    used: RedisChosen | None = None
    if request.restore is When.ALWAYS or found.condition not in _AS_IT_WAS:
        used = _restore(run, server, repository, request, dependents)
    # 4 start dependents
    step("Start the dependent services", start_services, run.stack, tuple(reversed(dependents)))
    # 5 look at the data in use
    seen = step("Verify the data", check_redis, server, repository, used is not None, fresh=True)
    run.checks.extend(seen.checks)
    # 6 the user-level check through the gateway
    user = _as_user(run, dependents)
    run.checks.extend(user.checks)
    run.mark("restored", user.restored)
    _count_loss(run, server, used)
    if any(check.outcome is not Outcome.PASSED for check in run.checks):
        run.next_step = "see to what the check names; if the data are wrong: recoup recover redis --restore always"


def _restore(
    run: Run, server: RedisServer, repository: Repository, request: RedisRecovery, dependents: tuple[str, ...]
) -> RedisChosen:
    step = run.steps.step
    restored = run.steps.done_before(restore_redis) is not None
    used = step(
        "Choose the newest good backup", choose_redis_backup, server, repository, request.backup, fresh=not restored
    )
    run.backup = BackupUse(set_id=used.set_id, recovery_point=used.recovery_point, skipped=used.skipped)
    step("Stop the dependent services", stop_services, run.stack, dependents)
    try:
        # Derived from the run's first start, so that a resumed run puts nothing aside twice.
        label = f"{run.journal.marks['started']:%Y%m%d%H%M%S}"
        done = step("Put the old data aside and restore", restore_redis, server, repository, used.set_id, label)
    except RecoupError:
        # What served before, however badly, is not left stopped by a recovery that failed.
        _start_again(run, dependents)
        raise
    run.checks.extend(done.checks)
    run.state_left = f"old data kept at {done.aside}"
    return used


def _start_again(run: Run, dependents: tuple[str, ...]) -> None:
    services = tuple(reversed(dependents))
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
    if used:
        point, basis = used.recovery_point, "the server's clock before its snapshot, held against the copy's own time"
    elif any(check.subject is Subject.DATA and check.outcome is not Outcome.PASSED for check in run.checks):
        basis = "the data are not proven to be those of before"
    elif run.began is None:
        basis = "when the outage began is not known"
    else:
        point, basis = kept_until(server, run.began)
    run.stores.append(store_loss(server.spec.store, objective, run.began, point, basis))


def preview(plan: Plan, request: RedisRecovery) -> tuple[str, ...]:
    """Look at Redis and give, line by line, what a recovery would do; changes nothing."""
    stack = open_stack(plan)
    server = RedisServer.of(plan, stack, request.component or None)
    repository = Repository(plan.platform.repository)
    dependents = services_of(plan, plan.dependents(server.component))
    found = look(server, repository)
    lines = [f"{server.component} is {found}"]
    require_saving(found)
    if request.restore is When.IF_NEEDED and found.condition in _AS_IT_WAS:
        return (*lines, "nothing would be restored; the data and the gateway would be checked")
    if found.condition in (Condition.DOWN, Condition.LOADING, Condition.REFUSING):
        lines.append(f"restart {server.spec.service}; if it loads its data, nothing is restored. Otherwise:")
    return (*lines, *_plan_of_restore(server, repository, request, found, dependents))


def _plan_of_restore(
    server: RedisServer, repository: Repository, request: RedisRecovery, found: Diagnosis, dependents: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        chosen = find_redis_backup(server, repository, request.backup)
    except RecoveryError as error:
        return (f"not possible: {error.what}",)
    service = shlex.quote(server.spec.service)
    return (
        f"use backup set {chosen}",
        f"stop {', '.join(dependents)}",
        f"stop {service}, put its data aside whole, start it empty and ask how it keeps its data, stop it",
        "lay the copy down as what it reads: dump.rdb, the append-only file, or its first part and the manifest",
        f"start {service}; compare number of keys, when they expire, every key and value with the manifest",
        f"start {', '.join(reversed(dependents))}",
        "make the plan's requests through the gateway",
    )
