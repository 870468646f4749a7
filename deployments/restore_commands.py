"""The commands that restore beside what is in use: recoup restore table and database."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from enum import StrEnum
from typing import Annotated

import typer

from deployments.asking import act
from deployments.options import AsJson, PlanPath, Reason
from deployments.run_commands import recover_database_command
from deployments.screen import open_screen
from flows.database import Source, When
from flows.procedure import watched_by
from flows.restore import ScratchRestore, TableRestore, restore_part, run_scratch_restore
from recoup.records import Verdict
from tasks.postgres_verify import Copy

restore = typer.Typer(
    no_args_is_help=True,
    help="Restore out of a backup set, beside what is in use; without a command: the database.",
)

Component = Annotated[str, typer.Option(help="The postgres component; default: the plan's only one.")]
BackupSetId = Annotated[str, typer.Option("--set", help="'latest' (the newest good set) or the id of one.")]


class Into(StrEnum):
    """Where to restore to."""

    SCRATCH = "scratch"
    PRODUCTION = "production"


@restore.command("table")
def restore_table_command(
    plan: PlanPath,
    table: Annotated[str, typer.Argument(help="The table, as schema.name.")] = "",
    schema: Annotated[str, typer.Option("--schema", help="A whole schema in place of a table.")] = "",
    set_id: BackupSetId = "latest",
    new_name: Annotated[str, typer.Option("--as", help="Its new name; default: <name>_restored_<time>.")] = "",
    component: Component = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Restore one table or schema of a backup set beside the original, which stays as it is; leaves a record.

    Exit codes: 0 it is there and is what was backed up; 1 failed; 2 could not run; 130 interrupted.
    """
    request = TableRestore(
        plan=plan,
        table=table,
        whole_schema=schema,
        backup=set_id,
        new_name=new_name,
        component=component,
        reason=reason,
    )
    act(restore_part, request, as_json=as_json)


@restore.command("database")
def restore_database_command(
    plan: PlanPath,
    set_id: BackupSetId = "latest",
    to: Annotated[
        str, typer.Option(help="By WAL: latest, 2026-11-23T03:12:05Z; just before xid:N or lsn:X/Y. Empty: a dump.")
    ] = "",
    into: Annotated[
        Into, typer.Option(help="scratch: a throwaway server, gone when this command ends; production: recover to it.")
    ] = Into.SCRATCH,
    component: Component = "",
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; with --into production.")] = False,
) -> None:
    """Restore a whole set, or to a moment, into a throwaway server and keep that until Enter or Ctrl-C.

    Into production it is the recovery itself, with its record: recoup recover database --restore always.
    Either leaves a record. Exit codes: 0 it was what was backed up; 1 it was not, or that could not be proven;
    2 could not run.
    """
    if into is Into.PRODUCTION:
        recover_database_command(
            plan,
            component,
            set_id,
            Source.BEST if to else Source.DUMP,
            to or "latest",
            When.ALWAYS,
            reason=reason,
            yes=yes,
        )
        return
    request = ScratchRestore(plan=plan, backup=set_id, to=to, component=component, reason=reason)
    with watched_by(open_screen(json=False)):
        record = run_scratch_restore(request, _show)
    raise typer.Exit(0 if record.verdict is Verdict.RECOVERED else 1)


def _show(copy: Copy) -> None:
    for check in copy.checks:
        typer.echo(f"{check.outcome}: {check.name}: {check.seen}")
    typer.echo(f"connect with: {shlex.join(copy.command)}")
    typer.echo("Enter or Ctrl-C ends the server and removes its data")
    _wait()


def _wait() -> None:
    somebody = sys.stdin.isatty()
    # A terminal that is closed ends it too; started with none, it is kept until it is told to end.
    with contextlib.suppress(KeyboardInterrupt, OSError):
        if not sys.stdin.readline() and not somebody:
            signal.pause()
