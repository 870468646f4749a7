"""A drill of chains: the real procedure on a sandbox whose nodes were really made wrong, lost writes counted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.backup import run_backup
from flows.blockchain import BlockchainRecovery, run_blockchain_recovery
from flows.drill import StackKind, count_lost, writing
from flows.procedure import current_watcher
from flows.redis_store import run_redis_backup
from recoup.places import drill_ledger
from recoup.plan import Plan, load_plan
from recoup.records import Frozen, RecoveryRecord, now
from recoup.stacks import open_stack
from tasks.chain_fault import ChainFault, inject
from tasks.sandbox import create, destroy


class BlockchainDrill(Frozen):
    """What goes wrong with the sandbox's nodes, and what it runs on."""

    fault: ChainFault = Field(ChainFault.SILENT, description="What goes wrong with the nodes that are in use")
    stack: StackKind = Field(StackKind.PROCESS, description="Child processes, or Docker Compose")


@flow(name="drill-blockchain", log_prints=False)
def drill_blockchain(request: BlockchainDrill) -> RecoveryRecord:
    """Drill a blockchain node failure on a new sandbox and give the record; the sandbox is gone afterwards."""
    with ExitStack() as clean:
        sandbox = create(request.stack.value, backup_nodes=True, progress=current_watcher().note)
        clean.callback(destroy, sandbox)
        return _drill(load_plan(sandbox.plan), sandbox.plan, sandbox.id, request, clean)


def _drill(plan: Plan, path: Path, sandbox: str, request: BlockchainDrill, clean: ExitStack) -> RecoveryRecord:
    tell, stack = current_watcher().note, open_stack(plan)
    run_backup(plan, stack, verify=False)
    run_redis_backup(plan, stack)
    canary = writing(plan, stack, clean)
    tell(f"{len(canary.acknowledged)} writes acknowledged; now the nodes in use go wrong: {request.fault}")
    began = inject(stack, request.fault, sandbox)
    recovery = BlockchainRecovery(
        plan=path, began=began, began_source="injected fault", reason=f"drill: {request.fault}"
    )
    return run_blockchain_recovery(
        plan,
        recovery,
        ledger=drill_ledger(),
        fault=request.fault,
        declared=now(),
        afterwards=lambda run: count_lost(run, canary),
    )
