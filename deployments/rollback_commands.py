"""recoup rollback, recoup drill rollback."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, agreed, moment
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from flows.drill import StackKind
from flows.drill_rollback import RollbackDrill, drill_rollback
from flows.rollback import Rollback, roll_back
from flows.rollback_preview import preview
from recoup.plan import load_plan
from tasks.release_fault import ReleaseFault


def rollback(
    plan: PlanPath,
    version: Annotated[
        str, typer.Argument(help="A version or its tag; default: the one tagged before what runs now.")
    ] = "",
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier version: back up, build, undo migrations, deploy, prove it; or return to what ran.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = Rollback(plan=plan, version=version, began=moment(began), reason=reason, fresh=fresh)
    loaded = load_plan(plan)
    name = loaded.platform.name
    if agreed(name, f"roll back {name}", lambda: preview(loaded, request), dry_run=dry_run, yes=yes, as_json=as_json):
        act(roll_back, request, as_json=as_json)


def drill_rollback_command(
    fault: Annotated[ReleaseFault, typer.Option(help="What is wrong with the release.")] = ReleaseFault.BAD_RELEASE,
    stack: Annotated[StackKind, typer.Option(help="Child processes, or Docker Compose.")] = StackKind.PROCESS,
    as_json: AsJson = False,
) -> None:
    """Release a version to a sandbox for real and roll it back by the real procedure.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    act(drill_rollback, RollbackDrill(fault=fault, stack=stack), as_json=as_json)
