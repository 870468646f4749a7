"""A drill: the real database procedure on a sandbox that was really broken, with a canary counting lost writes."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

from prefect import flow
from pydantic import Field

from flows.backup import run_backup
from flows.continuous import run_base_backup
from flows.database import DatabaseRecovery, run_recovery
from flows.procedure import Run, current_watcher
from recoup.catalog import Repository
from recoup.errors import PreconditionError
from recoup.places import drill_ledger
from recoup.plan import Plan, WalPolicy, load_plan
from recoup.records import Frozen, RecoveryRecord, now
from recoup.stacks import Stack, open_stack
from tasks.canary import Canary, Writer, count_lost_writes
from tasks.heartbeat import watching
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject
from tasks.sandbox import create, destroy
from tasks.spoil import Spoil, spoil

WRITES_BEFORE = 20


class StackKind(StrEnum):
    """What the sandbox runs on."""

    PROCESS = "process"
    COMPOSE = "compose"


class Policy(StrEnum):
    """How the sandbox's WAL is received; the values are the plan's own."""

    NONE = "none"
    ASYNC = "async"
    ZERO_LOSS = "zero-loss"


_POLICIES: dict[Policy, WalPolicy | None] = {Policy.NONE: None, Policy.ASYNC: "async", Policy.ZERO_LOSS: "zero-loss"}


class DatabaseDrill(Frozen):
    """How to break the sandbox's database, and on what."""

    fault: Fault = Field(Fault.WIPE, description="How the database is broken")
    stack: StackKind = Field(StackKind.PROCESS, description="Child processes, or Docker Compose")
    spoil: Spoil = Field(
        Spoil.NOTHING, description="What is wrong with the newest backup: a drill that must be able to fail"
    )
    older: bool = Field(True, description="Whether an older good backup exists")
    policy: Policy = Field(
        Policy.NONE, description="How the WAL is received: 'none' recovers from dumps, 'zero-loss' may lose nothing"
    )
    standby: bool = Field(False, description="Whether a warm standby follows that can take over; needs a policy")


@flow(name="drill-database", log_prints=False)
def drill_database(request: DatabaseDrill) -> RecoveryRecord:
    """Drill a database failure on a new sandbox and give the record; the sandbox is gone afterwards."""
    tell = current_watcher().note
    policy = _POLICIES[request.policy]
    if request.standby and policy is None:
        raise PreconditionError(
            "a standby without received WAL cannot be judged", next_step="add --policy async, or zero-loss"
        )
    with ExitStack() as clean:
        sandbox = create(request.stack.value, policy=policy, standby=request.standby, progress=tell)
        clean.callback(destroy, sandbox)
        plan = load_plan(sandbox.plan)
        return _drill(plan, sandbox.plan, sandbox.id, request, clean)


def _drill(plan: Plan, path: Path, sandbox: str, request: DatabaseDrill, clean: ExitStack) -> RecoveryRecord:
    tell, stack = current_watcher().note, open_stack(plan)
    if request.policy is not Policy.NONE:
        run_base_backup(plan, stack, verify=False)
        clean.enter_context(watching(Server.of(plan, stack, None), tell))
    if request.older:
        run_backup(plan, stack, verify=False)
    canary = writing(plan, stack, clean)
    if request.spoil is not Spoil.NOTHING or not request.older:
        run_backup(plan, stack, verify=False)
        canary.wait_for(WRITES_BEFORE)
    spoil(Repository(plan.platform.repository), request.spoil)
    tell(f"{len(canary.acknowledged)} writes acknowledged; now breaking the database: {request.fault}")
    broken = inject(Server.of(plan, stack, None), request.fault, sandbox)
    clean.callback(broken.held.close)
    recovery = DatabaseRecovery(
        plan=path, began=broken.at, began_source="injected fault", reason=f"drill: {request.fault}"
    )
    return run_recovery(
        plan,
        recovery,
        ledger=drill_ledger(),
        fault=request.fault,
        declared=now(),
        afterwards=lambda run: _count(run, canary, request.policy),
    )


def _count(run: Run, canary: Canary, policy: Policy) -> None:
    if run.clock().restored:
        canary.wait_for(1)
    # Where each commit waited for the receiver there is nothing that could excuse a loss.
    note_lost(run, canary, None if policy is Policy.ZERO_LOSS else run.stores[0].recovery_point)


def writing(plan: Plan, stack: Stack, clean: ExitStack) -> Canary:
    """Give a client that writes through the gateway until ``clean`` is left, and has written some already."""
    canary = Canary(plan, stack, f"canary-{uuid4().hex[:8]}")
    clean.callback(canary.stop)
    canary.start()
    canary.wait_for(WRITES_BEFORE)
    return canary


def count_lost(run: Run, canary: Canary) -> None:
    """Count the writes that are gone where no store was restored: nothing excuses a loss."""
    if run.clock().restored:
        canary.wait_for(1)
    note_lost(run, canary, None)


def note_lost(run: Run, canary: Writer, point: datetime | None, at: int = 0) -> None:
    """Count the writes that are gone into the run's store of that place; those after ``point`` are no failure."""
    store, restored = run.stores[at], run.clock().restored
    title, name = "Count the canary's lost writes", f"count-lost-writes-{store.store}" if at else ""
    counted = run.steps.step(title, count_lost_writes, canary, point, restored, name=name, fresh=True)
    run.checks.append(counted.check)
    run.stores[at] = store.model_copy(
        update={"acknowledged_writes": counted.acknowledged, "acknowledged_writes_lost": counted.lost}
    )
