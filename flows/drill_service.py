"""A drill of services: the real procedure on a sandbox whose services were really broken, lost writes counted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.backup import run_backup
from flows.drill import StackKind, count_lost, writing
from flows.procedure import current_watcher
from flows.redis_store import run_redis_backup
from flows.service import ServiceRecovery, run_service_recovery
from recoup.places import drill_ledger
from recoup.plan import Plan, load_plan
from recoup.records import Frozen, RecoveryRecord, now
from recoup.stacks import open_stack
from tasks.images import note_healthy
from tasks.sandbox import create, destroy
from tasks.service_fault import ServiceFault, inject


class ServiceDrill(Frozen):
    """How to break the sandbox's services, and on what."""

    fault: ServiceFault = Field(ServiceFault.KILL, description="How services are broken")
    stack: StackKind = Field(StackKind.PROCESS, description="Child processes, or Docker Compose")
    known: bool = Field(True, description="Whether the healthy images had been noted before")


@flow(name="drill-service", log_prints=False)
def drill_service(request: ServiceDrill) -> RecoveryRecord:
    """Drill a service outage on a new sandbox and give the record; the sandbox is gone afterwards."""
    with ExitStack() as clean:
        sandbox = create(request.stack.value, progress=current_watcher().note)
        clean.callback(destroy, sandbox)
        return _drill(load_plan(sandbox.plan), sandbox.plan, sandbox.id, request, clean)


def _drill(plan: Plan, path: Path, sandbox: str, request: ServiceDrill, clean: ExitStack) -> RecoveryRecord:
    tell, stack = current_watcher().note, open_stack(plan)
    # Without a set nothing would tell that the data of a database that was restarted are those of before.
    run_backup(plan, stack, verify=False)
    run_redis_backup(plan, stack)
    if request.known:
        note_healthy(plan, stack)
    canary = writing(plan, stack, clean)
    tell(f"{len(canary.acknowledged)} writes acknowledged; now breaking services: {request.fault}")
    began = inject(plan, stack, request.fault, sandbox)
    recovery = ServiceRecovery(plan=path, began=began, began_source="injected fault", reason=f"drill: {request.fault}")
    return run_service_recovery(
        plan,
        recovery,
        ledger=drill_ledger(),
        fault=request.fault,
        declared=now(),
        afterwards=lambda run: count_lost(run, canary),
    )
