"""A drill of complete infrastructure failure: everything of a sandbox is taken away, the real procedure rebuilds it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from prefect import flow
from pydantic import Field

from flows.backup import run_backup
from flows.configuration import run_configuration_backup
from flows.copies import require_complete, run_copies
from flows.drill import WRITES_BEFORE, StackKind, note_lost
from flows.platform import PlatformRecovery, run_platform_recovery
from flows.procedure import Run, current_watcher
from flows.redis_store import run_redis_backup
from recoup.places import drill_ledger
from recoup.plan import DirectoryCopy, Plan, load_plan
from recoup.records import Frozen, RecoveryRecord, now
from recoup.stacks import open_stack
from tasks.canary import Canary
from tasks.platform_fault import PlatformFault, inject
from tasks.redis_fault import RedisCanary
from tasks.redis_server import RedisServer
from tasks.sandbox import Sandbox, create, destroy


class PlatformDrill(Frozen):
    """What of the sandbox is taken away, and what it runs on."""

    fault: PlatformFault = Field(PlatformFault.EVERYTHING, description="What is gone")
    stack: StackKind = Field(StackKind.PROCESS, description="Child processes, or Docker Compose")


@flow(name="drill-platform", log_prints=False)
def drill_platform(request: PlatformDrill) -> RecoveryRecord:
    """Drill the loss of a whole new sandbox and give the record; the sandbox is gone afterwards."""
    with ExitStack() as clean:
        sandbox = create(request.stack.value, provisioned=True, progress=current_watcher().note)
        clean.callback(destroy, sandbox)
        plan = load_plan(sandbox.plan)
        if request.fault is PlatformFault.BACKUPS_TOO:
            plan = _with_a_copy(plan, sandbox.plan, sandbox.directory / "elsewhere")
        return _drill(plan, sandbox, request, clean)


def _drill(plan: Plan, sandbox: Sandbox, request: PlatformDrill, clean: ExitStack) -> RecoveryRecord:
    tell, stack = current_watcher().note, open_stack(plan)
    mark = f"canary-{uuid4().hex[:8]}"
    # In the order of the stores in the record.
    canaries = (Canary(plan, stack, mark), RedisCanary(RedisServer.of(plan, stack, None), mark))
    _write(canaries, clean)
    run_configuration_backup(plan)
    run_redis_backup(plan, stack)
    run_backup(plan, stack, verify=False)
    if plan.platform.copies:
        require_complete(run_copies(plan))
    for canary in canaries:
        canary.wait_for(WRITES_BEFORE)
    tell(f"{sum(len(one.acknowledged) for one in canaries)} writes acknowledged; now taking everything away")
    began = inject(plan, stack, request.fault, sandbox.id)
    recovery = PlatformRecovery(
        plan=sandbox.plan, began=began, began_source="injected fault", reason=f"drill: {request.fault}"
    )
    return run_platform_recovery(
        plan,
        recovery,
        ledger=drill_ledger(),
        fault=request.fault,
        declared=now(),
        afterwards=lambda run: _count(run, canaries),
    )


def _write(canaries: tuple[Canary, RedisCanary], clean: ExitStack) -> None:
    for canary in canaries:
        clean.callback(canary.stop)
        canary.start()
        canary.wait_for(WRITES_BEFORE)


def _count(run: Run, canaries: tuple[Canary, RedisCanary]) -> None:
    if run.clock().restored:
        # That of Redis ends with what it writes to; this one writes on through the gateway.
        canaries[0].wait_for(1)
    for at, canary in enumerate(canaries):
        note_lost(run, canary, run.stores[at].recovery_point, at)


def _with_a_copy(plan: Plan, path: Path, place: Path) -> Plan:
    place.mkdir()
    copies = (DirectoryCopy(name="elsewhere", path=place),)
    changed = plan.model_copy(update={"platform": plan.platform.model_copy(update={"copies": copies})})
    path.write_text(changed.dump_yaml(), encoding="utf-8")
    return changed
