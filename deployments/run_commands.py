"""The commands that act: recoup recover, drill and backup. The same flows as Prefect runs, with or without a server."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from deployments.options import AsJson, PlanPath
from deployments.orchestrator import run_flow
from deployments.screen import open_screen
from flows.backup import DatabaseBackup, back_up_database
from flows.database import DatabaseRecovery, When, preview, recover_database
from flows.drill import DatabaseDrill, StackKind, drill_database
from flows.procedure import recording, watched_by
from recoup.catalog import Repository, problems
from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import load_plan
from recoup.records import RecoveryRecord, Verdict
from tasks.postgres_fault import Fault
from tasks.spoil import Spoil

recover = typer.Typer(no_args_is_help=True, help="Recover a component by the plan's procedure.")
drill = typer.Typer(no_args_is_help=True, help="Drill a procedure on a sandbox that is really broken.")
backup = typer.Typer(no_args_is_help=True, help="Take, list and verify backup sets.")


@recover.command("database")
def recover_database_command(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The postgres component; default: the plan's only one.")] = "",
    use: Annotated[str, typer.Option("--backup", help="'latest' or the id of a backup set.")] = "latest",
    restore: Annotated[When, typer.Option(help="Restore only if needed, or always.")] = When.IF_NEEDED,
    began: Annotated[str, typer.Option(help="When the outage began, ISO 8601 with zone: 2026-11-23T03:12:05Z.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not go on with a killed run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, and show what would run; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before acting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recover the database: diagnose, restart, restore beside and swap where needed, prove it.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = DatabaseRecovery(
        plan=plan, component=component, backup=use, restore=restore, began=_moment(began), reason=reason, fresh=fresh
    )
    loaded = load_plan(plan)
    if dry_run:
        for line in preview(loaded, request):
            typer.echo(line)
        return
    if not yes:
        _confirm(loaded.platform.name, f"recover {loaded.postgres(component or None)[0]} of {loaded.platform.name}")
    screen = open_screen(json=as_json)
    with watched_by(screen), recording() as records:
        try:
            run_flow(recover_database, request, screen.note)
        except RecoveryError:
            if not records:
                raise
    _leave(records[-1])


@drill.command("database")
def drill_database_command(
    fault: Annotated[Fault, typer.Option(help="How the sandbox's database is broken.")] = Fault.WIPE,
    stack: Annotated[StackKind, typer.Option(help="Child processes, or Docker Compose.")] = StackKind.PROCESS,
    spoil: Annotated[Spoil, typer.Option(help="What is wrong with the newest backup set.")] = Spoil.NOTHING,
    older: Annotated[bool, typer.Option(help="Whether an older good backup set exists.")] = True,
    as_json: AsJson = False,
) -> None:
    """Break a sandbox's database for real and recover it by the real procedure.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = DatabaseDrill(fault=fault, stack=stack, spoil=spoil, older=older)
    screen = open_screen(json=as_json)
    with watched_by(screen), recording() as records:
        try:
            run_flow(drill_database, request, screen.note)
        except RecoveryError:
            if not records:
                raise
    _leave(records[-1])


@backup.command("now")
def backup_now(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The postgres component; default: the plan's only one.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take one backup of the database and publish it as a set."""
    screen = open_screen(json=as_json)
    with watched_by(screen):
        taken = run_flow(back_up_database, DatabaseBackup(plan=plan, component=component), screen.note)
    typer.echo(taken.model_dump_json() if as_json else f"published {taken}")


@backup.command("list")
def backup_list(plan: PlanPath, as_json: AsJson = False) -> None:
    """List the backup sets, newest first."""
    root = load_plan(plan).platform.repository
    sets = Repository(root).sets("database")
    if as_json:
        for one in sets:
            if one.manifest:
                typer.echo(one.manifest.model_dump_json(exclude={"holds": {"content"}, "files": True}))
        return
    if not sets:
        typer.echo(f"no backup set in {root}; take one: recoup backup now")
        return
    # An id is there to be copied: it is never cut off.
    table = Table(Column("set", no_wrap=True, min_width=max(len(one.set_id) for one in sets)))
    for name in ("recovery point (UTC)", "rows", "MB", "state"):
        table.add_column(name)
    for one in sets:
        manifest = one.manifest
        point = f"{manifest.recovery_point.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if manifest else "unknown"
        size = f"{manifest.size / 1e6:.1f}" if manifest else "?"
        state = one.broken or ("published" if manifest else "plain dump, no manifest")
        table.add_row(one.set_id, point, f"{one.dump.content.rows:,}" if one.dump else "?", size, state)
    Console().print(table)


@backup.command("verify")
def backup_verify(plan: PlanPath) -> None:
    """Compare every set's files with its manifest; exit code 1 when one is not whole."""
    wrong = 0
    for one in Repository(load_plan(plan).platform.repository).sets("database"):
        found = problems(one)
        wrong += bool(found)
        typer.echo(f"{one.set_id}: {found or ('whole' if one.manifest else 'plain dump, nothing to compare with')}")
    raise typer.Exit(1 if wrong else 0)


def _leave(record: RecoveryRecord) -> None:
    raise typer.Exit(0 if record.verdict is Verdict.RECOVERED else 1)


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise PreconditionError(f"{text!r} is not a time", next_step="write it as 2026-11-23T03:12:05Z") from None
    if moment.tzinfo is None:
        raise PreconditionError(f"{text} has no time zone", next_step=f"write {text}Z for UTC, or add the offset")
    if moment > datetime.now(UTC):
        raise PreconditionError(f"{text} is in the future: an outage cannot begin after its recovery")
    return moment


def _confirm(name: str, what: str) -> None:
    if not sys.stdin.isatty():
        raise PreconditionError(
            f"to {what} must be confirmed, and there is no terminal to ask at", next_step="add --yes"
        )
    if typer.prompt(f"About to {what}. Type the platform's name to go on").strip() != name:
        raise PreconditionError("that is not the platform's name")
