"""The commands about backups: recoup backup now, list, verify, prune, copy and fetch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.table import Column, Table

from deployments.options import AsJson, PlanPath
from deployments.orchestrator import run_flow
from deployments.screen import open_screen, table_console
from flows.backup import DatabaseBackup, DatabaseVerification, back_up_database, verify_backup
from flows.configuration import ConfigurationBackup, back_up_configuration
from flows.continuous import BaseRequest, back_up_base
from flows.copies import (
    CopyBackups,
    Pruned,
    copy_backups,
    fetch_set,
    prune_everywhere,
    sets_at,
    wrong_at,
)
from flows.procedure import watched_by
from flows.redis_store import RedisBackup, back_up_redis
from recoup.catalog import BackupSet, Repository, base_series, problems
from recoup.errors import PreconditionError, RecoupError
from recoup.manifest import RedisSnapshot
from recoup.plan import Component, ConfigurationComponent, Plan, PostgresComponent, RedisComponent, load_plan

backup = typer.Typer(no_args_is_help=True, help="Take, list, verify, copy, fetch and prune backup sets.")


class Store(StrEnum):
    """Which kind of store is meant; ``base`` is the physical copy of a database that WAL is replayed on."""

    DATABASE = "database"
    BASE = "base"
    REDIS = "redis"
    CONFIGURATION = "configuration"
    ALL = "all"


StoreOption = Annotated[Store, typer.Option(help="Which stores of the plan.")]
LOGICAL = (Store.DATABASE, Store.ALL)
BASES = (Store.BASE, Store.DATABASE, Store.ALL)
CopyOption = Annotated[str, typer.Option("--at", help="The sets in this copy of the plan; default: those here.")]


@backup.command("now")
def backup_now(
    plan: PlanPath,
    store: StoreOption = Store.ALL,
    component: Annotated[str, typer.Option(help="One component of the plan; default: all that --store means.")] = "",
    verify: Annotated[bool, typer.Option(help="Restore the database's set into a throwaway server at once.")] = True,
    copy: Annotated[bool, typer.Option(help="Bring the plan's copies up to date afterwards.")] = True,
    as_json: AsJson = False,
) -> None:
    """Take a backup of each store and publish it as a set, then copy; one that fails does not stop the others.

    All means every store that the plan backs up; a base backup is taken by --store base alone.

    Exit code 1 or 2 (that of the first failure) when a set or a copy could not be made.
    """
    loaded = load_plan(plan)
    wanted = list(_components(loaded, store, component))
    if not wanted:
        raise PreconditionError(
            f"the plan backs up nothing as {store}",
            next_step="give the component a backup policy, or a continuous one for base backups",
        )
    failures: list[RecoupError] = []
    screen = open_screen(json=as_json)

    def attempt(act: Callable[[], BaseModel], said: str) -> None:
        try:
            made = act()
            typer.echo(made.model_dump_json() if as_json else f"{said}{made}")
        except RecoupError as error:
            failures.append(error)
            typer.echo(f"recoup: {error}", err=True)

    with watched_by(screen):
        for kind, name in wanted:
            attempt(lambda kind=kind, name=name: _back_up(kind, plan, name, verify, screen.note), "published ")  # type: ignore[misc]
        if copy and loaded.platform.copies:
            attempt(lambda: run_flow(copy_backups, CopyBackups(plan=plan), screen.note), "copied\n")
    if failures:
        raise typer.Exit(failures[0].exit_code)


@backup.command("list")
def backup_list(plan: PlanPath, store: StoreOption = Store.ALL, at: CopyOption = "", as_json: AsJson = False) -> None:
    """List the backup sets, newest first."""
    loaded = load_plan(plan)
    series = _series(loaded, store)
    if at:
        _list_copy(loaded, at, series, as_json)
        return
    root = loaded.platform.repository
    sets = [one for name in series for one in Repository(root).sets(name)]
    if as_json:
        for one in sets:
            if one.manifest:
                typer.echo(one.manifest.model_dump_json(exclude={"holds": {"content"}, "files": True}))
        return
    if not sets:
        typer.echo(f"no backup set in {root}; take one: recoup backup now")
        return
    table = _table([one.set_id for one in sets], "recovery point (UTC)", "holds", "MB", "verified", "state")
    for one in sets:
        manifest = one.manifest
        point = f"{manifest.recovery_point.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if manifest else "unknown"
        size = f"{manifest.size / 1e6:.1f}" if manifest else "?"
        state = one.broken or ("published" if manifest else "plain dump, no manifest")
        table.add_row(one.set_id, point, _holds(one), size, _verified(one), state)
    table_console().print(table)


@backup.command("verify")
def backup_verify(
    plan: PlanPath,
    store: StoreOption = Store.ALL,
    at: CopyOption = "",
    restore: Annotated[
        str, typer.Option(metavar="SET", help="Restore this set of the database for a test; 'latest': the newest.")
    ] = "",
) -> None:
    """Compare every set's files with its manifest; those of a copy are fetched and opened for it.

    With --restore one set of the database is restored into a throwaway server and compared: then it counts as verified.
    Exit code 1 when one is not whole, or failed.
    """
    if restore:
        screen = open_screen(json=False)
        with watched_by(screen):
            typer.echo(str(run_flow(verify_backup, DatabaseVerification(plan=plan, set_id=restore), screen.note)))
        return
    loaded = load_plan(plan)
    wrong = 0
    for set_id, found, good in _verdicts(loaded, _series(loaded, store), at):
        wrong += bool(found)
        typer.echo(f"{set_id}: {found or good}")
    raise typer.Exit(1 if wrong else 0)


@backup.command("prune")
def backup_prune(
    plan: PlanPath,
    store: StoreOption = Store.ALL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and why the rest stays.")] = False,
) -> None:
    """Remove what the plan no longer keeps, here and in the copies; never the last whole or proven set.

    With base backups goes the WAL that none of those needs which stay.

    Exit code 1 when something could not be looked at or removed.
    """
    loaded = load_plan(plan)
    failed = False
    for pruned in prune_everywhere(loaded, _series(loaded, store), dry_run=dry_run):
        _tell_pruned(pruned, dry_run)
        failed = failed or bool(pruned.failed)
    raise typer.Exit(1 if failed else 0)


@backup.command("copy")
def backup_copy(plan: PlanPath, as_json: AsJson = False) -> None:
    """Bring every copy of the plan up to date; exit code 1 when one could not be."""
    screen = open_screen(json=as_json)
    with watched_by(screen):
        made = run_flow(copy_backups, CopyBackups(plan=plan), screen.note)
    typer.echo(made.model_dump_json() if as_json else str(made))


@backup.command("fetch")
def backup_fetch(
    plan: PlanPath,
    copy: Annotated[str, typer.Argument(help="The copy's name in the plan.")],
    set_id: Annotated[str, typer.Argument(metavar="SET", help="The set's id, as recoup backup list --at COPY shows.")],
) -> None:
    """Bring one set, and those it needs, from a copy into the repository here, compared with its manifest."""
    typer.echo(f"fetched {fetch_set(load_plan(plan), copy, set_id)}")


def _kind(component: Component, asked: Store) -> Store | None:
    if isinstance(component, PostgresComponent):
        return Store.BASE if asked is Store.BASE else Store.DATABASE
    if isinstance(component, RedisComponent):
        return Store.REDIS
    return Store.CONFIGURATION if isinstance(component, ConfigurationComponent) else None


def _components(plan: Plan, store: Store, name: str) -> Iterator[tuple[Store, str]]:
    """Give the components to back up, those with a policy; one that is named also without."""
    if name:
        kind = _kind(plan.component(name), store)
        if kind is None or store not in (kind, Store.ALL):
            raise PreconditionError(
                f"{name} is not a component that is backed up as {store}",
                next_step="name a postgres, redis or configuration component of the plan",
            )
        yield kind, name
        return
    for known, component in plan.components.items():
        kind = _kind(component, store)
        policy = getattr(component, "continuous" if kind is Store.BASE else "backup", None)
        if kind is not None and store in (kind, Store.ALL) and policy:
            yield kind, known


def _back_up(kind: Store, plan: Path, component: str, verify: bool, tell: Callable[[str], None]) -> BaseModel:
    if kind is Store.DATABASE:
        return run_flow(back_up_database, DatabaseBackup(plan=plan, component=component, verify=verify), tell)
    if kind is Store.BASE:
        return run_flow(back_up_base, BaseRequest(plan=plan, component=component), tell)
    if kind is Store.REDIS:
        return run_flow(back_up_redis, RedisBackup(plan=plan, component=component), tell)
    return run_flow(back_up_configuration, ConfigurationBackup(plan=plan, component=component), tell)


def _series(plan: Plan, store: Store) -> tuple[str, ...]:
    found: list[str] = []
    for component in plan.components.values():
        if not isinstance(component, PostgresComponent | RedisComponent | ConfigurationComponent):
            continue
        if isinstance(component, PostgresComponent):
            found += [component.store] if store in LOGICAL else []
            found += [base_series(component.store)] if store in BASES and component.continuous else []
        elif store in (_kind(component, store), Store.ALL):
            found.append(component.store)
    return tuple(found)


def _list_copy(plan: Plan, at: str, series: tuple[str, ...], as_json: bool) -> None:
    sets = [one for name in series for one in sets_at(plan, at, name)]
    if as_json:
        for one in sets:
            if one.note:
                typer.echo(one.note.model_dump_json(exclude={"files": True}))
        return
    if not sets:
        typer.echo(f"no backup set of this plan in {at}; bring them there: recoup backup copy")
        return
    table = _table([one.set_id for one in sets], "recovery point (UTC)", "sealed", "MB", "verified", "state")
    for one in sets:
        note = one.note
        point = f"{note.recovery_point.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if note else "unknown"
        size, sealed = (f"{note.size / 1e6:.1f}", "yes" if note.sealed else "no") if note else ("?", "?")
        table.add_row(one.set_id, point, sealed, size, "yes" if one.verified else "no", one.broken or "copied")
    table_console().print(table)


def _table(ids: list[str], *columns: str) -> Table:
    # An id is there to be copied: it is never cut off, and the rest folds rather than being left out.
    table = Table(Column("set", no_wrap=True, min_width=max(len(one) for one in ids)), box=None)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _holds(one: BackupSet) -> str:
    holds = one.manifest.holds if one.manifest else None
    if one.dump:
        return f"{one.dump.content.rows:,} rows"
    if isinstance(holds, RedisSnapshot):
        return f"{sum(holds.keys.values()):,} keys"
    return holds.kind if holds else "?"


def _verified(one: BackupSet) -> str:
    if one.verified is None:
        return "no"
    if one.verified.passed:
        return f"{one.verified.at.astimezone(UTC):%Y-%m-%d %H:%M}"
    return "FAILED" if one.verified.failed else "unproven"


def _verdicts(plan: Plan, series: tuple[str, ...], at: str) -> Iterator[tuple[str, str, str]]:
    """Give each set's id, what is wrong with it, and what to say when nothing is."""
    repository = Repository(plan.platform.repository)
    if not at:
        for name in series:
            for one in repository.sets(name):
                yield one.set_id, problems(one), "whole" if one.manifest else "plain dump, nothing to compare with"
        return
    repository.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=repository.root) as scratch:
        for name in series:
            for set_id, found in wrong_at(plan, at, name, Path(scratch)):
                yield set_id, found, "whole"


def _tell_pruned(pruned: Pruned, dry_run: bool) -> None:
    typer.echo(f"{pruned.where}:" + ("" if pruned.decisions or pruned.failed else " no set"))
    for one in pruned.decisions:
        verb = "stays" if one.kept else ("would go" if dry_run else "went")
        typer.echo(f"  {one.set_id} {verb}: {one.reason}")
    for some in pruned.wal:
        verb = "stay" if some.kept else ("would go" if dry_run else "went")
        typer.echo(f"  {some} {verb}: {some.why}")
    for failure in pruned.failed:
        typer.echo(f"  {failure}", err=True)
