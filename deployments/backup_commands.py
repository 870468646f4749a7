"""The commands about backups: recoup backup now, list and verify."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from deployments.options import AsJson, PlanPath
from deployments.orchestrator import run_flow
from deployments.screen import open_screen
from flows.backup import DatabaseBackup, back_up_database
from flows.procedure import watched_by
from recoup.catalog import Repository, problems
from recoup.plan import load_plan

backup = typer.Typer(no_args_is_help=True, help="Take, list and verify backup sets.")


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
