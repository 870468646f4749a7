"""The commands that act on the database: recoup recover and drill. The flows Prefect runs, with or without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, confirm, moment
from deployments.blockchain_commands import drill_blockchain_command
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from deployments.platform_commands import drill_platform_command
from deployments.rollback_commands import drill_rollback_command
from deployments.service_commands import drill_service_command
from flows.database import DatabaseRecovery, Source, When, recover_database
from flows.database_preview import preview
from flows.drill import DatabaseDrill, Policy, StackKind, drill_database
from flows.drill_redis import RedisDrill, drill_redis
from recoup.plan import load_plan
from tasks.postgres_fault import Fault
from tasks.redis_fault import RedisFault
from tasks.spoil import Spoil

drill = typer.Typer(no_args_is_help=True, help="Drill a procedure on a sandbox that is really broken.")


def recover_database_command(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The postgres component; default: the plan's only one.")] = "",
    use: Annotated[str, typer.Option("--backup", help="'latest' or the id of a backup set.")] = "latest",
    source: Annotated[
        Source, typer.Option("--from", help="best: the standby, else base backup and WAL, else a dump.")
    ] = Source.BEST,
    to: Annotated[
        str, typer.Option(help="latest, or by WAL: 2026-11-23T03:12:05Z; just before xid:N or lsn:X/Y.")
    ] = "latest",
    restore: Annotated[When, typer.Option(help="Restore only if needed, or always.")] = When.IF_NEEDED,
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Recover the database: diagnose, restart, restore beside and swap where needed, prove it.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = DatabaseRecovery(
        plan=plan,
        component=component,
        backup=use,
        source=source,
        to=to,
        restore=restore,
        began=moment(began),
        reason=reason,
        fresh=fresh,
    )
    loaded = load_plan(plan)
    if dry_run:
        for line in preview(loaded, request):
            typer.echo(line)
        return
    if not yes:
        confirm(loaded.platform.name, f"recover {loaded.postgres(component or None)[0]} of {loaded.platform.name}")
    act(recover_database, request, as_json=as_json)


@drill.command("database")
def drill_database_command(
    fault: Annotated[Fault, typer.Option(help="How the sandbox's database is broken.")] = Fault.WIPE,
    stack: Annotated[StackKind, typer.Option(help="Child processes, or Docker Compose.")] = StackKind.PROCESS,
    spoil: Annotated[Spoil, typer.Option(help="What is wrong with the newest backup set.")] = Spoil.NOTHING,
    policy: Annotated[Policy, typer.Option(help="How the WAL is received; none: recover from dumps.")] = Policy.NONE,
    standby: Annotated[bool, typer.Option(help="Whether a warm standby follows; with --policy.")] = False,
    older: Annotated[bool, typer.Option(help="Whether an older good backup set exists.")] = True,
    as_json: AsJson = False,
) -> None:
    """Break a sandbox's database for real and recover it by the real procedure.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = DatabaseDrill(fault=fault, stack=stack, spoil=spoil, older=older, policy=policy, standby=standby)
    act(drill_database, request, as_json=as_json)


@drill.command("redis")
def drill_redis_command(
    fault: Annotated[RedisFault, typer.Option(help="How the sandbox's Redis is broken.")] = RedisFault.WIPE,
    stack: Annotated[StackKind, typer.Option(help="Child processes, or Docker Compose.")] = StackKind.PROCESS,
    replica: Annotated[bool, typer.Option(help="Whether a replica follows it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Break a sandbox's Redis for real and recover it by the real procedure.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    act(drill_redis, RedisDrill(fault=fault, stack=stack, replica=replica), as_json=as_json)


drill.command("service")(drill_service_command)
drill.command("blockchain")(drill_blockchain_command)
drill.command("platform")(drill_platform_command)
drill.command("rollback")(drill_rollback_command)
