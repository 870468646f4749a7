"""recoup recover configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import confirm
from deployments.options import AsJson, PlanPath
from deployments.orchestrator import run_flow
from deployments.screen import open_screen
from flows.configuration import (
    ConfigurationRestore,
    preview_configuration,
    restore_configuration,
)
from flows.procedure import watched_by
from recoup.plan import load_plan


def recover_configuration_command(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The configuration component; default: the plan's only one.")] = "",
    use: Annotated[str, typer.Option("--backup", help="'latest' or the id of a backup set.")] = "latest",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference only; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before acting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the configuration back: show how it differs, write what differs, keep the old files beside.

    Exit codes: 0 as in the set; 1 ran, and it is not; 2 could not run; 130 interrupted.
    """
    loaded = load_plan(plan)
    if dry_run or not yes:
        for line in preview_configuration(loaded, component, use):
            typer.echo(line, err=as_json)
    if dry_run:
        return
    if not yes:
        name = loaded.configuration(component or None)[0]
        confirm(loaded.platform.name, f"bring back {name} of {loaded.platform.name}")
    screen = open_screen(json=as_json)
    with watched_by(screen):
        request = ConfigurationRestore(plan=plan, component=component, backup=use)
        restored = run_flow(restore_configuration, request, screen.note)
    typer.echo(restored.model_dump_json() if as_json else f"brought back from {restored.set_id}: {restored}")
