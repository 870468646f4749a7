"""Back up the database: see that it can begin, dump and measure one snapshot, publish the set."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import Steps, current_watcher
from recoup.catalog import Repository
from recoup.plan import Plan, load_plan
from recoup.records import Frozen
from recoup.stacks import Stack, open_stack
from tasks.postgres import Server
from tasks.postgres_backup import Taken, check_backup_can_begin, take_database_backup


class DatabaseBackup(Frozen):
    """Which database to back up."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the backup")
    component: str = Field("", description="The postgres component of the plan; empty: the only one")


@flow(name="back-up-database", log_prints=False)
def back_up_database(request: DatabaseBackup) -> Taken:
    """Take one backup of the database and give what was published; raises RecoupError when none was."""
    plan = load_plan(request.plan)
    return run_backup(plan, open_stack(plan), request.component)


def run_backup(plan: Plan, stack: Stack, component: str = "") -> Taken:
    """Run the backup's steps on a stack."""
    server = Server.of(plan, stack, component or None)
    repository = Repository(plan.platform.repository)
    steps = Steps(current_watcher())
    steps.step("See that a backup can begin", check_backup_can_begin, server, repository)
    return steps.step("Dump, measure and publish", take_database_backup, server, repository)
