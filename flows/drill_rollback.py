"""A drill of the rollback: the real procedure on a sandbox to which a version was really released."""

from __future__ import annotations

from contextlib import ExitStack

from prefect import flow
from pydantic import Field

from flows.backup import run_backup
from flows.drill import StackKind, count_lost, writing
from flows.procedure import current_watcher
from flows.rollback import Rollback, run_rollback
from recoup.errors import PreconditionError
from recoup.ledger import Ledger
from recoup.places import drill_ledger
from recoup.plan import Plan, load_plan
from recoup.records import Frozen, RecoveryRecord, now
from recoup.stacks import open_stack
from tasks.release_fault import ReleaseFault, inject
from tasks.sandbox import Sandbox, create, destroy
from tasks.sandbox_release import migrate


class RollbackDrill(Frozen):
    """What is released to the sandbox, and what it runs on."""

    fault: ReleaseFault = Field(ReleaseFault.BAD_RELEASE, description="What is wrong with the release")
    stack: StackKind = Field(StackKind.PROCESS, description="Child processes, or Docker Compose")


@flow(name="drill-rollback", log_prints=False)
def drill_rollback(request: RollbackDrill) -> RecoveryRecord:
    """Drill a rollback on a new sandbox and give the record; the sandbox is gone afterwards.

    Only a bad release is recovered: a version that is no better, or a migration that cannot be undone, must be told,
    and the verdict is ``not recovered``.
    """
    with ExitStack() as clean:
        sandbox = create(request.stack.value, released=True, progress=current_watcher().note)
        clean.callback(destroy, sandbox)
        return _drill(load_plan(sandbox.plan), sandbox, request, clean)


def _drill(plan: Plan, sandbox: Sandbox, request: RollbackDrill, clean: ExitStack) -> RecoveryRecord:
    tell, stack = current_watcher().note, open_stack(plan)
    migrate(plan)
    # The recovery point from before the release.
    run_backup(plan, stack, verify=False)
    canary = writing(plan, stack, clean)
    tell(f"{len(canary.acknowledged)} writes acknowledged; now releasing: {request.fault}")
    began = inject(plan, stack, request.fault, sandbox.id)
    rollback = Rollback(plan=sandbox.plan, began=began, began_source="injected fault", reason=f"drill: {request.fault}")
    try:
        return run_rollback(
            plan,
            rollback,
            ledger=drill_ledger(),
            fault=request.fault,
            declared=now(),
            afterwards=lambda run: count_lost(run, canary),
        )
    except PreconditionError:
        # Refused, as it has to be: of a drill that is a result.
        if not (refused := [one for one in Ledger(drill_ledger()).records() if one.stack == stack.fingerprint]):
            raise
        return refused[-1]
