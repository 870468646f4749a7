"""Rollback: back to the version before, its data kept first, so that the rollback itself can be undone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.parts import part, together
from flows.procedure import Run, conduct
from flows.request import Outage, require_recovered
from recoup.catalog import Repository
from recoup.errors import RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import ConfigurationComponent, Plan, PostgresComponent, RedisComponent, ServiceComponent, load_plan
from recoup.records import Outcome, RecoveryRecord
from recoup.release import release_of
from tasks.configuration import Configuration
from tasks.configuration_backup import take_configuration_backup
from tasks.postgres import Server
from tasks.postgres_backup import check_backup_can_begin, take_database_backup
from tasks.redis_backup import check_redis_backup_can_begin, take_redis_backup
from tasks.redis_server import RedisServer
from tasks.release import (
    Kept,
    build_release,
    check_schema,
    deploy_back,
    deploy_release,
    hold_release,
    migrate_back,
    migrate_down,
    migrate_up,
    remember_version,
    turn_back,
)
from tasks.release_choice import Chosen, choose_version
from tasks.service_data import check_stores
from tasks.smoke import check_as_user

# The scenario of the plan that a bad release is a case of.
SCENARIO = "service"


class Rollback(Outage):
    """The version to go back to, and what is known of the outage."""

    version: str = Field("", description="A version or its tag; empty: the one tagged before what runs now")


@flow(name="rollback", log_prints=False)
def roll_back(request: Rollback) -> RecoveryRecord:
    """Go back to an earlier version and give the record; raises RecoveryError when it is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_rollback(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_rollback(
    plan: Plan,
    request: Rollback,
    *,
    ledger: Path,
    fault: str | None = None,
    declared: datetime | None = None,
    afterwards: Callable[[Run], None] | None = None,
) -> RecoveryRecord:
    """Run the rollback and give its record, which is in the ledger.

    A version that fails its smoke tests is given up: what ran before runs again, and the verdict is ``not recovered``.
    """
    job = request.job(
        plan,
        "rollback",
        "release",
        ledger,
        same={"version"},
        scenario=SCENARIO,
        fault=fault,
        declared=declared,
        covers=tuple(name for name, one in plan.components.items() if isinstance(one, ServiceComponent)),
    )
    return conduct(job, lambda run: _procedure(run, request.version), afterwards=afterwards)


def _procedure(run: Run, version: str) -> None:
    plan, step = run.job.plan, run.steps.step
    # 1 which version, from what runs to which; once what runs is kept, the choice stands
    anew = run.steps.done_before(hold_release) is None
    chosen = step("Choose the version", choose_version, plan, run.stack, version, fresh=anew)
    kept = step("Keep what runs", hold_release, run.stack, chosen.services)
    # 2 every store, so that the rollback can itself be undone
    sets = back_up_all(run)
    run.state_left = f"the data of before it: {', '.join(sets)}" if sets else ""
    # 3 the version's files beside those of what runs, and what is built from them: until here nothing has changed
    step("Build the version", build_release, plan, chosen)
    given_up = run.steps.done_before(turn_back)
    if why := given_up.what if given_up else _change(run, chosen, kept):
        # 7 not good: what ran before, its code and its database
        _return(run, chosen, kept, why)
    # 8 what later recreations are made from
    step("Remember the version", remember_version, plan, chosen.target, chosen.services)
    now_runs = f"{chosen.target} runs from {chosen.target.place}, and the checkout is as it was"
    run.state_left = "; ".join(filter(None, (now_runs, run.state_left)))
    named = plan.platform.version
    run.next_step = f"correct {chosen.running} and release it anew; to undo this: recoup rollback {chosen.running}"
    if named and named != chosen.target.name:
        # A new host would get it.
        run.next_step += f"; the plan's platform.version is {named}: set it to {chosen.target}"


def _change(run: Run, chosen: Chosen, kept: Kept) -> str:
    """Bring database and services to the target; gives why it is no good, nothing when users are served by it."""
    plan, step, settle = run.job.plan, run.steps.step, release_of(run.job.plan).settle
    try:
        # 4 the database back, by the version that has the way down, before older code meets it
        if chosen.down:
            step("Undo migrations", migrate_down, plan, chosen, kept)
        # 5 deploy, then what the target has and the database lacks
        step("Deploy the version", deploy_release, plan, chosen)
        if chosen.pending:
            step("Apply migrations", migrate_up, plan, chosen)
        # 6 as users, and what the stores hold
        user = step("Smoke tests, through the gateway", check_as_user, plan, run.stack, settle, fresh=True)
        if user.restored is None:
            run.checks.extend(user.checks)
            return f"{chosen.target} failed its smoke tests: {user}"
        schema = step("Check the database's migrations", check_schema, plan, chosen.target, fresh=True)
        stores = step("Look at what the stores hold", check_stores, plan, run.stack, run.began, fresh=True)
    except RecoupError as error:
        return f"{chosen.target} could not be brought up: {error.what}"
    run.checks.extend((*user.checks, *schema.checks, *stores.checks))
    run.stores.extend(stores.losses)
    wrong = [check for check in schema.checks if check.outcome is Outcome.FAILED]
    if wrong:
        return f"{wrong[0].name}: {wrong[0].seen}"
    run.mark("restored", user.restored)
    return ""


def _return(run: Run, chosen: Chosen, kept: Kept, why: str) -> None:
    """Bring back what ran before and say so; always raises RecoveryError: the rollback did not recover anything."""
    plan, step, settle = run.job.plan, run.steps.step, release_of(run.job.plan).settle
    step("Give the version up", turn_back, why)
    data = run.state_left
    try:
        step("Bring the database back to what it was", migrate_back, plan, chosen, kept)
        step("Deploy what ran before", deploy_back, plan, chosen, kept)
    except RecoupError as error:
        raise RecoveryError(
            f"{why}; and {chosen.running} could not be brought back: {error.what}",
            state="; ".join(filter(None, (error.state, data))),
            next_step=f"run the same command again, it goes on there; else: recoup rollback {chosen.running}",
        ) from None
    title, name = "Check as a user what ran before", "check-as-user-again"
    user = step(title, check_as_user, plan, run.stack, settle, name=name, fresh=True)
    served = "users are served" if user.restored else f"it fails its own smoke tests, as before or worse: {user}"
    raise RecoveryError(
        why,
        state="; ".join(filter(None, (f"{chosen.running}, which ran before, runs again, and {served}", data))),
        next_step=f"see why {chosen.target} failed: its files are in {chosen.target.place}; or name another version",
    )


def back_up_all(run: Run) -> tuple[str, ...]:
    """Take a set of every store that has a backup policy, all at the same time; gives the sets' ids."""
    bodies = stores_to_back_up(run.job.plan)
    return together(run, bodies, {name: part(run, name) for name in bodies})


def stores_to_back_up(plan: Plan) -> dict[str, Callable[[Run], str]]:
    """Give what backs up each component that has a backup policy."""
    bodies: dict[str, Callable[[Run], str]] = {}
    for name, component in plan.components.items():
        if isinstance(component, PostgresComponent):
            bodies[name] = _database_set
        elif isinstance(component, RedisComponent) and component.backup:
            bodies[name] = _redis_set
        elif isinstance(component, ConfigurationComponent) and component.backup:
            bodies[name] = _configuration_set
    return bodies


def _database_set(run: Run) -> str:
    plan = run.job.plan
    server, repository = Server.of(plan, run.stack, run.job.component), Repository(plan.platform.repository)
    run.steps.step("See that a backup can begin", check_backup_can_begin, server, repository)
    return run.steps.step("Dump, measure and publish", take_database_backup, server, repository).set_id


def _redis_set(run: Run) -> str:
    plan = run.job.plan
    server, repository = RedisServer.of(plan, run.stack, run.job.component), Repository(plan.platform.repository)
    run.steps.step("See that a backup can begin", check_redis_backup_can_begin, server, repository)
    return run.steps.step("Snapshot, copy, restore beside, publish", take_redis_backup, server, repository).set_id


def _configuration_set(run: Run) -> str:
    plan = run.job.plan
    configuration, repository = Configuration.of(plan, run.job.component), Repository(plan.platform.repository)
    return run.steps.step(
        "Read and publish what is deployed", take_configuration_backup, configuration, repository
    ).set_id
