"""Restoring out of a backup set beside what is in use: one table, one schema, or a whole database to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import Steps, current_watcher, operator
from recoup.catalog import Repository
from recoup.errors import RecoveryError
from recoup.lease import lease
from recoup.plan import Plan, load_plan
from recoup.records import Frozen
from recoup.stacks import Stack, open_stack
from recoup.target import parse_target
from tasks.copies import CopyPlace
from tasks.postgres import Server
from tasks.postgres_replay import choose_base, restored_server
from tasks.postgres_restore import choose_backup
from tasks.postgres_table import TableRestored, restore_table
from tasks.postgres_verify import Copy, restored_copy
from tasks.step import Watched, watching


class TableRestore(Frozen):
    """Which part of which set to restore beside the original."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the restore")
    table: str = Field("", description="The table, with its schema where the name alone is not clear")
    whole_schema: str = Field("", description="A whole schema, in place of a table")
    backup: str = Field("latest", description="'latest' (the newest good set) or a set's id")
    new_name: str = Field("", description="The name it gets; empty: <name>_restored_<time>")
    component: str = Field("", description="The postgres component of the plan; empty: the only one")


class ScratchRestore(Frozen):
    """Which set to restore into a throwaway server."""

    plan: Path
    backup: str = "latest"
    to: str = ""
    component: str = ""


@flow(name="restore-table", log_prints=False)
def restore_part(request: TableRestore) -> TableRestored:
    """Restore a table or schema beside the original and say what is there; raises RecoupError when nothing is."""
    plan = load_plan(request.plan)
    return run_table_restore(plan, open_stack(plan), request)


def run_table_restore(plan: Plan, stack: Stack, request: TableRestore) -> TableRestored:
    """Run the steps of a table's restore on a stack."""
    server = Server.of(plan, stack, request.component or None)
    repository = Repository(plan.platform.repository)
    copies = _copies(plan, repository)
    what = request.table or request.whole_schema
    with lease(plan.platform.state, plan.platform.name, f"restore of {what} by {operator()}"):
        step = Steps(current_watcher()).step
        # 1 a set that is whole
        chosen = step("Choose the newest good backup", choose_backup, server, repository, request.backup, copies)
        # 2 restored elsewhere, compared, renamed; loaded beside the original, compared again
        return step(
            "Restore beside the original and compare",
            restore_table,
            server,
            repository,
            chosen.set_id,
            request.table,
            request.whole_schema,
            request.new_name,
            plan.platform.scratch,
        )


@contextmanager
def scratch_database(request: ScratchRestore) -> Iterator[Copy]:
    """Give a set restored into a throwaway server, for as long as the block runs."""
    plan = load_plan(request.plan)
    server = Server.of(plan, open_stack(plan), request.component or None)
    repository = Repository(plan.platform.repository)
    watcher = current_watcher()
    if request.to:
        target = parse_target(request.to)
        base = Steps(watcher).step("Choose the base backup to replay", choose_base, server, repository, request.to)
        if not base.set_id:
            raise RecoveryError(f"it cannot be restored to {target}: {base.why}", state="nothing was changed")
        with (
            watching(Watched(watcher)),
            restored_server(server, repository, base.set_id, target, plan.platform.scratch) as (beside, checks),
        ):
            yield Copy(beside, server.spec.database, checks)
        return
    chosen = Steps(watcher).step(
        "Choose the newest good backup", choose_backup, server, repository, request.backup, _copies(plan, repository)
    )
    one = repository.get(server.spec.store, chosen.set_id)
    with watching(Watched(watcher)), restored_copy(server, one, plan.platform.scratch) as copy:
        yield copy


def _copies(plan: Plan, repository: Repository) -> tuple[CopyPlace, ...]:
    return tuple(CopyPlace.open(spec, repository.root) for spec in plan.platform.copies)
