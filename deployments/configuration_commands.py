"""recoup recover configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, confirm, moment
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from flows.configuration import ConfigurationRecovery, preview_configuration, recover_configuration
from recoup.plan import load_plan


def recover_configuration_command(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The configuration component; default: the plan's only one.")] = "",
    use: Annotated[str, typer.Option("--backup", help="'latest' or the id of a backup set.")] = "latest",
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bring the configuration back: show how it differs, write what differs, keep the old files beside, prove it.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = ConfigurationRecovery(
        plan=plan, component=component, backup=use, began=moment(began), reason=reason, fresh=fresh
    )
    loaded = load_plan(plan)
    if dry_run or not yes:
        for line in preview_configuration(loaded, component, use):
            typer.echo(line, err=as_json)
    if dry_run:
        return
    if not yes:
        name = loaded.configuration(component or None)[0]
        confirm(loaded.platform.name, f"bring back {name} of {loaded.platform.name}")
    act(recover_configuration, request, as_json=as_json)
