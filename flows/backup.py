"""Back up the database: see that it can begin, dump and measure one snapshot, publish the set, test its restore."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import current_watcher
from flows.steps import Steps
from recoup.catalog import Repository, base_series, series_of
from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import Plan, load_plan
from recoup.records import Frozen
from recoup.stacks import Stack, open_stack
from tasks.postgres import Server
from tasks.postgres_backup import Taken, check_backup_can_begin, take_database_backup
from tasks.postgres_base_verify import verify_base_backup
from tasks.postgres_verify import Verified, verify_database_backup

LATEST = "latest"


class DatabaseBackup(Frozen):
    """Which database to back up."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the backup")
    component: str = Field("", description="The postgres component of the plan; empty: the only one")
    verify: bool = Field(True, description="Restore the set into a throwaway server at once, and compare")


class DatabaseVerification(Frozen):
    """Which set to prove."""

    plan: Path = Field(description="The plan's YAML file, on the machine that has the repository")
    component: str = Field("", description="The postgres component of the plan; empty: the only one")
    set_id: str = Field(LATEST, description="'latest' (the newest set) or a set's id")


@flow(name="back-up-database", log_prints=False)
def back_up_database(request: DatabaseBackup) -> Taken:
    """Take one backup of the database and give what was published; raises RecoupError when none was, or a bad one."""
    plan = load_plan(request.plan)
    return run_backup(plan, open_stack(plan), request.component, verify=request.verify)


@flow(name="verify-database-backup", log_prints=False)
def verify_backup(request: DatabaseVerification) -> Verified:
    """Restore a set for a test and give what was found; raises RecoveryError when the set failed."""
    plan = load_plan(request.plan)
    return run_verification(plan, open_stack(plan), request.set_id, request.component)


def run_backup(plan: Plan, stack: Stack, component: str = "", *, verify: bool = True) -> Taken:
    """Run the backup's steps on a stack; raises RecoveryError when the published set fails its restore test."""
    server = Server.of(plan, stack, component or None)
    repository = Repository(plan.platform.repository)
    steps = Steps(current_watcher())
    steps.step("See that a backup can begin", check_backup_can_begin, server, repository)
    taken = steps.step("Dump, measure and publish", take_database_backup, server, repository)
    if not verify:
        return taken
    found = _verified(steps, plan, server, repository, taken.set_id)
    return taken.model_copy(update={"tested": str(found)})


def run_verification(plan: Plan, stack: Stack, set_id: str = LATEST, component: str = "") -> Verified:
    """Restore a set for a test and give what was found; raises RecoveryError when the set failed."""
    server = Server.of(plan, stack, component or None)
    repository = Repository(plan.platform.repository)
    if set_id == LATEST:
        sets = repository.sets(server.spec.store)
        if not sets:
            raise PreconditionError(f"there is no backup set in {repository.root}", next_step="recoup backup now")
        set_id = sets[0].set_id
    return _verified(Steps(current_watcher()), plan, server, repository, set_id)


def _verified(steps: Steps, plan: Plan, server: Server, repository: Repository, set_id: str) -> Verified:
    scratch = plan.platform.scratch
    if series_of(set_id) == base_series(server.spec.store):
        found = steps.step("Replay for a test", verify_base_backup, server, repository, set_id, scratch)
    else:
        found = steps.step("Restore for a test", verify_database_backup, server, repository, set_id, scratch)
    require_good(found)
    return found


def require_good(found: Verified) -> None:
    """Raise RecoveryError when a restore test failed."""
    if found.failed:
        raise RecoveryError(
            f"{found.set_id} failed its restore test: "
            + "; ".join(f"{one.name}: {one.seen}" for one in found.failed[:3]),
            state="the set is kept and marked as failed: no recovery takes it by itself; the older ones are untouched",
            next_step="see to what the check names, then run: recoup backup now",
        )
