"""A drill of Redis: the real procedure on a sandbox whose Redis was really broken, lost writes counted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from prefect import flow
from pydantic import Field

from flows.drill import WRITES_BEFORE, StackKind, note_lost
from flows.procedure import current_watcher
from flows.redis_store import RedisRecovery, run_redis_backup, run_redis_recovery
from recoup.errors import RecoveryError
from recoup.places import drill_ledger
from recoup.plan import Plan, load_plan
from recoup.records import Frozen, RecoveryRecord, now
from recoup.stacks import open_stack
from tasks.redis_fault import RedisCanary, RedisFault, inject
from tasks.redis_replica import Replica, attach_redis_replica
from tasks.redis_server import RedisServer
from tasks.sandbox import create, destroy


class RedisDrill(Frozen):
    """How to break the sandbox's Redis, and on what."""

    fault: RedisFault = Field(RedisFault.WIPE, description="How Redis is broken")
    stack: StackKind = Field(StackKind.PROCESS, description="Child processes, or Docker Compose")
    replica: bool = Field(True, description="Whether a replica follows it")


@flow(name="drill-redis", log_prints=False)
def drill_redis(request: RedisDrill) -> RecoveryRecord:
    """Drill a failure of Redis on a new sandbox and give the record; the sandbox is gone afterwards."""
    with ExitStack() as clean:
        sandbox = create(request.stack.value, redis_replica=request.replica, progress=current_watcher().note)
        clean.callback(destroy, sandbox)
        return _drill(load_plan(sandbox.plan), sandbox.plan, sandbox.id, request, clean)


def _drill(plan: Plan, path: Path, sandbox: str, request: RedisDrill, clean: ExitStack) -> RecoveryRecord:
    stack = open_stack(plan)
    server = RedisServer.of(plan, stack, None)
    if replica := Replica.of(plan, server):
        # What has not reached a replica yet cannot come back from it: the drill begins when it follows.
        attached = attach_redis_replica.fn(replica, False, "")
        if attached.trouble:
            raise RecoveryError(
                f"the sandbox's replica does not follow: {attached.trouble}", state="nothing was broken"
            )
    canary = RedisCanary(server, f"canary-{uuid4().hex[:8]}")
    clean.callback(canary.stop)
    canary.start()
    canary.wait_for(WRITES_BEFORE)
    run_redis_backup(plan, stack)
    canary.wait_for(WRITES_BEFORE)
    current_watcher().note(f"{len(canary.acknowledged)} writes acknowledged; now breaking Redis: {request.fault}")
    began = inject(server, request.fault, sandbox)
    recovery = RedisRecovery(plan=path, began=began, began_source="injected fault", reason=f"drill: {request.fault}")
    return run_redis_recovery(
        plan,
        recovery,
        ledger=drill_ledger(),
        fault=request.fault,
        declared=now(),
        afterwards=lambda run: note_lost(run, canary, run.stores[0].recovery_point),
    )
