"""recoup recover service, recoup drill service."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, confirm, moment
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from flows.drill import StackKind
from flows.drill_service import ServiceDrill, drill_service
from flows.service import ServiceRecovery, recover_service
from flows.service_preview import preview
from recoup.plan import load_plan
from tasks.service_fault import ServiceFault
from tasks.service_look import asked_for


def recover_service_command(
    plan: PlanPath,
    service: Annotated[
        list[str] | None, typer.Option(help="A service to recover, as often as needed; default: all that are not well.")
    ] = None,
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Recover services: find the cause, keep the logs, restart, redeploy, roll back, prove it.

    A database or Redis that is the cause is handed over to its own procedure. Exit codes: 0 recovered; 1 ran, not
    recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = ServiceRecovery(plan=plan, services=tuple(service or ()), began=moment(began), reason=reason, fresh=fresh)
    loaded = load_plan(plan)
    if dry_run:
        for line in preview(loaded, request):
            typer.echo(line)
        return
    named = asked_for(loaded, request.services)
    if not yes:
        what = ", ".join(named) or "what is not well"
        confirm(loaded.platform.name, f"recover {what} of {loaded.platform.name}")
    act(recover_service, request, as_json=as_json)


def drill_service_command(
    fault: Annotated[ServiceFault, typer.Option(help="How the sandbox's services are broken.")] = ServiceFault.KILL,
    stack: Annotated[StackKind, typer.Option(help="Child processes, or Docker Compose.")] = StackKind.PROCESS,
    known: Annotated[bool, typer.Option(help="Whether the healthy images had been noted before.")] = True,
    as_json: AsJson = False,
) -> None:
    """Break a sandbox's services for real and recover them by the real procedure.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    act(drill_service, ServiceDrill(fault=fault, stack=stack, known=known), as_json=as_json)
