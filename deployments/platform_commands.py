"""recoup recover platform, and its drill."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, agreed, moment
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from flows.database import When
from flows.drill import StackKind
from flows.drill_platform import PlatformDrill, drill_platform
from flows.platform import PlatformRecovery, recover_platform
from flows.platform_preview import preview
from recoup.plan import load_plan
from tasks.platform_fault import PlatformFault


def recover_platform_command(
    plan: PlanPath,
    allow_destroy: Annotated[
        bool, typer.Option("--allow-destroy", help="Let Terraform destroy what is there, where its plan says so.")
    ] = False,
    restore: Annotated[When, typer.Option(help="Restore the stores only if needed, or always.")] = When.IF_NEEDED,
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild the whole platform: provision, deploy, bring configuration and data back, start, prove it.

    Terraform's plan is shown first, and exactly that one applied.
    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = PlatformRecovery(
        plan=plan,
        allow_destroy=allow_destroy,
        restore=restore,
        began=moment(began),
        reason=reason,
        fresh=fresh,
    )
    loaded = load_plan(plan)
    name = loaded.platform.name
    if agreed(name, f"rebuild {name}", lambda: preview(loaded, request), dry_run=dry_run, yes=yes, as_json=as_json):
        act(recover_platform, request, as_json=as_json)


def drill_platform_command(
    fault: Annotated[
        PlatformFault, typer.Option(help="What is gone; backups-too: a copy elsewhere is all there is.")
    ] = PlatformFault.EVERYTHING,
    stack: Annotated[StackKind, typer.Option(help="Child processes, or Docker Compose.")] = StackKind.PROCESS,
    as_json: AsJson = False,
) -> None:
    """Take everything of a sandbox away for real and rebuild it by the real procedure.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    act(drill_platform, PlatformDrill(fault=fault, stack=stack), as_json=as_json)
