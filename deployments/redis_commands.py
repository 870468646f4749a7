"""recoup recover redis."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, confirm, moment
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from flows.database import When
from flows.redis_preview import preview
from flows.redis_store import RedisRecovery, RedisSource, recover_redis
from recoup.plan import load_plan


def recover_redis_command(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The redis component; default: the plan's only one.")] = "",
    use: Annotated[str, typer.Option("--backup", help="'latest' or the id of a backup set.")] = "latest",
    source: Annotated[
        RedisSource,
        typer.Option("--from", help="The replica where the primary lost its data, else a set; or one of them."),
    ] = RedisSource.BEST,
    restore: Annotated[When, typer.Option(help="Restore only if needed, or always.")] = When.IF_NEEDED,
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Recover Redis: diagnose, restart, restore where its data are gone, prove it.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = RedisRecovery(
        plan=plan,
        component=component,
        backup=use,
        source=source,
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
        confirm(loaded.platform.name, f"recover {loaded.redis(component or None)[0]} of {loaded.platform.name}")
    act(recover_redis, request, as_json=as_json)
