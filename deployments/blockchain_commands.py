"""recoup recover blockchain, recoup drill blockchain."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, agreed, moment
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from flows.blockchain import BlockchainRecovery, recover_blockchain
from flows.blockchain_preview import preview
from flows.drill import StackKind
from flows.drill_blockchain import BlockchainDrill, drill_blockchain
from recoup.plan import load_plan
from tasks.chain_fault import ChainFault
from tasks.chain_switch import chains_of


def recover_blockchain_command(
    plan: PlanPath,
    chain: Annotated[
        list[str] | None, typer.Option(help="A chain by its name in the plan, as often as needed; default: all.")
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="Go back to a heavier endpoint that is healthy again, its cool-down over.")
    ] = False,
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Recover the access to chains: probe every endpoint, switch to a healthy one, prove it through the gateway.

    Where no endpoint is healthy nothing is changed.
    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = BlockchainRecovery(
        plan=plan, chains=tuple(chain or ()), back=back, began=moment(began), reason=reason, fresh=fresh
    )
    loaded = load_plan(plan)
    name, chains = loaded.platform.name, ", ".join(chains_of(loaded, request.chains))
    what = f"recover {chains} of {name}"
    if agreed(name, what, lambda: preview(loaded, request), dry_run=dry_run, yes=yes, as_json=as_json):
        act(recover_blockchain, request, as_json=as_json)


def drill_blockchain_command(
    fault: Annotated[
        ChainFault, typer.Option(help="What goes wrong with the sandbox's nodes; all-down: those in reserve, too.")
    ] = ChainFault.SILENT,
    stack: Annotated[StackKind, typer.Option(help="Child processes, or Docker Compose.")] = StackKind.PROCESS,
    as_json: AsJson = False,
) -> None:
    """Make a sandbox's nodes go wrong for real and recover by the real procedure; after all-down nothing can.

    Exit codes: 0 recovered; 1 ran, not recovered or unproven; 2 could not run; 130 interrupted.
    """
    act(drill_blockchain, BlockchainDrill(fault=fault, stack=stack), as_json=as_json)
