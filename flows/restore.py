"""Restoring out of a backup set beside what is in use: one table, one schema, or a whole database to be looked at.

Each leaves a record, for somebody got at the data; it ends no outage, so it claims no objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import Job, Run, conduct, operator
from flows.request import require_recovered
from recoup.catalog import Repository
from recoup.errors import PreconditionError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Check, Frozen, Outcome, RecoveryRecord, Subject
from recoup.target import parse_target
from tasks.copies_fetch import copies_of
from tasks.postgres import Server
from tasks.postgres_choice import choose_base
from tasks.postgres_replay import restored_server
from tasks.postgres_restore import choose_backup
from tasks.postgres_table import restore_table
from tasks.postgres_verify import Copy, restored_copy
from tasks.step import Watched, watching


class _Beside(Frozen):
    plan: Path = Field(description="The plan's YAML file, on the machine that runs the restore")
    component: str = Field("", description="The postgres component of the plan; empty: the only one")
    backup: str = Field("latest", description="'latest' (the newest good set) or a set's id")
    reason: str = Field("", description="Why, for the record")


class TableRestore(_Beside):
    """Which part of which set to restore beside the original."""

    table: str = Field("", description="The table, with its schema where the name alone is not clear")
    whole_schema: str = Field("", description="A whole schema, in place of a table")
    new_name: str = Field("", description="The name it gets; empty: <name>_restored_<time>")


class ScratchRestore(_Beside):
    """Which set to restore into a throwaway server; ``to``: by WAL, to this moment."""

    to: str = ""


@flow(name="restore-table", log_prints=False)
def restore_part(request: TableRestore) -> RecoveryRecord:
    """Restore a table or schema beside the original and give the record; raises RecoupError when it is not there."""
    plan = load_plan(request.plan)
    record = run_table_restore(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_table_restore(plan: Plan, request: TableRestore, *, ledger: Path) -> RecoveryRecord:
    """Restore a table or schema beside the original and give the record, which is in the ledger."""
    if bool(request.table) == bool(request.whole_schema):
        raise PreconditionError("name one table, or a schema", next_step="recoup restore table public.orders")
    job = _job(plan, request, "restore-table", ledger, exclusive=True)
    return conduct(job, lambda run: _table(run, request))


def run_scratch_restore(request: ScratchRestore, use: Callable[[Copy], None]) -> RecoveryRecord:
    """Restore a set into a throwaway server, let ``use`` have it, and give the record, which is in the ledger.

    It touches nothing that is in use and may be kept for long, so it does not hold the platform.
    """
    plan = load_plan(request.plan)
    parse_target(request.to)
    job = _job(plan, request, "restore-scratch", ledger_path(plan), exclusive=False)

    def body(run: Run) -> None:
        with _scratch(run, request) as copy:
            run.checks.extend(copy.checks)
            use(copy)

    return conduct(job, body)


def _job(plan: Plan, request: _Beside, procedure: str, ledger: Path, *, exclusive: bool) -> Job:
    component, _ = plan.postgres(request.component or None)
    return Job(
        plan=plan,
        procedure=procedure,
        component=component,
        ledger=ledger,
        operator=operator(),
        reason=request.reason,
        parameters=request.model_dump_json(exclude={"plan", "reason"}),
        beside=True,
        exclusive=exclusive,
    )


def _table(run: Run, request: TableRestore) -> None:
    plan, step = run.job.plan, run.steps.step
    server = Server.of(plan, run.stack, run.job.component)
    repository = Repository(plan.platform.repository)
    # 1 a set that is whole
    chosen = step("Choose the newest good backup", choose_backup, server, repository, request.backup, copies_of(plan))
    run.backup = BackupUse(set_id=chosen.set_id, recovery_point=chosen.recovery_point, skipped=chosen.skipped)
    # 2 restored elsewhere, compared, renamed; loaded beside the original, compared again
    done = step(
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
    # The step raises when one of its comparisons fails.
    name, expected = f"{done.target} is what was backed up", f"{done.source} of {done.set_id}"
    run.checks.append(
        Check(name=name, subject=Subject.DATA, outcome=Outcome.PASSED, expected=expected, seen=f"{done.rows:,} rows")
    )
    run.state_left = f"{done.target} is there beside {done.source}, which is untouched"
    by_hand = "".join(f"; left out, to be added by hand if it is wanted: {one}" for one in done.not_kept)
    run.next_step = f"take from {done.target} what is missing, then drop it{by_hand}"


@contextmanager
def _scratch(run: Run, request: ScratchRestore) -> Iterator[Copy]:
    plan, step = run.job.plan, run.steps.step
    server = Server.of(plan, run.stack, run.job.component)
    repository, copies, scratch = Repository(plan.platform.repository), copies_of(plan), plan.platform.scratch
    if request.to:
        target = parse_target(request.to)
        base = step("Choose the base backup to replay", choose_base, server, repository, request.to, copies)
        if not base.set_id:
            raise RecoveryError(
                base.why,
                state="nothing was changed",
                next_step="name another moment, or look at a dump: recoup backup list, recoup restore --set SET",
            )
        run.backup = BackupUse(set_id=base.set_id, recovery_point=base.recovery_point, skipped=base.skipped)
        target = parse_target(base.to or request.to)
        with (
            watching(Watched(run.steps.watcher)),
            restored_server(server, repository, base.set_id, target, scratch) as (beside, checks),
        ):
            yield Copy(beside, server.spec.database, checks)
        return
    chosen = step("Choose the newest good backup", choose_backup, server, repository, request.backup, copies)
    run.backup = BackupUse(set_id=chosen.set_id, recovery_point=chosen.recovery_point, skipped=chosen.skipped)
    one = repository.get(server.spec.store, chosen.set_id)
    with watching(Watched(run.steps.watcher)), restored_copy(server, one, scratch) as copy:
        yield copy
