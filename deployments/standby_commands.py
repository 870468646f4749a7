"""The commands about a warm standby: recoup standby status and build."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import confirm
from deployments.options import AsJson, PlanPath, Yes
from deployments.orchestrator import run_flow
from deployments.screen import open_screen
from flows.procedure import watched_by
from flows.standby import StandbyRequest, build_pair, pair
from recoup.plan import load_plan

standby = typer.Typer(no_args_is_help=True, help="Show the warm standby of the database, or build it anew.")

Component = Annotated[str, typer.Option(help="The postgres component; default: the plan's only one.")]


@standby.command("status")
def standby_status(plan: PlanPath, component: Component = "", as_json: AsJson = False) -> None:
    """Say which of the two takes writes, and whether the other one follows.

    Exit codes: 0 the standby could take over; 1 it could not; 2 could not look.
    """
    found = pair(load_plan(plan), component)
    typer.echo(found.model_dump_json() if as_json else str(found))
    raise typer.Exit(0 if found.ready else 1)


@standby.command("build")
def standby_build(
    plan: PlanPath,
    component: Component = "",
    give_up: Annotated[
        str, typer.Option("--give-up", help="The service that loses its place, when both take writes.")
    ] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Have the server that is not in charge follow the other one; its own data are moved aside, whole.

    Exit codes: 0 it follows; 1 it does not; 2 could not run; 130 interrupted.
    """
    loaded = load_plan(plan)
    request = StandbyRequest(plan=plan, component=component, give_up=give_up)
    if not yes:
        which = f"give up {give_up} and build it" if give_up else f"build the standby of {loaded.platform.name}"
        confirm(loaded.platform.name, f"{which} anew")
    screen = open_screen(json=as_json)
    with watched_by(screen):
        built = run_flow(build_pair, request, screen.note)
    typer.echo(built.model_dump_json() if as_json else str(built))
